"""`avictl config`: configuration documents."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import msgspec

from avinet.cli.main import Context, pass_context
from avinet.cli.shown import emit, moment, table
from avinet.errors import Invalid, LocalError, TooLarge
from avinet.wire.config import DOCUMENT_LIMIT_BYTES, Document, DocumentVersion
from avinet.wire.fleet import DocumentApplied, DocumentList
from avinet.wire.message import convert


@click.group()
def config() -> None:
    """Configuration documents: apply, get, list, delete, history, schema."""


def read_documents(path: str) -> list[Any]:
    """The documents in a file (`-`: standard input) as plain values: YAML (one or more), JSON or TOML by its ending.

    Raises `LocalError` or `Invalid`.
    """
    try:
        data = sys.stdin.buffer.read(4 * DOCUMENT_LIMIT_BYTES + 1) if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > 4 * DOCUMENT_LIMIT_BYTES:
        raise TooLarge(f"{path} has more than {4 * DOCUMENT_LIMIT_BYTES} bytes")
    try:
        text = data.decode("utf-8")
        if path.endswith(".json"):
            return [json.loads(text)]
        if path.endswith(".toml"):
            return [tomllib.loads(text)]
        import yaml

        return [each for each in yaml.safe_load_all(text) if each is not None]
    except Exception as error:  # each parser has an error of its own, and all say the line
        raise Invalid(f"{path} cannot be parsed: {' '.join(str(error).split())}") from error


def place(name: str) -> str:
    """The path of a document."""
    return f"/v1/configurations/{quote(name, safe='')}"


@config.command()
@click.option(
    "-f", "--file", "files", multiple=True, required=True, help="A YAML, JSON or TOML file; - is standard input."
)
@pass_context
def apply(context: Context, files: tuple[str, ...]) -> None:
    """Create or replace documents. All files are read and checked before the first one is applied."""
    documents = [convert(plain, Document, path) for path in files for plain in read_documents(path)]
    if not documents:
        raise Invalid("there is no document in these files")
    for document in documents:
        done = context.node.ask("PUT", place(document.name), DocumentApplied, document)
        if context.output != "table":
            emit(done, context.output)
        elif done.changed:
            print(
                f"{done.name}: version {done.version}; {done.service_engines} service engines have a new configuration"
            )
        else:
            print(f"{done.name}: unchanged, version {done.version}")


@config.command()
@click.argument("name")
@pass_context
def get(context: Context, name: str) -> None:
    """One document, as YAML."""
    found = context.node.ask("GET", place(name), DocumentVersion)
    if context.output == "table":
        emit(found.document, "yaml")
    else:
        emit(found, context.output)


def _versions(context: Context, found: DocumentList) -> None:
    if context.output != "table":
        emit(found, context.output)
        return
    table(
        ["DOCUMENT", "VERSION", "TIME", "AUTHOR", "VIRTUAL SERVICES", "POOLS"],
        [
            (
                each.name,
                each.version,
                moment(each.time),
                each.author,
                len(each.document.virtual_services) if each.document else "deleted",
                len(each.document.pools) if each.document else "",
            )
            for each in found.items
        ],
    )


@config.command("list")
@pass_context
def list_(context: Context) -> None:
    """All documents, in their current versions."""
    items: list[DocumentVersion] = []
    after = ""
    while True:
        page = context.node.ask("GET", f"/v1/configurations?limit=100&after={quote(after)}", DocumentList)
        items += page.items
        after = page.next
        if not after:
            break
    _versions(context, DocumentList(items=items))


@config.command()
@click.argument("name")
@pass_context
def history(context: Context, name: str) -> None:
    """The versions of a document, with author and time."""
    _versions(context, context.node.ask("GET", f"{place(name)}/versions?limit=100", DocumentList))


@config.command()
@click.argument("name")
@pass_context
def delete(context: Context, name: str) -> None:
    """Delete a document; its versions stay."""
    context.node.request("DELETE", place(name))
    if context.output == "table":
        print(f"deleted: {name}")


@config.command()
@pass_context
def schema(context: Context) -> None:
    """The JSON schema of a document."""
    print(msgspec.json.format(context.node.request("GET", "/v1/schemas/configuration"), indent=2).decode())
