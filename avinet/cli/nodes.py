"""`avictl node`: the nodes of the domain, the keys of this one, and the format of its state folder."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from avinet.cli.context import Context, pass_context, pass_node
from avinet.cli.given import config_option, place_of, state_option
from avinet.cli.root import order_options, show_step
from avinet.cli.shown import emit, escaped, fields, table
from avinet.trust import keys
from avinet.wire.fleet import Status
from avinet.wire.succession import NodeKeys, Succession, SuccessionOrder
from avinet.wire.trust import SignedTrust, TrustDocument


@click.group()
def node() -> None:
    """Nodes: list, change the keys of this one, and bring its state folder to another format."""


@node.command("list")
@pass_context
def list_(context: Context) -> None:
    """The nodes that the fleet believes."""
    signed = context.node.ask("GET", "/v1/trust", SignedTrust)
    document = msgspec.json.decode(signed.document, type=TrustDocument)
    if context.output != "table":
        emit(document.nodes, context.output)
        return
    table(
        ["NODE", "TUNNELS", "ENROLMENT", "SSH HOST KEY"],
        [
            (each.id, ", ".join(each.ssh), ", ".join(each.https), ", ".join(map(keys.fingerprint, each.ssh_host_keys)))
            for each in document.nodes
        ],
    )


def _place(context: Context) -> str:
    return f"/v1/nodes/{context.node.ask('GET', '/v1/status', Status).node}/keys"


@node.command("keys")
@pass_context
def keys_(context: Context) -> None:
    """The keys of this node, and those that are to follow."""
    _show(context, context.node.ask("GET", _place(context), NodeKeys))


@node.command("rotate-keys")
@pass_context
def rotate_keys(context: Context) -> None:
    """Make a new SSH host key and a new avictlruser key, and show them to the fleet.

    They are used as soon as every service engine that is enrolled knows them, and the old ones are forgotten then.
    """
    _show(context, context.node.ask("POST", _place(context), NodeKeys))


@node.command("use-keys")
@order_options
@pass_context
def use_keys(context: Context, dry_run: bool, force: bool) -> None:
    """Use the new keys now. A service engine that does not know them reads of them over HTTPS when it comes."""
    order = SuccessionOrder(dry_run=dry_run, force=force)
    show_step(context, context.node.ask("POST", f"{_place(context)}/use", Succession, order))


@node.command()
@config_option
@state_option
@click.option("--dry-run", is_flag=True, help="Only say which steps there are, and whether each fits.")
@click.option("--undo", is_flag=True, help="Go back by the last step, for the version of avinet before it.")
@pass_node
def upgrade(context: Context, settings: Path | None, state: Path | None, dry_run: bool, undo: bool) -> None:
    """Bring the state folder of this node, which does not run, to the newest format; a node that starts does so itself.

    What a step changes is copied to before-format-N in that folder first.
    """
    from avinet.controller import upgrade as steps
    from avinet.files import FolderLock

    if dry_run and undo:
        raise click.UsageError("--dry-run is about the way there, --undo is the way back")
    folder = place_of(context, settings, state).state
    due = steps.due(folder)
    if dry_run:
        for step in due:
            print(f"to format {step.to}: {step.what}")
        print("nothing was changed" if due else "nothing needs to be changed")
        return
    lock = FolderLock(folder)
    lock.acquire()
    try:
        if undo:
            print(f"{escaped(str(folder))} has format {steps.undo(folder)} again")
            return
        taken = steps.upgrade(folder)
    finally:
        lock.release()
    for step in taken:
        print(f"format {step.to}: {step.what}")
    if not taken:
        print("nothing needs to be changed")


def _show(context: Context, found: NodeKeys) -> None:
    if context.output != "table":
        emit(found, context.output)
        return
    fields(
        [
            ("node", found.node),
            ("SSH host key", found.ssh_host_key),
            ("avictlruser key", found.avictlruser_key),
            ("next SSH host key", found.next_ssh_host_key),
            ("next avictlruser key", found.next_avictlruser_key),
            ("known to", f"{found.acknowledged} of {found.enrolled}"),
        ]
    )
