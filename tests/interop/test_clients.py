"""Stock clients hold a tunnel to a node, with every algorithm, and data moves both ways while keys change (S20)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.ssh.policy import Policy
from avinet.ssh.tunnel import ServerTunnel
from tests.interop.algorithms import Combination
from tests.interop.asyncssh_peer import AsyncsshClient
from tests.interop.case import NodeCase, reactor
from tests.interop.dropbear import DropbearClient
from tests.interop.matrix import for_each_combination
from tests.interop.openssh import OpenSSHClient
from tests.interop.paramiko_peer import ParamikoClient
from tests.interop.peers import ClientPeer, Dialled
from tests.interop.rekeying import PEER, PEER_BYTES, US, Rekeying
from tests.interop.stream import End, digest
from tests.peers import require
from tests.running import eventually, free_port
from tests.ssh.joined import factory_of
from tests.ssh.pair import USER


class _ClientCase(NodeCase):
    """What is done with each client."""

    peer: ClientPeer

    @override
    def setUp(self) -> None:
        require(self.peer.program)
        super().setUp()
        self.rekeying = Rekeying({**PEER, **US} if self.peer.asks else US)

    async def hold(
        self, target: End, combination: Combination | None = None, *, rekey_s: int | None = None
    ) -> ServerTunnel:
        """The tunnel that the client holds, from its start to the end of the test; `target` is behind its `-R`."""
        policy = Policy()
        if combination is not None:
            # Where a client cannot be told which key exchange to use.
            policy = replace(policy, key_exchanges=(combination.exchange.encode(),))
        self.local = free_port()
        dialled = Dialled(
            self.folder,
            self.node(policy),
            self.local,
            self.target(factory_of(target)),
            combination,
            PEER_BYTES if self.peer.asks and rekey_s is None else None,
            rekey_s,
        )
        self.client = self.run_peer(*self.peer.command(dialled))
        tunnel = await self.client.until(self.tunnel_up)
        await self.client.until(self.offered)
        await self.client.says(self.peer.ready)
        return tunnel

    async def exchange(self, tunnel: ServerTunnel, ours: End, theirs: End, connected: Any) -> None:
        """Both streams move, through new keys of every kind."""
        self.rekeying.start(tunnel.transport)
        await self.client.until(connected)
        heard = [await self.client.until(end.heard) for end in (ours, theirs)]
        self.rekeying.end()
        self.assertEqual(heard, [digest(1), digest(0)])
        self.assertEqual(self.rekeying.missing(), [], self.rekeying.seen)
        for end in (ours, theirs):
            await end.lost
        await eventually("the channel is gone at both ends", lambda: not tunnel.channels)
        self.assertLessEqual(tunnel.strays, self.peer.strays)

    async def moves_data(self, combination: Combination) -> ServerTunnel:
        """Through a connection to the client's `-L`, which leads to our service."""
        ours, theirs = End(0, last=True, moved=self.rekeying.moved), End(1, last=False)
        self.services["control:80"] = factory_of(ours)
        tunnel = await self.hold(End(0, last=False), combination)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.local)
        await self.exchange(tunnel, ours, theirs, endpoint.connect(factory_of(theirs)))
        self.assertEqual(tunnel.identity.user, USER)
        agreed = tunnel.transport.algorithms
        self.assertEqual(agreed.key_exchange, combination.exchange.encode())
        self.assertEqual({agreed.cipher_to_server, agreed.cipher_to_client}, {combination.cipher.encode()})
        self.assertEqual({agreed.mac_to_server, agreed.mac_to_client}, {combination.mac.encode()})
        return tunnel

    async def reaches_back(self) -> None:
        """Through a channel that we open to the client's `-R`."""
        last = self.peer.ends_in_order
        ours, theirs = End(0, last=not last, moved=self.rekeying.moved), End(1, last=last)
        tunnel = await self.hold(theirs)
        await self.exchange(tunnel, ours, theirs, as_deferred(tunnel.open_service("control:80", factory_of(ours))))

    async def asks_after_a_while(self) -> None:
        """New keys because of time alone, while one stream moves and the other one is held up."""
        ours, theirs = End(0, last=True), End(1, last=False)
        self.services["control:80"] = factory_of(ours)
        tunnel = await self.hold(End(0, last=False), rekey_s=1)
        await TCP4ClientEndpoint(reactor, "127.0.0.1", self.local).connect(factory_of(theirs))
        await eventually("the channel is open", lambda: ours.transport is not None)
        ours.transport.pauseProducing()

        async def renewed() -> bool:
            await tunnel.probe(10.0)  # asyncssh looks at its clock when it sends
            return tunnel.transport.exchanges > 1

        await eventually("new keys are there", renewed)
        ours.transport.resumeProducing()
        self.assertEqual([await self.client.until(end.heard) for end in (ours, theirs)], [digest(1), digest(0)])
        await ours.lost
        await theirs.lost


@for_each_combination
class OpenSSHTests(_ClientCase):
    peer = OpenSSHClient()

    async def test_asks_after_a_while(self) -> None:
        await self.asks_after_a_while()

    async def test_reaches_back(self) -> None:
        await self.reaches_back()


@for_each_combination
class AsyncsshTests(_ClientCase):
    peer = AsyncsshClient()

    async def test_asks_after_a_while(self) -> None:
        await self.asks_after_a_while()

    async def test_reaches_back(self) -> None:
        await self.reaches_back()


@for_each_combination
class ParamikoTests(_ClientCase):
    peer = ParamikoClient()

    async def test_reaches_back(self) -> None:
        await self.reaches_back()


class OldParamikoTests(_ClientCase):
    """A client from before there was strict key exchange (S4)."""

    peer = ParamikoClient(strict=False)

    async def test_moves_data_with_counter_mode_alone(self) -> None:
        chained = Combination("curve25519-sha256@libssh.org", "aes256-ctr", "hmac-sha2-256-etm@openssh.com")
        tunnel = await self.moves_data(chained)
        self.assertFalse(tunnel.transport.phases.strict)

    async def test_is_refused_with_ciphers_that_authenticate_by_themselves(self) -> None:
        alone = Combination("curve25519-sha256@libssh.org", "aes128-gcm@openssh.com", "")
        await self.assertFailure(as_deferred(self.hold(End(0, last=False), alone)), AssertionError)
        why = "there is no cipher to be used without strict key exchange that both ends have"
        self.assertEqual([refusal.why for refusal in self.refusals], [why])


@for_each_combination
class DropbearTests(_ClientCase):
    peer = DropbearClient()

    async def test_reaches_back(self) -> None:
        await self.reaches_back()
