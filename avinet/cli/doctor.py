"""`avictl doctor`: what may be wrong with the node and its fleet, in plain words."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
import msgspec

from avinet.cli.context import Context, pass_context
from avinet.cli.exits import FAULT, OK
from avinet.cli.node import Node
from avinet.cli.rollout import summary
from avinet.cli.shown import emit, escaped, moment, one_line
from avinet.errors import AvinetError
from avinet.units import format_seconds
from avinet.wire.expiry import Expiry, ExpiryKind
from avinet.wire.fleet import Status

PATIENCE_S = 10.0
STALL_S = 0.25
"""What keeps a node longer from everything else is felt by whoever waits for it."""


_EXPIRES: dict[ExpiryKind, tuple[str, str]] = {
    "node-certificate": ("certificate", "renewal fails: see the node's log, and whether its issuing CA has expired"),
    "issuing-ca": ("issuing CA", "make another one: avictl root issue"),
    "root-ca": ("root CA", "have another one follow it: see the recipe, the root CA expires"),
    "certificate": ("certificate {}", "put a new one: avictl certificate put; or delete it, if nobody needs it"),
}


class Finding(msgspec.Struct, frozen=True):
    """What was looked at, whether it is as it should be, what was seen, and what to try where it is not."""

    what: str
    good: bool
    seen: str
    hint: str = ""


@click.command()
@pass_context
def doctor(context: Context) -> int:
    """Check what usually goes wrong, and say what to try. Ends with 1 when something is wrong."""
    found = list(examine(context.node))
    if context.output != "table":
        emit(found, context.output)
    else:
        for each in found:
            line = f"{each.what}: {each.seen}" + ("" if each.good or not each.hint else f"; {each.hint}")
            print(f"{'ok ' if each.good else 'BAD'}  {one_line(escaped(line))}")
    return OK if all(each.good for each in found) else FAULT


def _expiry(found: Expiry) -> Finding:
    what, hint = _EXPIRES[found.kind]
    left_s = found.not_after - time.time()
    seen = f"valid for {format_seconds(left_s)}" if left_s > 0 else f"expired at {moment(found.not_after)}"
    return Finding(what.format(found.name), found.urgency == "none", seen, hint)


def examine(node: Node) -> Iterator[Finding]:
    """Each finding; the first that is not good may be the last, as nothing is known without the node."""
    begun = time.monotonic()
    try:
        found = node.ask("GET", "/v1/status", Status, timeout_s=PATIENCE_S)
    except AvinetError as error:
        yield Finding("node", False, str(error))
        return
    yield Finding("node", True, f"{found.node} answers in {(time.monotonic() - begun) * 1000:.0f} ms")
    yield Finding(
        "event loop",
        found.longest_stall_s < STALL_S,
        f"busy with one thing for at most {found.longest_stall_s * 1000:.0f} ms of late",
        "the machine is overloaded, or its disk is slow; service engines may be put onto more nodes",
    )
    yield Finding(
        "store",
        not found.store_silent_s,
        f"it has not answered for {format_seconds(found.store_silent_s)}" if found.store_silent_s else "it answers",
        "avictl store check, on the machine of the node, says what is wrong with it",
    )
    yield from map(_expiry, found.expiries)
    if found.certificates:
        yield Finding(
            "private keys",
            not found.certificates_closed,
            f"of {found.certificates} certificates, those of {found.certificates_closed} cannot be opened",
            "restore trust/secrets.key from a backup, or put the certificates again that avictl certificate list names",
        )
    counts = found.engines
    yield Finding(
        "service engines",
        counts.connected == counts.enrolled,
        f"{counts.connected} of {counts.enrolled} that are enrolled have a tunnel",
        "avictl se list shows which have none; see the log of such a service engine, and whether it reaches "
        + ", ".join(found.ssh),
    )
    yield Finding(
        "configuration",
        not counts.refused,
        f"{counts.in_sync} run what they should, {counts.refused} have refused it",
        "avictl se show ID gives the reason; apply a document that mends it",
    )
    for rollout in found.rollouts:
        yield Finding(
            "roll-out",
            rollout.state != "stopped",
            f"{rollout.name}, {summary(rollout)}" + (f": {rollout.why}" if rollout.why else ""),
            f"take it back, or go on: avictl config rollout abort {rollout.name}, or resume",
        )
    yield Finding(
        "servers",
        not found.servers_down,
        f"{found.servers_up} up, {found.servers_down} down",
        "avictl se show ID names them, and why",
    )
