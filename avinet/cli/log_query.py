"""`avictl logs query`: request logs are asked, page by page, and what is missing is said below each answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from avinet.cli.context import Context, pass_node
from avinet.cli.log_answer import footer, show, write_csv
from avinet.cli.log_options import asking
from avinet.cli.log_question import Typed, merged
from avinet.cli.log_saved import save as keep
from avinet.cli.log_saved import saved_as
from avinet.cli.node import PAGES, Node
from avinet.cli.shown import FORMATS, emit
from avinet.errors import PeerError
from avinet.wire.answer import LogAnswer
from avinet.wire.query import ROWS, LogQuery, Rows
from avinet.wire.saved_query import LogQuestion

ANSWER_S = 660.0
"""Longer than any node takes for a query (`queries.deadline_s`)."""


def pages(node: Node, query: LogQuery, limit: int) -> Iterator[LogAnswer]:
    """The answer to `query`: of records page after page, until `limit` of them are there."""
    for _ in range(PAGES):
        get = query.get
        if isinstance(get, Rows):
            query = msgspec.structs.replace(query, get=msgspec.structs.replace(get, limit=min(limit, ROWS)))
        answer = node.ask("POST", "/v1/log-queries", LogAnswer, query, timeout_s=ANSWER_S)
        yield answer
        limit -= len(answer.rows)
        if not isinstance(get, Rows) or not answer.next or limit <= 0:
            return
        if not answer.rows or answer.next == get.after:
            break
        try:
            query = msgspec.structs.replace(query, get=msgspec.structs.replace(get, after=answer.next))
        except ValueError as error:
            hint = "is avictl of the same version as the node?"
            raise PeerError("the node does not say where the next page begins", hint=hint) from error
    raise PeerError("the records do not end")


def _together(found: list[LogAnswer]) -> LogAnswer:
    """Pages as one answer."""
    return msgspec.structs.replace(
        found[-1],
        rows=[row for each in found for row in each.rows],
        segments=max(each.segments for each in found),
        took_ms=sum(each.took_ms for each in found),
    )


def answered(context: Context, form: str, question: LogQuestion, limit: int | None) -> None:
    """Ask, and print the answer as `form` says; `limit` is how many records are wanted: by default one page of them."""
    query = question.asked(int(time.time() * 1000))
    found = pages(context.node, query, limit or (query.get.limit if isinstance(query.get, Rows) else 0))
    if form == "csv":
        first = next(found)
        last = [first]

        def rows() -> Iterator[list[list[Any]]]:
            yield first.rows
            for each in found:
                last[0] = each
                yield each.rows

        write_csv(first.columns, rows())
        print(f"avictl: {footer(last[0])}", file=sys.stderr)
        return
    answer = _together(list(found))
    if form == "table":
        show(query, answer)
    else:
        emit(answer, "json" if form == "json" else "yaml")


@click.command()
@click.option("--output", "-o", "form", type=click.Choice([*FORMATS, "csv"]), help="How to print.")
@click.option("--save", metavar="NAME", help="Keep the query on the node under this name, and do not ask it.")
@click.option("--saved", metavar="NAME", help="Ask the one that is kept so; times and places may be others.")
@asking
@pass_node
def query(context: Context, /, form: str | None, save: str | None, saved: str | None, **options: Any) -> None:
    """Ask the request logs that the node has: how many, how slow, whose, or the records themselves.

    Without a shape: totals. --every: a time series. --by: the largest groups. --percentile: percentiles. --rows:
    records, as many as --limit. --gaps: what is missing. Below each answer stands what is known to be missing in it.
    """
    typed = Typed(**options)
    if saved is None:
        question = typed.question()
    elif typed.shaped:
        raise click.UsageError("--saved has a shape and conditions of its own: only times and places may be others")
    else:
        question = merged(saved_as(context.node, saved).question, typed)
    if save is None:
        answered(context, form or context.output, question, typed.limit)
        return
    done = keep(context.node, save, question)
    if (form or context.output) in ("table", "csv"):
        print(f"saved: {done.name}, version {done.version}; ask it with avictl logs query --saved {done.name}")
    else:
        emit(done, "json" if (form or context.output) == "json" else "yaml")
