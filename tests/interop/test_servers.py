"""Our client logs in to stock servers, with every algorithm, and data moves both ways while keys change (S20)."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.ssh.identity import Identity
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.tunnel import ClientTunnel
from tests.interop.algorithms import Combination
from tests.interop.asyncssh_peer import AsyncsshServer
from tests.interop.case import NodeCase, reactor
from tests.interop.matrix import for_each_combination
from tests.interop.openssh import OpenSSHServer, whoami
from tests.interop.peers import ServerPeer
from tests.interop.rekeying import PEER, PEER_BYTES, US, Rekeying
from tests.interop.stream import End, digest
from tests.peers import require
from tests.running import eventually, free_port
from tests.ssh.joined import factory_of
from tests.ssh.pair import HOST_KEY, USER_KEY, line_of, protocol_factory


class _ServerCase(NodeCase):
    """What is done with each server."""

    peer: ServerPeer

    @override
    def setUp(self) -> None:
        require(self.peer.program)
        super().setUp()

    async def tunnel(self, combination: Combination) -> ClientTunnel:
        """A tunnel to the server, which is there until the end of the test."""
        port = free_port()
        self.server = self.run_peer(self.peer.command(self.folder, port, combination, PEER_BYTES))
        await self.server.says(self.peer.ready)

        def connection(identity: Identity) -> ClientTunnel:
            return ClientTunnel(reactor, identity, lambda tunnel: {})

        endpoint = LoginEndpoint(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", port),
            Credentials(whoami(), USER_KEY, (line_of(HOST_KEY),)),
            connection,
            where=self.peer.name,
        )
        protocol: Any = await endpoint.connect(protocol_factory())
        tunnel = protocol.transport.service
        assert isinstance(tunnel, ClientTunnel)
        self.addCleanup(self._close, tunnel)
        return tunnel

    async def _close(self, tunnel: ClientTunnel) -> None:
        tunnel.close("the test is over")
        await tunnel.when_lost()

    async def moves_data(self, combination: Combination) -> None:
        """Through a channel to a service that the server reaches."""
        rekeying = Rekeying({**PEER, **US})
        ours, theirs = End(0, last=True, moved=rekeying.moved), End(1, last=False)
        tunnel = await self.tunnel(combination)
        agreed = tunnel.transport.algorithms
        self.assertEqual(agreed.key_exchange, combination.exchange.encode())
        self.assertEqual({agreed.cipher_to_server, agreed.cipher_to_client}, {combination.cipher.encode()})
        self.assertEqual({agreed.mac_to_server, agreed.mac_to_client}, {combination.mac.encode()})
        rekeying.start(tunnel.transport)
        service = f"127.0.0.1:{self.target(factory_of(theirs))}"
        await self.server.until(as_deferred(tunnel.open_service(service, factory_of(ours))))
        heard = [await self.server.until(end.heard) for end in (ours, theirs)]
        rekeying.end()
        self.assertEqual(heard, [digest(1), digest(0)])
        self.assertEqual(rekeying.missing(), [], rekeying.seen)
        for end in (ours, theirs):
            await end.lost
        await eventually("the channel is gone at both ends", lambda: not tunnel.channels)
        self.assertEqual(tunnel.strays, 0)


@for_each_combination
class OpenSSHTests(_ServerCase):
    peer = OpenSSHServer()


@for_each_combination
class AsyncsshTests(_ServerCase):
    peer = AsyncsshServer()
