"""`avictl config rollout`, and the options of `avictl config apply --rollout`: versions that come in batches."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.exits import REMOTE
from avinet.cli.node import Node, with_query
from avinet.cli.shown import ago, emit, escaped, fields, moment, one_line, table
from avinet.ids import parse_id
from avinet.units import format_seconds, parse_seconds
from avinet.wire.message import convert
from avinet.wire.rollout import Promotion, Rollout, RolloutList, RolloutPlan

WAIT_S = 20
PAUSE_S = 0.5
_DEFAULT = RolloutPlan()


def plan_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a plan; the verb is given `plan`, None without --rollout."""
    shown = ",".join(_DEFAULT.batches)
    options = [
        click.option("--rollout", is_flag=True, help="Let the new version come in batches."),
        click.option("--batch", "batches", help=f"How many have it after each batch (default {shown})."),
        click.option("--batch-size", type=click.IntRange(1), help="How many each batch has, in place of --batch."),
        click.option("--pause", is_flag=True, default=None, help="Pause after each batch, until it is resumed."),
        click.option("--observe", help=f"How long a batch is to be well before the next ({_s(_DEFAULT.observe_s)})."),
        click.option("--deadline", help=f"How long one may take to acknowledge ({_s(_DEFAULT.deadline_s)})."),
        click.option("--lost", help=f"How long a tunnel may be gone ({_s(_DEFAULT.lost_s)})."),
        click.option(
            "--errors", type=float, help=f"How many % more may fail than before ({_DEFAULT.errors_percent:g})."
        ),
        click.option("--requests", type=click.IntRange(1), help=f"... of so many or more ({_DEFAULT.least_requests})."),
        click.option("--max-failed", type=click.IntRange(0), help="How many may be not well (default 0)."),
        click.option(
            "--auto-rollback/--no-auto-rollback",
            default=None,
            help="Whether it is taken back when it is stopped (it is).",
        ),
    ]

    @functools.wraps(verb)
    def wrapped(
        *arguments: Any,
        rollout: bool,
        batches: str | None,
        batch_size: int | None,
        pause: bool | None,
        observe: str | None,
        deadline: str | None,
        lost: str | None,
        errors: float | None,
        requests: int | None,
        max_failed: int | None,
        auto_rollback: bool | None,
        **others: Any,
    ) -> Any:
        given = {
            "batches": None if batches is None else [each.strip() for each in batches.split(",")],
            "batch_size": batch_size,
            "pause": pause,
            "observe_s": None if observe is None else parse_seconds(observe),
            "deadline_s": None if deadline is None else parse_seconds(deadline),
            "lost_s": None if lost is None else parse_seconds(lost),
            "errors_percent": errors,
            "least_requests": requests,
            "max_failed": max_failed,
            "auto_rollback": auto_rollback,
        }
        said = {name: value for name, value in given.items() if value is not None}
        if said and not rollout:
            raise click.UsageError("say --rollout too: these are options of a roll-out")
        if batches and batch_size:
            raise click.UsageError("say --batch or --batch-size, not both")
        plan = convert(said, RolloutPlan, "the plan of the roll-out") if rollout else None
        return verb(*arguments, plan=plan, **others)

    return functools.reduce(lambda made, option: option(made), reversed(options), wrapped)


def _s(seconds: float) -> str:
    return format_seconds(seconds)


def summary(found: Rollout) -> str:
    """A roll-out in a line."""
    text = (
        f"version {found.version}: {found.state}, batch {found.batch} of {found.batches}, "
        f"{found.opened} of {found.targets} service engines"
    )
    notes = [f"{count} {what}" for what, count in (("failed", found.failed), ("away", found.waiting)) if count]
    return f"{text} ({', '.join(notes)})" if notes else text


def under_way(found: list[Rollout]) -> list[str]:
    """Lines that say that documents are being rolled out."""
    return [
        one_line(escaped(f"{each.name}: {summary(each)}; see avictl config rollout show {each.name}")) for each in found
    ]


# what happens, line by line


def changes(old: Rollout | None, new: Rollout) -> Iterator[str]:
    """What is new in `new`, in lines."""
    if old is not None and old.version != new.version:
        yield f"version {new.version} takes its place, by {new.author}"
    if old is None or (old.version, old.batch) != (new.version, new.batch):
        if new.batch:
            yield f"batch {new.batch} of {new.batches}: {new.opened} of {new.targets} service engines"
        old = None
    known = {each.id for each in old.failures} if old else set()
    for each in new.failures:
        if each.id not in known:
            yield f"not well: {each.id}: {each.why}"
    if new.state != "running":
        if old is None or old.state != new.state:
            yield _ending(new)
    elif old is None or _course(old) != _course(new):
        yield from _progress(new)


def _course(found: Rollout) -> tuple[object, ...]:
    return found.state, found.phase, found.well, found.pending, found.waiting, found.failed


def _progress(found: Rollout) -> Iterator[str]:
    if found.phase == "observing":
        yield f"{found.well} are well{_away(found)}; observed for {_s(found.plan.observe_s)}"
    elif found.phase == "applying" and found.well + found.pending:
        yield f"{found.well} are well, {found.pending} to come{_away(found)}"
    elif found.phase == "passed":
        yield f"{found.well} are well{_away(found)}"


def _away(found: Rollout) -> str:
    return f", {found.waiting} are away" if found.waiting else ""


def _ending(found: Rollout) -> str:
    why = f": {found.why}" if found.why else ""
    match found.state:
        case "finished":
            return f"finished: {found.well} of {found.targets} service engines are well{_away(found)}"
        case "rolled-back":
            return f"rolled back{why}"
        case "paused":
            return f"paused by {found.by}{why}; avictl config rollout resume {found.name}"
        case "stopped":
            return f"stopped{why}; avictl config rollout abort {found.name} takes it back"
        case state:
            return f"{state}{why}"


def follow(context: Context, name: str) -> int:
    """Show a roll-out as it goes, until it has an end or is stopped; Ctrl-C leaves it running."""
    seen: Rollout | None = None
    for found in _states(context.node, name):
        if context.output == "table":
            for line in changes(seen, found):
                print(one_line(escaped(f"{name}: {line}")), flush=True)
        seen = found
    assert seen is not None
    if context.output != "table":
        emit(seen, context.output)
    return 0 if seen.state == "finished" else REMOTE


def _states(node: Node, name: str) -> Iterator[Rollout]:
    """The states of a roll-out as they come, up to the last."""
    wait_s = int(min(WAIT_S, node.timeout_s / 2)) if node.timeout_s else WAIT_S
    tag = ""
    while True:
        target = with_query(_place(name), seen=tag, wait_s=str(wait_s) if tag and wait_s else "")
        found = node.ask("GET", target, Rollout, timeout_s=wait_s + 40)
        if found.tag != tag:
            yield found
        elif not wait_s:
            time.sleep(PAUSE_S)
        if found.state not in ("running", "paused"):
            return
        tag = found.tag


def _place(name: str) -> str:
    return f"/v1/rollouts/{parse_id(name, 'name')}"


# verbs


@click.group("rollout")
def rollout_group() -> None:
    """Documents that are being rolled out: list, show, follow, pause, resume, promote, abort."""


@rollout_group.command("list")
@pass_context
def list_(context: Context) -> None:
    """The last roll-out of each document, those under way first."""
    found = context.node.ask("GET", "/v1/rollouts", RolloutList)
    if context.output != "table":
        emit(found, context.output)
        return
    table(
        ["DOCUMENT", "VERSION", "STATE", "BATCH", "HAVE IT", "WELL", "AWAY", "FAILED", "BY", "SINCE"],
        [
            (
                each.name,
                each.version,
                each.state,
                f"{each.batch} of {each.batches}",
                f"{each.opened} of {each.targets}",
                each.well,
                each.waiting or "",
                each.failed or "",
                each.by,
                moment(each.changed),
            )
            for each in found.items
        ],
    )


@rollout_group.command()
@click.argument("name")
@pass_context
def show(context: Context, name: str) -> None:
    """The last roll-out of a document, and who is not well with it."""
    _show(context, context.node.ask("GET", _place(name), Rollout))


def _show(context: Context, found: Rollout) -> None:
    if context.output != "table":
        emit(found, context.output)
        return
    plan = found.plan
    phase = f", {found.phase}" if found.phase else ""
    sizes = f"{plan.batch_size} each" if plan.batch_size else ", ".join(plan.batches)
    fields(
        [
            ("document", f"{found.name}, version {found.version}, after {found.former or 'none'}"),
            ("state", f"{found.state}{phase}, by {found.by}, {ago(found.changed)}"),
            ("why", found.why),
            ("begun", f"{moment(found.started)} by {found.author}"),
            ("batch", f"{found.batch} of {found.batches} ({sizes}{', a pause after each' if plan.pause else ''})"),
            ("have it", f"{found.opened} of {found.targets} service engines"),
            ("of these", f"{found.well} well, {found.pending} to come, {found.waiting} away, {found.failed} not well"),
            (
                "stops",
                f"when more than {plan.max_failed} are not well"
                + (", and is taken back" if plan.auto_rollback else ", and stays as it is"),
            ),
            (
                "not well",
                f"refused; not acknowledged in {_s(plan.deadline_s)}; no tunnel for {_s(plan.lost_s)}; "
                f"servers down; {plan.errors_percent:g} % more failures of {plan.least_requests} requests",
            ),
            ("observed", f"each batch, for {_s(plan.observe_s)}"),
        ]
    )
    for each in found.failures:
        print(one_line(escaped(f"{each.id}  {each.why}")))


@rollout_group.command("follow")
@click.argument("name")
@pass_context
def follow_(context: Context, name: str) -> int:
    """Show a roll-out as it goes; ends with 7 when it is stopped or taken back."""
    return follow(context, name)


def _do(context: Context, name: str, what: str, body: Any = None) -> None:
    found = context.node.ask("POST", f"{_place(name)}/{what}", Rollout, body)
    if context.output != "table":
        emit(found, context.output)
    else:
        print(one_line(escaped(f"{found.name}: {summary(found)}")))


@rollout_group.command()
@click.argument("name")
@pass_context
def pause(context: Context, name: str) -> None:
    """Open no more batches; what is not well stops it all the same."""
    _do(context, name, "pause")


@rollout_group.command()
@click.argument("name")
@pass_context
def resume(context: Context, name: str) -> None:
    """Go on after a pause, or after a stop: whoever was not well then counts no more."""
    _do(context, name, "resume")


@rollout_group.command()
@click.argument("name")
@click.option("--all", "everybody", is_flag=True, help="Open all batches that are left.")
@pass_context
def promote(context: Context, name: str, everybody: bool) -> None:
    """Open the next batch now, without waiting for those that have it."""
    _do(context, name, "promote", Promotion(all=everybody))


@rollout_group.command()
@click.argument("name")
@pass_context
def abort(context: Context, name: str) -> None:
    """Take it back: all have the version of before again, as a new one."""
    _do(context, name, "abort")
