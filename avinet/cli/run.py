"""`avictl run`: a command on service engines; `avictl jobs`: what was run, by whom, and what became of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.node import Node, with_query
from avinet.cli.output import follow
from avinet.cli.shown import emit, escaped, moment, one_line, table, write
from avinet.errors import NotFound, PeerError
from avinet.ids import parse_id
from avinet.wire.command import LONGEST_S
from avinet.wire.jobs import Job, JobEvent, JobList, JobOrder, JobResult, JobResults


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[ID[,ID...]] COMMAND [ARGUMENTS]...")
@click.option("--label", "-l", "selector", help="Run it on all that match, such as site=paris,room!=2.")
@click.option("--at-once", type=click.IntRange(1, 500), default=20, show_default=True, help="On how many at a time.")
@click.option("--batch", type=click.IntRange(1), help="How many must have ended before the next ones begin.")
@click.option("--failures", type=click.IntRange(0), help="Begin no more once more than so many have failed.")
@click.option("--detach", is_flag=True, help="Do not wait: print the job's id.")
@click.option("--no-prefix", is_flag=True, help="Print what several print without their ids.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, LONGEST_S, min_open=True),
    help="Seconds until it is ended on each (default: as the service engine's settings say).",
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
    no_prefix: bool,
    timeout: float | None,
) -> int:
    """Run COMMAND on one service engine, on several, or with --label on all that match: ping, status, help, ...

    What it prints is there as it comes; with several, each line begins with an id. Ctrl-C ends it there too, a second
    one leaves it running; it also ends when nobody reads what it prints any more, as with avictl run ... | head.
    --output json: one object a line, with started, output and ended as its event.
    """
    if selector is not None and not selector.strip(" ,"):
        raise click.UsageError("the label expression is empty: say which service engines")
    ids = [] if selector else [parse_id(each) for each in words[0].split(",")]
    rest = words if selector else words[1:]
    if not rest:
        raise click.UsageError("say which command; help lists them")
    order = JobOrder(
        command=rest[0],
        arguments=list(rest[1:]),
        ids=ids,
        selector=selector or "",
        at_once=at_once,
        batch=batch or 0,
        failures=failures,
        timeout_s=timeout,
    )
    if detach:
        job = context.node.ask("POST", "/v1/jobs", Job, order)
        if context.output == "table":
            print(job.id)
        else:
            emit(job, context.output)
        return 0
    events = context.node.stream("POST", "/v1/jobs?follow=1", JobEvent, order)
    return follow(context.node, context.output, events, prefix=False if no_prefix else None, ours=True)


def _pages(node: Node, id: str) -> Iterator[JobResults]:
    """A job and its results so far, in pages; the last page has none."""
    after = 0
    while True:
        found = node.ask("GET", with_query(f"/v1/jobs/{id}", after=str(after)), JobResults)
        for each in found.items:
            if each.number <= after:
                raise PeerError(f"the results of job {id} are out of order")
            after = each.number
        yield found
        if not found.items:
            return


def _line(result: JobResult) -> str:
    """A result in one line: the first of what it printed, and why it failed."""
    ended = f"signal {result.signal}" if result.signal else f"exit {result.exit_status}"
    status = ended if result.outcome == "done" and result.exit_status else result.outcome
    said = (result.output or result.error).strip().partition("\n")[0]
    shown = "ok" if result.outcome == "done" and not result.exit_status else status
    return f"{result.id}  {shown}  {one_line(escaped(said))}".rstrip()


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
@click.option("--output-of", "engine", help="Print what is kept of the output of this service engine.")
@click.option("--follow", "-f", "following", is_flag=True, help="Print what it prints, until it has ended.")
@click.option("--from-now", is_flag=True, help="With --follow: not what it has printed before.")
@click.option("--no-prefix", is_flag=True, help="With --follow: without the ids of several.")
@pass_context
def show(context: Context, id: str, engine: str | None, following: bool, from_now: bool, no_prefix: bool) -> int:
    """One job, and what became of it on each service engine. With --follow, what it prints while it runs."""
    if following:
        target = with_query(f"/v1/jobs/{parse_id(id, 'job id')}/output", from_now="1" if from_now else "")
        events = context.node.stream("GET", target, JobEvent)
        return follow(context.node, context.output, events, prefix=False if no_prefix else None)
    pages = _pages(context.node, parse_id(id, "job id"))
    if engine is not None:
        for each in (each for page in pages for each in page.items):
            if each.id == engine:
                write(each.output, sys.stdout)
                write(each.error, sys.stderr)
                return 0
        raise NotFound(f"job {id} has no result of {engine}", hint=f"see avictl jobs show {id}")
    if context.output != "table":
        whole = list(pages)
        emit(JobResults(job=whole[-1].job, items=[each for page in whole for each in page.items]), context.output)
        return 0
    for number, page in enumerate(pages):
        job = page.job
        if not number:
            words = " ".join([job.command, *job.arguments])
            print(one_line(escaped(f"{words}, by {job.operator}, {moment(job.created)}: {job.state}")))
        for each in page.items:
            print(_line(each))
    return 0


@jobs.command()
@click.argument("id")
@pass_context
def cancel(context: Context, id: str) -> None:
    """Begin no more of a job, and end what runs."""
    context.node.request("POST", f"/v1/jobs/{parse_id(id, 'job id')}/cancellation")
    if context.output == "table":
        print(f"cancelled: {id}")
