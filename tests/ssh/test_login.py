"""How one gets in: the endpoint fires only when both ends know each other, and says why when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.application.internet import ClientService
from twisted.conch.ssh.service import SSHService
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectingCancelledError, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer
from zope.interface.verify import verifyObject

from avinet.errors import PeerError, TimedOut, Unauthenticated, Unavailable
from avinet.ssh import phases
from avinet.ssh.gate import Limits
from avinet.ssh.identity import Identity
from avinet.ssh.login import Credentials, LoginEndpoint, WrongHostKey
from avinet.ssh.negotiation import Proposal
from avinet.ssh.packets import Outbound
from avinet.ssh.policy import Policy
from avinet.ssh.server import HostKey, Server
from avinet.ssh.strings import string, uint32
from avinet.trust.keys import fingerprint
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, Memory, Recorder, line_of, logged_in, protocol_factory


class Says(Protocol):
    """A server that says what it was given, and listens."""

    def __init__(self, *parts: bytes, close: bool = False) -> None:
        self._parts = parts
        self._close = close

    @override
    def connectionMade(self) -> None:
        assert self.transport is not None
        for part in self._parts:
            self.transport.write(part)
        if self._close:
            self.transport.loseConnection()


class Node(Protocol):
    """What the caller of the endpoint gets."""

    lost: Failure | None = None

    @override
    def connectionLost(self, reason: Failure = Failure(CancelledError())) -> None:  # noqa: B008
        self.lost = reason


class Desk:
    """A real server, and a login to it over memory."""

    def __init__(self, serve: Callable[[], Protocol] | None = None, **settings: Any) -> None:
        self.clock = Clock()
        self.guests = settings.pop("guests", None) or Guests()
        self.services: list[Recorder] = []
        self.server = Server(
            self.clock, settings.pop("host_key", HOST_KEY), self.guests, Recorder, limits=settings.pop("limits", None)
        )
        self.memory = Memory(serve or self._accept)
        credentials = Credentials(USER, settings.pop("user_key", USER_KEY), settings.pop("pins", (line_of(HOST_KEY),)))
        self.endpoint = LoginEndpoint(
            self.clock,
            settings.pop("endpoint", None) or self.memory,
            credentials,
            settings.pop("connection", self._connection),
            where="node n1",
            **settings,
        )

    def _accept(self) -> Protocol:
        return self.server.buildProtocol(IPv4Address("TCP", "192.0.2.2", 40000))

    def _connection(self, identity: Any) -> Recorder:
        self.services.append(Recorder(identity))
        return self.services[-1]

    def connect(self) -> Deferred[Any]:
        """Dial, and let the bytes flow."""
        connecting = self.endpoint.connect(protocol_factory(Node))
        self.memory.flush()
        return connecting


class Case(SynchronousTestCase):
    """A desk that must be clean in the end."""

    def desk(self, serve: Callable[[], Protocol] | None = None, **settings: Any) -> Desk:
        desk = Desk(serve, **settings)
        self.addCleanup(self.swept, desk)
        return desk

    def swept(self, desk: Desk) -> None:
        desk.server.close("the test is over")
        desk.memory.flush()
        self.assertEqual(desk.clock.getDelayedCalls(), [])
        self.assertEqual([w for w in desk.memory.all if w.left.connected or w.right.connected], [])

    def refused(self, desk: Desk, kind: type[Exception]) -> Any:
        """The error of a login that fails with its connection closed, and no service made."""
        connecting = desk.connect()
        error = self.failureResultOf(connecting, kind).value
        self.assertEqual(desk.services, [])
        self.assertEqual([w for w in desk.memory.all if w.right.connected], [])
        return error


class LoginTests(Case):
    """A login that works."""

    def test_it_fires_with_the_callers_protocol_on_an_authenticated_transport(self) -> None:
        desk = self.desk()
        self.assertTrue(verifyObject(IStreamClientEndpoint, desk.endpoint))
        node = self.successResultOf(desk.connect())
        self.assertIsInstance(node, Node)
        self.assertIs(node.transport.service, desk.services[0])
        self.assertEqual(node.transport.identity.public_key, line_of(HOST_KEY))
        self.assertEqual(node.transport.identity.user, USER)

    def test_the_protocol_is_told_when_the_connection_is_gone(self) -> None:
        desk = self.desk()
        node = self.successResultOf(desk.connect())
        node.transport.loseConnection()
        desk.memory.flush()
        self.assertIsNotNone(node.lost)

    def test_it_does_not_fire_before_the_server_has_let_it_in(self) -> None:
        desk = self.desk(guests=Guests(slow=True))
        connecting = desk.connect()
        self.assertNoResult(connecting)
        desk.guests.asked[0].callback(None)
        desk.memory.flush()
        self.successResultOf(connecting)

    def test_the_client_signs_at_once(self) -> None:
        desk = self.desk()
        self.successResultOf(desk.connect())
        self.assertEqual(desk.guests.looked_up, 1)


class RefusalTests(Case):
    """A login that does not work says why, and leaves nothing open."""

    def test_a_key_that_is_not_known(self) -> None:
        error = self.refused(self.desk(user_key=Ed25519PrivateKey.generate()), Unauthenticated)
        self.assertEqual(str(error), "node n1 does not let aviseuser in with this key")

    def test_a_host_key_that_is_not_pinned(self) -> None:
        """(S17)"""
        desk = self.desk(host_key=USER_KEY)
        error = self.refused(desk, WrongHostKey)
        self.assertIn("and pinned is SHA256:", str(error))
        self.assertEqual(desk.guests.looked_up, 0)

    def test_no_pin_at_all(self) -> None:
        self.refused(self.desk(pins=()), WrongHostKey)

    def test_one_of_several_pins_is_enough(self) -> None:
        self.successResultOf(self.desk(pins=(line_of(USER_KEY), line_of(HOST_KEY))).connect())

    def test_a_node_that_has_no_time(self) -> None:
        desk = self.desk(guests=Guests(error=Unavailable("the old tunnel is being probed", retry_after_s=3)))
        error = self.refused(desk, Unavailable)
        self.assertEqual(error.retry_after_s, 3)
        self.assertIn("the old tunnel is being probed", str(error))

    def test_a_node_that_is_full(self) -> None:
        """(S11)"""
        error = self.refused(self.desk(limits=Limits(in_all=0, retry_after_s=9)), Unavailable)
        self.assertEqual(error.retry_after_s, 9)

    def test_a_wait_without_end_is_not_believed(self) -> None:
        told = bytes((1,)) + uint32(12) + string(b"retry-after=999999") + string(b"")
        desk = self.desk(lambda: Says(b"SSH-2.0-x\r\n", Outbound().seal(told), close=True))
        self.assertEqual(self.refused(desk, Unavailable).retry_after_s, 600)

    def test_a_greeting_that_says_why(self) -> None:
        desk = self.desk(lambda: Says(b"Exceeded MaxStartups\r\n", close=True))
        self.assertIn("Exceeded MaxStartups", str(self.refused(desk, Unavailable)))

    def test_a_node_that_is_not_there(self) -> None:
        @implementer(IStreamClientEndpoint)
        class Nowhere:
            def connect(self, protocolFactory: Any) -> Deferred[Any]:
                return fail(ConnectionRefusedError())

        error = self.refused(self.desk(endpoint=Nowhere()), Unavailable)
        self.assertIn("node n1 cannot be reached", str(error))

    def test_a_node_that_does_not_speak_ssh(self) -> None:
        for said in (b"HTTP/1.1 400 Bad Request\r\n" * 400, b"SSH-1.99-old\r\n", b"\0" * 300):
            self.refused(self.desk(lambda said=said: Says(said)), PeerError)

    def test_a_node_without_strict_key_exchange(self) -> None:
        """(S4)"""
        proposal = Proposal.of(Policy(), client=False)
        plain = replace(proposal, key_exchanges=Policy().key_exchanges)
        packet = Outbound().seal(bytes((phases.KEXINIT,)) + plain.encode(bytes(16)))
        error = self.refused(self.desk(lambda: Says(b"SSH-2.0-x\r\n", packet)), PeerError)
        self.assertIn("strict", str(error))

    def test_a_node_that_shows_a_key_it_does_not_have(self) -> None:
        proposal = Proposal.of(Policy(key_exchanges=(b"curve25519-sha256",)), client=False)
        outbound = Outbound()
        opening = outbound.seal(bytes((phases.KEXINIT,)) + proposal.encode(bytes(16)))
        blob = string(b"ssh-ed25519") + string(HOST_KEY.public_key().public_bytes_raw())
        for point, signature in (
            (b"\x09" + bytes(31), string(b"ssh-ed25519") + string(bytes(64))),
            (bytes(32), string(b"ssh-ed25519") + string(bytes(64))),
            (bytes(31), string(b"ssh-ed25519") + string(bytes(64))),
            (b"\x09" + bytes(31), b""),
        ):
            body = bytes((phases.KEX_REPLY,)) + string(blob) + string(point) + string(signature)
            sequenced = Outbound()
            sequenced.seal(b"x")
            reply = sequenced.seal(body)
            error = self.refused(self.desk(lambda reply=reply: Says(b"SSH-2.0-x\r\n", opening, reply)), PeerError)
            self.assertNotIn("Traceback", str(error))

    @settings(deadline=None, max_examples=150)
    @given(st.binary(max_size=300), st.booleans(), st.booleans())
    def test_noise_is_the_nodes_fault_and_leaves_no_traceback(self, noise: bytes, greeted: bool, framed: bool) -> None:
        """(S33)"""
        said = Outbound().seal(noise) if framed and noise else noise
        desk = Desk(lambda: Says(b"SSH-2.0-x\r\n" * greeted + said))
        connecting = desk.connect()
        desk.clock.advance(31)
        desk.memory.flush()
        self.failureResultOf(connecting, PeerError, Unavailable)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.swept(desk)

    def test_a_connection_that_ends_in_the_middle(self) -> None:
        self.refused(self.desk(lambda: Says(b"SSH-2.0-x\r\n", close=True)), Unavailable)


class OwnFaultTests(Case):
    """A fault of ours at the very end of a login."""

    def test_a_service_that_cannot_be_made_fails_the_login(self) -> None:
        def broken(identity: Identity) -> SSHService:
            raise ZeroDivisionError

        desk = self.desk(connection=broken)
        self.refused(desk, Unavailable)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class TimeTests(Case):
    """A login takes its time, or is called off."""

    def test_silence_ends_with_the_login_time(self) -> None:
        desk = self.desk(Says)
        connecting = desk.connect()
        desk.clock.advance(29)
        self.assertNoResult(connecting)
        desk.clock.advance(2)
        desk.memory.flush()
        self.failureResultOf(connecting, TimedOut)

    def test_dialling_counts_into_it(self) -> None:
        @implementer(IStreamClientEndpoint)
        class Endless:
            def connect(self, protocolFactory: Any) -> Deferred[Any]:
                return Deferred(lambda this: this.errback(ConnectingCancelledError(None)))

        desk = self.desk(endpoint=Endless())
        connecting = desk.connect()
        desk.clock.advance(31)
        self.failureResultOf(connecting, TimedOut)

    def test_a_login_that_is_cancelled_closes_its_connection(self) -> None:
        desk = self.desk(guests=Guests(slow=True))
        connecting = desk.connect()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        desk.memory.flush()
        self.assertEqual([w for w in desk.memory.all if w.right.connected], [])


class MidLifeTests(SynchronousTestCase):
    """The host key is looked at in every exchange."""

    def test_a_host_key_that_changes_with_the_keys_ends_it(self) -> None:
        """(S17)"""
        pair = logged_in(host_keys=(line_of(HOST_KEY), line_of(USER_KEY)))
        pair.server.host_key = HostKey(USER_KEY)
        pair.client.rekey()
        pair.flush()
        was, now = (fingerprint(line_of(key)) for key in (HOST_KEY, USER_KEY))
        self.assertIn(f"changed in mid-life from {was} to {now}", pair.client.why)
        self.assertTrue(pair.server.closing)
        pair.close()


class ServiceTests(Case):
    """`ClientService` dials again and again, and holds one connection."""

    def test_it_comes_back_after_a_loss_and_stops_cleanly(self) -> None:
        desk = self.desk()
        service = ClientService(
            desk.endpoint,
            protocol_factory(Node),
            retryPolicy=lambda attempt: 1.0,
            clock=desk.clock,  # type: ignore[arg-type]
        )
        service.startService()
        desk.memory.flush()
        first = self.successResultOf(service.whenConnected())
        desk.server.close("a restart")
        desk.memory.flush()
        desk.clock.advance(1)
        desk.memory.flush()
        second = self.successResultOf(service.whenConnected())
        self.assertIsNot(first, second)
        self.assertEqual(len(desk.guests.admitted), 2)
        stopping = service.stopService()
        desk.memory.flush()
        self.successResultOf(stopping)
        self.assertEqual(len(desk.guests.gone), 2)

    def test_it_waits_as_long_as_the_node_asks(self) -> None:
        desk = self.desk(guests=Guests(error=Unavailable("not yet", retry_after_s=20)))
        waits: list[float] = []

        def failed(attempt: int) -> float:
            return waits[-1]

        def look(result: Any) -> Any:
            if isinstance(result, Failure):
                waits.append(result.value.retry_after_s)  # type: ignore[attr-defined]
            return result

        @implementer(IStreamClientEndpoint)
        class Watching:
            def connect(self, protocolFactory: Any) -> Deferred[Any]:
                return desk.endpoint.connect(protocolFactory).addBoth(look)

        service = ClientService(Watching(), protocol_factory(Node), retryPolicy=failed, clock=desk.clock)  # type: ignore[arg-type]
        service.startService()
        desk.memory.flush()
        desk.guests.error = None
        desk.clock.advance(19)
        desk.memory.flush()
        self.assertEqual(desk.guests.admitted, [])
        desk.clock.advance(2)
        desk.memory.flush()
        self.assertEqual(len(desk.guests.admitted), 1)
        stopping = service.stopService()
        desk.memory.flush()
        self.successResultOf(stopping)
