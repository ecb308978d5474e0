"""`avictl node`: the nodes of the domain, and the keys of this one."""

from __future__ import annotations

import click
import msgspec

from avinet.cli.context import Context, pass_context
from avinet.cli.root import order_options, show_step
from avinet.cli.shown import emit, fields, table
from avinet.trust import keys
from avinet.wire.fleet import Status
from avinet.wire.succession import NodeKeys, Succession, SuccessionOrder
from avinet.wire.trust import SignedTrust, TrustDocument


@click.group()
def node() -> None:
    """Nodes: list, and change the keys of this one."""


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
