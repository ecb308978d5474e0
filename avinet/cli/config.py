"""`avictl config`: configuration documents."""

from __future__ import annotations

import json
import sys
import tomllib
from typing import Any

import click
import msgspec

from avinet.cli.context import Context, pass_context
from avinet.cli.node import with_query
from avinet.cli.rollout import follow as follow_rollout
from avinet.cli.rollout import plan_options, rollout_group, under_way
from avinet.cli.shown import emit, escaped, moment, one_line, table
from avinet.errors import Conflict, Invalid, LocalError, NotFound, TooLarge
from avinet.ids import parse_id
from avinet.wire.config import DOCUMENT_LIMIT_BYTES, Document, DocumentVersion
from avinet.wire.fleet import DocumentApplied, DocumentList
from avinet.wire.message import convert
from avinet.wire.rollout import RolloutOrder, RolloutPlan

FILE_LIMIT_BYTES = 4 * DOCUMENT_LIMIT_BYTES


@click.group()
def config() -> None:
    """Configuration documents: apply, get, list, delete, history, diff, rollback, rollout, schema."""


config.add_command(rollout_group)
force_option = click.option("--force", is_flag=True, help="Also where a roll-out is under way: it is taken back.")


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
@plan_options
@click.option("--follow", is_flag=True, help="Show the roll-out as it goes; ends with 7 when it is stopped.")
@force_option
@pass_context
def apply(context: Context, files: tuple[str, ...], plan: RolloutPlan | None, follow: bool, force: bool) -> int:
    """Create or replace documents. All files are read and checked before the first one is applied.

    They apply everywhere at once, or with --rollout come to their service engines in batches.
    """
    if follow and plan is None:
        raise click.UsageError("there is nothing to follow: say --rollout too")
    documents = [convert(plain, Document, path) for path in files for plain in read_documents(path)]
    if not documents:
        raise Invalid("there is no document in these files")
    applied: list[DocumentApplied] = []
    for document in documents:
        if plan is None:
            target = with_query(place(document.name), force="1" if force else "")
            done = context.node.ask("PUT", target, DocumentApplied, document)
        else:
            order = RolloutOrder(document=document, plan=plan, force=force)
            done = context.node.ask("POST", "/v1/rollouts", DocumentApplied, order)
        applied.append(done)
        if context.output != "table":
            if not follow:
                emit(done, context.output)
        elif not done.changed:
            print(f"{done.name}: unchanged, version {done.version}")
        elif plan is None:
            print(
                f"{done.name}: version {done.version}; {done.service_engines} service engines have a new configuration"
            )
        else:
            print(f"{done.name}: version {done.version} rolls out to {done.service_engines} service engines")
    if not follow:
        return 0
    return max([follow_rollout(context, done.name) for done in applied if done.changed], default=0)


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
    for line in under_way(found.rollouts):
        print(line)


@config.command("list")
@pass_context
def list_(context: Context) -> None:
    """All documents, in their current versions."""
    pages = context.node.pages("/v1/configurations", DocumentList, limit="100")
    whole = list(pages)
    items = [each for page in whole for each in page.items]
    _versions(context, DocumentList(items=items, rollouts=[each for page in whole for each in page.rollouts]))


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
    """The last two versions of a document, the newest first; that the last one is being rolled out is said."""
    found = context.node.ask("GET", f"{place(name)}/versions?limit=2", DocumentList)
    for line in under_way(found.rollouts):
        print(line, file=sys.stderr)
    return found.items


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
@force_option
@pass_context
def delete(context: Context, name: str, force: bool) -> None:
    """Delete a document; its versions stay."""
    context.node.request("DELETE", with_query(place(name), force="1" if force else ""))
    if context.output == "table":
        print(f"deleted: {name}")


@config.command()
@pass_context
def schema(context: Context) -> None:
    """The JSON schema of a document."""
    emit(context.node.ask("GET", "/v1/schemas/configuration", dict), "yaml" if context.output == "yaml" else "json")
