"""`avictl run`: a command on service engines; `avictl jobs`: what was run, by whom, and what became of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.exits import REMOTE
from avinet.cli.node import Node, with_query
from avinet.cli.se import place
from avinet.cli.shown import emit, escaped, moment, one_line, table, write
from avinet.errors import NotFound, PeerError
from avinet.ids import parse_id
from avinet.units import format_seconds
from avinet.wire.command import CommandResult
from avinet.wire.fleet import CommandRun
from avinet.wire.jobs import Job, JobList, JobOrder, JobResult, JobResults

WAIT_S = 20
PAUSE_S = 0.5


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[ID[,ID...]] COMMAND [ARGUMENTS]...")
@click.option("--label", "-l", "selector", help="Run it on all that match, such as site=paris,room!=2.")
@click.option("--at-once", type=click.IntRange(1, 500), default=20, show_default=True, help="On how many at a time.")
@click.option("--batch", type=click.IntRange(1), help="How many must have ended before the next ones begin.")
@click.option("--failures", type=click.IntRange(0), help="Begin no more once more than so many have failed.")
@click.option("--detach", is_flag=True, help="Do not wait: print the job's id.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 600, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds to wait for its end on each.",
)
@pass_context
def run(
    context: Context,
    words: tuple[str, ...],
    selector: str | None,
    at_once: int,
    batch: int | None,
    failures: int | None,
    detach: bool,
    timeout: float,
) -> int:
    """Run COMMAND on one service engine, on several, or with --label on all that match: ping, status, help, ...

    With several, each line is that of one service engine, as they end; avictl jobs show has the rest.
    """
    if selector is not None and not selector.strip(" ,"):
        raise click.UsageError("the label expression is empty: say which service engines")
    ids = [] if selector else [parse_id(each) for each in words[0].split(",")]
    rest = words if selector else words[1:]
    if not rest:
        raise click.UsageError("say which command; help lists them")
    command, arguments = rest[0], list(rest[1:])
    if len(ids) == 1 and not detach:
        return _run_one(context, ids[0], CommandRun(command=command, arguments=arguments, timeout_s=timeout))
    order = JobOrder(
        command=command,
        arguments=arguments,
        ids=ids,
        selector=selector or "",
        at_once=at_once,
        batch=batch or 0,
        failures=failures,
        timeout_s=timeout,
    )
    job = context.node.ask("POST", "/v1/jobs", Job, order)
    if not detach and sys.stderr.isatty():
        print(f"job {job.id}: Ctrl-C leaves it running, avictl jobs cancel ends it", file=sys.stderr)
    if detach:
        if context.output == "table":
            print(job.id)
        else:
            emit(job, context.output)
        return 0
    return _follow(context, job)


def _run_one(context: Context, id: str, order: CommandRun) -> int:
    timeout_s = order.timeout_s + 10
    result = context.node.ask("POST", f"{place(id)}/commands", CommandResult, order, timeout_s=timeout_s)
    if context.output == "table":
        write(result.output, sys.stdout)
        write(result.error, sys.stderr)
    else:
        emit(result, context.output)
    return REMOTE if result.exit_status else 0


def _pages(node: Node, id: str, *, wait: bool) -> Iterator[JobResults]:
    """A job and its results, in pages, until it has ended; the last page has none."""
    after, wait_s = 0, int(min(WAIT_S, node.timeout_s / 2)) if node.timeout_s else WAIT_S
    while True:
        target = with_query(f"/v1/jobs/{id}", after=str(after), wait_s=str(wait_s) if wait else "")
        found = node.ask("GET", target, JobResults, timeout_s=wait_s + 40)
        for each in found.items:
            if each.number <= after:
                raise PeerError(f"the results of job {id} are out of order")
            after = each.number
        yield found
        if not found.items and (not wait or found.job.state != "running"):
            return
        if not found.items and not wait_s:
            time.sleep(PAUSE_S)


def _line(result: JobResult) -> str:
    """A result in one line: the first of what it printed, and why it failed."""
    status = f"exit {result.exit_status}" if result.outcome == "done" and result.exit_status else result.outcome
    said = (result.output or result.error).strip().partition("\n")[0]
    shown = "ok" if result.outcome == "done" and not result.exit_status else status
    return f"{result.id}  {shown}  {one_line(escaped(said))}".rstrip()


def _follow(context: Context, job: Job) -> int:
    """Show the results of a job as they come; Ctrl-C leaves it running."""
    results: list[JobResult] = []
    for page in _pages(context.node, job.id, wait=True):
        job = page.job
        if context.output != "table":
            results += page.items
        else:
            for each in page.items:
                print(_line(each), flush=True)
    if context.output == "table":
        took = format_seconds((job.finished or job.created) - job.created)
        print(f"job {job.id} {job.state}: {job.ended - job.failed} of {job.targets} ended well, in {took}")
    else:
        emit(JobResults(job=job, items=results), context.output)
    return 0 if job.state == "done" and not job.failed else REMOTE


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """What was run, by whom, and what became of it: list, show, cancel. Without a verb: the latest."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@jobs.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many.")
@click.option("--before", default="", help="Those before the one with this id.")
@pass_context
def list_(context: Context, limit: int = 20, before: str = "") -> None:
    """The jobs, the latest first."""
    found = context.node.ask("GET", with_query("/v1/jobs", limit=str(limit), after=before), JobList)
    if context.output != "table":
        emit(found, context.output)
        return
    table(
        ["JOB", "TIME", "OPERATOR", "COMMAND", "STATE", "ENDED", "FAILED"],
        [
            (
                each.id,
                moment(each.created),
                each.operator,
                " ".join([each.command, *each.arguments]),
                each.state,
                f"{each.ended} of {each.targets}",
                each.failed or "",
            )
            for each in found.items
        ],
    )
    if found.next:
        print(f"more: avictl jobs list --before {one_line(escaped(found.next))}")


@jobs.command()
@click.argument("id")
@click.option("--output-of", "engine", help="Print the whole output of this service engine.")
@pass_context
def show(context: Context, id: str, engine: str | None) -> None:
    """One job, and what became of it on each service engine."""
    pages = _pages(context.node, parse_id(id, "job id"), wait=False)
    if engine is not None:
        for each in (each for page in pages for each in page.items):
            if each.id == engine:
                write(each.output, sys.stdout)
                write(each.error, sys.stderr)
                return
        raise NotFound(f"job {id} has no result of {engine}", hint=f"see avictl jobs show {id}")
    if context.output != "table":
        whole = list(pages)
        emit(JobResults(job=whole[-1].job, items=[each for page in whole for each in page.items]), context.output)
        return
    for number, page in enumerate(pages):
        job = page.job
        if not number:
            words = " ".join([job.command, *job.arguments])
            print(one_line(escaped(f"{words}, by {job.operator}, {moment(job.created)}: {job.state}")))
        for each in page.items:
            print(_line(each))


@jobs.command()
@click.argument("id")
@pass_context
def cancel(context: Context, id: str) -> None:
    """Begin no more of a job; what runs ends as it does."""
    context.node.request("POST", f"/v1/jobs/{parse_id(id, 'job id')}/cancellation")
    if context.output == "table":
        print(f"cancelled: {id}")
