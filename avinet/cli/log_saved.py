"""`avictl logs saved`: queries of request logs that are kept on the node, under a name."""

from __future__ import annotations

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.node import Node
from avinet.cli.shown import emit, escaped, fields, moment, table
from avinet.ids import parse_id
from avinet.units import format_seconds
from avinet.wire.saved_query import LogQuestion, SavedQuery, SavedQueryList, When


def place(name: str) -> str:
    """The path of one that is kept. Raises `Invalid`."""
    return f"/v1/saved-log-queries/{parse_id(name, 'name of a query')}"


def save(node: Node, name: str, question: LogQuestion) -> SavedQuery:
    """Keep `question` as `name`."""
    return node.ask("PUT", place(name), SavedQuery, question)


def saved_as(node: Node, name: str) -> SavedQuery:
    """The one that is kept as `name`. Raises `NotFound`."""
    return node.ask("GET", place(name), SavedQuery)


@click.group()
def saved() -> None:
    """Queries that are kept under a name: list, show, delete. avictl logs query --save keeps one, --saved asks it."""


@saved.command("list")
@pass_context
def list_(context: Context) -> None:
    """All of them."""
    pages = context.node.pages("/v1/saved-log-queries", SavedQueryList, limit="100")
    items = [each for page in pages for each in page.items]
    if context.output != "table":
        emit(SavedQueryList(items=items), context.output)
        return
    table(
        ["QUERY", "VERSION", "SHAPE", "FROM", "UNTIL", "AUTHOR", "SAVED"],
        [
            (
                each.name,
                each.version,
                type(each.question.get).__struct_config__.tag,
                _time(each.question.since),
                _time(each.question.until),
                each.author,
                moment(each.time),
            )
            for each in items
        ],
    )


@saved.command()
@click.argument("name")
@pass_context
def show(context: Context, name: str) -> None:
    """One of them, in its current version."""
    found = saved_as(context.node, name)
    if context.output != "table":
        emit(found, context.output)
        return
    fields(
        [
            ("query", f"{found.name}, version {found.version} by {found.author}, {moment(found.time)}"),
            ("from", _time(found.question.since)),
            ("until", _time(found.question.until)),
        ]
    )
    print()
    emit(found.question, "yaml")


@saved.command()
@click.argument("name")
@pass_context
def delete(context: Context, name: str) -> None:
    """Delete one."""
    context.node.request("DELETE", place(name))
    if context.output == "table":
        print(f"deleted: {escaped(name)}")


def _time(when: When) -> str:
    if when.at_ms is not None:
        return moment(when.at_ms / 1000)
    return f"{format_seconds(when.ago_ms / 1000)} before" if when.ago_ms else "now"
