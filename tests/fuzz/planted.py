"""The target `server` with a fault put in, as deep as faults are: shows that the fuzzer finds what is there."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from avinet.flow.halfclose import Half
from avinet.ssh.channel import Channel
from avinet.ssh.connection import Connection
from avinet.ssh.identity import Identity
from avinet.ssh.tunnel import ServerTunnel
from tests.fuzz import server
from tests.fuzz.assault import LIMITS
from tests.fuzz.server import OPEN_SEEDS

SEEDS = OPEN_SEEDS


class _Forgetful(ServerTunnel):
    """Forgets that a window may be opened after EOF, from its third channel on."""

    @override
    def _obeys(self, channel: Channel, take: Any, value: Any) -> None:
        if take == channel.adjusted and channel.id >= 2 and channel._arrived is Half.ENDED:
            raise KeyError(channel.id)
        super()._obeys(channel, take, value)


class _Assault(server.ServerAssault):
    """Attacks it."""

    @override
    def tunnel(self, identity: Identity) -> Connection:
        return _Forgetful(self.clock, identity, lambda tunnel: self.services, limits=LIMITS)


def run(data: bytes) -> None:
    """Run one program against the server with the fault."""
    server.run(data, _Assault)
