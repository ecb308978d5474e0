"""`avictl root`: the root CAs that the fleet believes, and how one follows another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from avinet.cli.context import Context, pass_context, pass_node
from avinet.cli.shown import emit, escaped, fields, moment, table
from avinet.files import read_limited
from avinet.wire.succession import RootAdd, RootList, Succession, SuccessionOrder

F = TypeVar("F", bound=Callable[..., Any])
LIMIT_BYTES = 65536


@click.group()
def root() -> None:
    """Root CAs: make one that follows, add it, use it, retire the one before."""


def _key_options(verb: F) -> F:
    at = click.Path(path_type=Path, dir_okay=False)
    verb = click.option("--key", required=True, type=at, help="Its private key: root.key, from where it is kept.")(verb)
    return click.option("--root", "certificate", required=True, type=at, help="The root CA in use: root.pem.")(verb)


@root.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_key_options
@pass_node
def new(context: Context, folder: Path, certificate: Path, key: Path) -> None:
    """Make a root CA that follows another, in FOLDER, without a node: offline, where the key of the other one is.

    FOLDER gets root.pem, root.key and vouched.pem, which are to be kept offline again, and issuing.pem for the node.
    """
    from avinet.trust.image import fingerprint
    from avinet.trust.succession import found_root, read_root

    folder = folder.absolute()
    made = found_root(read_root(certificate, key), folder, datetime.now(UTC))
    fields(
        [
            ("root CA", f"SHA-256 {fingerprint(made.root)}"),
            ("valid until", moment(made.root.not_valid_after_utc.timestamp())),
            ("vouched for", f"by {certificate}, until {moment(made.crossed[0].not_valid_after_utc.timestamp())}"),
        ]
    )
    print(f"\nKeep {escaped(str(folder / 'root.key'))} offline, and bring the other one to the node:")
    print(f"avictl root add {escaped(str(folder / 'issuing.pem'))}")


@root.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_key_options
@pass_node
def issue(context: Context, folder: Path, certificate: Path, key: Path) -> None:
    """Make another issuing CA under a root CA, in FOLDER, offline: for when the one before expires, or is lost.

    What avictl root new has made beside root.pem (vouched.pem) is to be there still.
    """
    from avinet.trust.succession import found_issuing, read_root, read_vouched

    folder, vouched = folder.absolute(), read_vouched(certificate.absolute().parent)
    made = found_issuing(read_root(certificate, key), vouched, folder, datetime.now(UTC))
    fields([("issuing CA", f"valid until {moment(made.certificate.not_valid_after_utc.timestamp())}")])
    print(f"\navictl root add {escaped(str(folder / 'issuing.pem'))}")


@root.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@pass_context
def add(context: Context, file: Path) -> None:
    """Give the node FILE, the issuing.pem of `root new` or `root issue`, and have the fleet believe its root CA.

    An issuing CA under the root CA in use is used at once; one under another waits for avictl root use.
    """
    text = read_limited(file.absolute(), LIMIT_BYTES).decode("ascii", "replace")
    _show(context, context.node.ask("POST", "/v1/roots", RootList, RootAdd(issuing_ca=text)))


@root.command("list")
@pass_context
def list_(context: Context) -> None:
    """The root CAs that the fleet believes, and how many service engines know of each."""
    _show(context, context.node.ask("GET", "/v1/roots", RootList))


def _show(context: Context, found: RootList) -> None:
    if context.output != "table":
        emit(found, context.output)
        return
    table(
        ["ROOT CA", "STATE", "NOT AFTER", "KNOWN TO"],
        [
            (each.fingerprint[:16], each.state, moment(each.not_after), f"{each.acknowledged} of {found.enrolled}")
            for each in found.items
        ],
    )


def order_options(verb: F) -> F:
    """The options of a step that may leave service engines behind."""
    verb = click.option("--force", is_flag=True, help="Also while not all service engines are ready for it.")(verb)
    return click.option("--dry-run", is_flag=True, help="Only name those that are not ready, and say what of them.")(
        verb
    )


@root.command()
@click.argument("fingerprint")
@order_options
@pass_context
def use(context: Context, fingerprint: str, dry_run: bool, force: bool) -> None:
    """Put this node under the root CA whose FINGERPRINT begins like this. No tunnel is lost."""
    _step(context, fingerprint, "use", dry_run, force)


@root.command()
@click.argument("fingerprint")
@order_options
@pass_context
def retire(context: Context, fingerprint: str, dry_run: bool, force: bool) -> None:
    """Have the fleet believe a root CA no longer, by the beginning of its FINGERPRINT.

    What it vouched for stays: a service engine that slept through all of it comes back by that until the root expires.
    """
    _step(context, fingerprint, "retirement", dry_run, force)


def _step(context: Context, fingerprint: str, what: str, dry_run: bool, force: bool) -> None:
    order = SuccessionOrder(dry_run=dry_run, force=force)
    show_step(context, context.node.ask("POST", f"/v1/roots/{_plain(fingerprint)}/{what}", Succession, order))


def _plain(fingerprint: str) -> str:
    if not fingerprint.isascii() or not fingerprint.isalnum():
        raise click.UsageError("a fingerprint is a SHA-256 in hexadecimal, or its beginning")
    return fingerprint


def show_step(context: Context, found: Succession) -> None:
    """Print what became, or would become, of a step."""
    if context.output != "table":
        emit(found, context.output)
        return
    print("done" if found.done else "nothing was changed")
    if found.waiting:
        what = f"come back until {moment(found.until)}" if found.until else "would be lost: reset them, or wait"
        print(f"{found.waiting} service engines do not know what follows; they {what}:")
        for id in found.ids:
            print(f"  {escaped(id)}")
        if found.waiting > len(found.ids):
            print(f"  ... and {found.waiting - len(found.ids)} more")
    elif not found.done:
        print("all service engines know what follows")
