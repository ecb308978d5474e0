"""`avictl config`: configuration documents."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import click
import msgspec

from avinet.cli.context import Context, pass_context
from avinet.cli.shown import emit, escaped, moment, one_line, table
from avinet.errors import Conflict, Invalid, LocalError, NotFound, TooLarge
from avinet.ids import parse_id
from avinet.wire.config import DOCUMENT_LIMIT_BYTES, Document, DocumentVersion
from avinet.wire.fleet import DocumentApplied, DocumentList
from avinet.wire.message import convert

FILE_LIMIT_BYTES = 4 * DOCUMENT_LIMIT_BYTES


@click.group()
def config() -> None:
    """Configuration documents: apply, get, list, delete, history, diff, rollback, schema."""


def read_documents(path: str) -> list[Any]:
    """The documents in a file (`-`: standard input) as plain values: YAML (one or more), JSON or TOML by its ending.

    Raises `LocalError` or `Invalid`.
    """
    try:
        with open(0, "rb", closefd=False) if path == "-" else open(path, "rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > FILE_LIMIT_BYTES:
        raise TooLarge(f"{path} has more than {FILE_LIMIT_BYTES} bytes")
    import yaml

    try:
        text = data.decode("utf-8")
        if path.endswith(".json"):
            return [json.loads(text)]
        if path.endswith(".toml"):
            return [tomllib.loads(text)]
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return [each for each in yaml.load_all(text, loader) if each is not None]
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise Invalid(f"{path} cannot be parsed: {one_line(str(error))}") from error


def place(name: str) -> str:
    """The path of a document. Raises `Invalid`."""
    return f"/v1/configurations/{parse_id(name, 'name')}"


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
    pages = context.node.pages("/v1/configurations", DocumentList, limit="100")
    items = [each for page in pages for each in page.items]
    _versions(context, DocumentList(items=items))


@config.command()
@click.argument("name")
@pass_context
def history(context: Context, name: str) -> None:
    """The versions of a document, with author and time."""
    _versions(context, context.node.ask("GET", f"{place(name)}/versions?limit=100", DocumentList))


def _lines(document: Document | None) -> list[str]:
    """A document as lines of YAML, none where there is none."""
    import yaml

    if document is None:
        return []
    text = yaml.safe_dump(msgspec.to_builtins(document), sort_keys=False, allow_unicode=True)
    return escaped(text).splitlines(keepends=True)


def _version(context: Context, name: str, number: int) -> DocumentVersion:
    return context.node.ask("GET", f"{place(name)}/versions/{number}", DocumentVersion)


def _latest(context: Context, name: str) -> list[DocumentVersion]:
    """The last two versions of a document, the newest first."""
    return context.node.ask("GET", f"{place(name)}/versions?limit=2", DocumentList).items


@config.command()
@click.argument("name", required=False)
@click.option("--from", "old", type=click.IntRange(1), help="A version (default: the one before the other).")
@click.option("--to", "new", type=click.IntRange(1), help="A version (default: the last).")
@click.option("-f", "--file", "file", help="Compare what applies now to what is in this file, instead.")
@pass_context
def diff(context: Context, name: str | None, old: int | None, new: int | None, file: str | None) -> None:
    """What differs between two versions of a document, or between what applies and a file."""
    if file is not None:
        if name or old or new:
            raise click.UsageError("a file names its documents itself, and is compared to their last versions")
        for plain in read_documents(file):
            wanted = convert(plain, Document, file)
            try:
                current = context.node.ask("GET", place(wanted.name), DocumentVersion)
            except NotFound:
                _differ([], _lines(wanted), f"{wanted.name}, none", f"{wanted.name}, {file}")
            else:
                before = f"{wanted.name}, version {current.version}"
                _differ(_lines(current.document), _lines(wanted), before, f"{wanted.name}, {file}")
        return
    if name is None:
        raise click.UsageError("name a document, or a file with -f")
    after = _version(context, name, new) if new else _latest(context, name)[0]
    number = old or after.version - 1
    before_lines = _lines(_version(context, name, number).document) if number else []
    _differ(before_lines, _lines(after.document), f"{name}, version {number}", f"{name}, version {after.version}")


def _differ(old: list[str], new: list[str], what_old: str, what_new: str) -> None:
    import difflib

    for line in difflib.unified_diff(old, new, one_line(escaped(what_old)), one_line(escaped(what_new))):
        print(line, end="" if line.endswith("\n") else "\n")


@config.command()
@click.argument("name")
@click.option("--to", "number", type=click.IntRange(1), help="The version (default: the one before the last).")
@pass_context
def rollback(context: Context, name: str, number: int | None) -> None:
    """Apply an earlier version of a document again, as a new version."""
    versions = _latest(context, name)
    number = number or versions[0].version - 1
    if not number:
        raise NotFound(f"there is only one version of document {name}", hint="avictl config delete takes it away")
    wanted = _version(context, name, number).document
    if wanted is None:
        raise Conflict(f"version {number} of document {name} is its deletion", hint="say avictl config delete")
    last = versions[0]
    headers = {"if-match": f'"{last.version if last.document else 0}"'}
    done = context.node.ask("PUT", place(name), DocumentApplied, wanted, headers=headers)
    if context.output != "table":
        emit(done, context.output)
    elif done.changed:
        print(
            f"{done.name}: version {done.version} is as {number} was; "
            f"{done.service_engines} service engines have a new configuration"
        )
    else:
        print(f"{done.name}: unchanged, version {done.version} is as {number} was")


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
    emit(context.node.ask("GET", "/v1/schemas/configuration", dict), "yaml" if context.output == "yaml" else "json")
