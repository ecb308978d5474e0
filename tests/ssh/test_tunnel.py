"""A tunnel between two real ends: services by name in both directions, and the knowledge that the peer is alive."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import HTTP11ClientProtocol, Request, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from twisted.web.static import Data
from typing_extensions import override
from zope.interface import implementer
from zope.interface.verify import verifyObject

from avinet.aio import as_deferred
from avinet.errors import Conflict, Invalid, NotFound, TimedOut, TooMany, Unavailable
from avinet.ssh.channel import Channel
from avinet.ssh.ciphers import CIPHERS
from avinet.ssh.messages import CHANNEL_OPEN, CONNECT_FAILED, GLOBAL_REQUEST, PROHIBITED, UNKNOWN_KIND
from avinet.ssh.opening import ChannelLimits, OpenRefused, RequestRefused
from avinet.ssh.outgoing import HIGH_BYTES
from avinet.ssh.policy import Policy
from avinet.ssh.services import CANCEL, DIRECT, FORWARD, FORWARDED, Destination
from avinet.ssh.strings import string, uint32
from tests.ssh.joined import ADDRESS, Talker, factory_of
from tests.ssh.test_channel import Endless
from tests.ssh.test_services import REAL
from tests.ssh.tunnels import Tunnels


class TunnelCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.tunnels = Tunnels()
        self.server, self.client = self.tunnels.server, self.tunnels.client
        self.addCleanup(lambda: self.tunnels.close())


class ServiceTests(TunnelCase):
    def made(self, services: Any, name: str) -> Talker:
        talker: Talker = services[name].made[-1]
        return talker

    def test_the_client_reaches_a_service_of_the_server(self) -> None:
        near = self.tunnels.talk(self.client, "control:80")
        far = self.made(self.tunnels.server_services, "control:80")
        near.transport.write(b"hello")
        far.transport.write(b"hello, engine")
        self.tunnels.settle()
        self.assertEqual((far.received, near.received), (b"hello", b"hello, engine"))
        self.assertEqual(far.transport.getPeer().service, "control:80")

    def test_the_server_reaches_a_service_that_the_client_offers(self) -> None:
        self.successResultOf(self.tunnels.offer("ssh:22"))
        self.assertEqual((self.server.offered, self.tunnels.offers), ({"ssh:22"}, ["ssh:22"]))
        near = self.tunnels.talk(self.server, "ssh:22")
        near.transport.write(b"hello")
        self.tunnels.settle()
        self.assertEqual(self.made(self.tunnels.client_services, "ssh:22").received, b"hello")

    def test_api_is_another_name_of_control(self) -> None:
        self.tunnels.talk(self.client, "api:80")
        self.assertEqual(len(self.tunnels.server_services["control:80"].made), 1)  # type: ignore[attr-defined]

    def test_an_endpoint_is_one(self) -> None:
        verifyObject(IStreamClientEndpoint, self.client.endpoint("control:80"))

    def test_what_is_no_name_has_no_endpoint(self) -> None:
        self.assertRaises(Invalid, self.client.endpoint, "control")

    def test_a_service_that_was_not_offered_is_not_found(self) -> None:
        self.failureResultOf(self.server.endpoint("ssh:22").connect(factory_of(Talker())), NotFound)

    def test_a_connection_attempt_is_cancelled(self) -> None:
        attempt = self.client.endpoint("control:80").connect(factory_of(Talker()))
        attempt.cancel()
        self.failureResultOf(attempt, CancelledError)
        self.tunnels.settle()
        self.assertEqual(self.server.channels, 0)

    def test_only_a_client_offers_and_only_what_it_has_and_once(self) -> None:
        self.failureResultOf(as_deferred(self.server.offer("control:80")), Conflict)
        self.failureResultOf(self.tunnels.offer("logs:80"), NotFound)
        self.successResultOf(self.tunnels.offer("ssh:22"))
        self.failureResultOf(self.tunnels.offer("ssh:22"), Conflict)

    def test_an_offer_that_the_server_does_not_take_is_refused(self) -> None:
        self.tunnels.client_services["reports:80"] = Factory()
        self.failureResultOf(self.tunnels.offer("reports:80"), RequestRefused)
        self.assertEqual((self.server.offered, self.tunnels.offers), (frozenset(), []))


class NewKeysTests(SynchronousTestCase):
    def test_ten_thousand_changes_of_keys_on_one_tunnel(self) -> None:
        """(S20)"""
        policies = [Policy(key_exchanges=(b"curve25519-sha256",), ciphers=(cipher,)) for cipher in CIPHERS]
        tunnels = Tunnels(client_policy=policies[0])
        near = tunnels.talk(tunnels.client, "control:80")
        far = tunnels.server_services["control:80"].made[-1]  # type: ignore[attr-defined]
        for number in range(10_000):
            tunnels.pair.client.policy = policies[number % len(policies)]
            (tunnels.pair.client, tunnels.pair.server)[number // 2 % 2].rekey()
            near.transport.write(uint32(number))
            far.transport.write(uint32(number))
            tunnels.settle()
        sent = b"".join(map(uint32, range(10_000)))
        self.assertEqual((far.received, near.received), (sent, sent))
        self.assertEqual({tunnels.pair.server.exchanges, tunnels.pair.client.exchanges}, {10_001})
        tunnels.close()


class HostileTests(TunnelCase):
    """What a peer that is logged in can ask for, and does not get."""

    def opened(self, end: Any, kind: bytes, body: bytes) -> int:
        """The reason why `end` cannot open a channel."""
        attempt = as_deferred(end.open(kind, body, factory_of(Talker()), ADDRESS))
        self.tunnels.settle()
        code: int = self.failureResultOf(attempt, OpenRefused).value.code
        return code

    def test_real_hosts_and_addresses_are_not_reached(self) -> None:
        """(S31)"""
        for host, port in REAL:
            self.assertEqual(self.opened(self.client, DIRECT, Destination(host, port).encode_open()), PROHIBITED)
        self.tunnels.talk(self.client, "control:80")

    def test_nothing_listens_on_real_hosts_and_addresses(self) -> None:
        """(S31)"""
        for host, port in REAL:
            asked = self.client.request(FORWARD, Destination(host, port).encode())
            self.tunnels.settle()
            self.failureResultOf(asked, RequestRefused)
        self.assertEqual(self.server.offered, frozenset())
        self.tunnels.talk(self.client, "control:80")

    def test_an_offer_comes_once_and_goes_once(self) -> None:
        """(S31)"""
        control = Destination(b"control", 80).encode()
        answers = [self.client.request(name, control) for name in (FORWARD, FORWARD, CANCEL, CANCEL, FORWARD)]
        self.tunnels.settle()
        self.assertEqual([self.successResultOf(answers[n]) for n in (0, 2, 4)], [b""] * 3)
        for n in (1, 3):
            self.failureResultOf(answers[n], RequestRefused)
        self.assertEqual(self.server.offered, {"control:80"})

    def test_what_was_taken_back_is_not_asked_for(self) -> None:
        self.successResultOf(self.tunnels.offer("ssh:22"))
        self.client.request(CANCEL, Destination(b"ssh", 22).encode())
        self.tunnels.settle()
        self.failureResultOf(self.server.endpoint("ssh:22").connect(factory_of(Talker())), NotFound)

    def test_a_flood_of_offers_is_refused(self) -> None:
        """(S30)"""
        for batch in range(100):
            asked = [self.client.request(FORWARD, string(b"host%d" % n) + uint32(batch + 1)) for n in range(20)]
            self.tunnels.settle()
            for each in asked:
                self.failureResultOf(each, RequestRefused)
        self.assertEqual(self.server.offered, frozenset())

    def test_the_client_serves_only_what_is_on_offer(self) -> None:
        """(S31)"""
        self.successResultOf(self.tunnels.offer("control:80"))
        for host, port in [*REAL, (b"ssh", 22), (b"api", 80)]:
            self.assertEqual(self.opened(self.server, FORWARDED, Destination(host, port).encode_open()), PROHIBITED)

    def test_the_wrong_kinds_of_channel_are_unknown(self) -> None:
        control = Destination(b"control", 80).encode_open()
        for kind in (FORWARDED, b"session", b"x11", b"auth-agent@openssh.com", b"tun@openssh.com", b""):
            self.assertEqual(self.opened(self.client, kind, control), UNKNOWN_KIND)
        for kind in (DIRECT, b"session"):
            self.assertEqual(self.opened(self.server, kind, control), UNKNOWN_KIND)

    def test_a_service_that_builds_no_protocol_refuses(self) -> None:
        class Closed(Factory):
            @override
            def buildProtocol(self, addr: Any) -> None:
                return None

        self.tunnels.server_services["control:80"] = Closed()
        self.assertEqual(self.opened(self.client, DIRECT, Destination(b"control", 80).encode_open()), PROHIBITED)

    def test_a_service_that_fails_refuses(self) -> None:
        class Broken(Factory):
            @override
            def buildProtocol(self, addr: Any) -> None:
                raise RuntimeError("broken")

        self.tunnels.server_services["control:80"] = Broken()
        self.assertEqual(self.opened(self.client, DIRECT, Destination(b"control", 80).encode_open()), CONNECT_FAILED)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_malformed_message_ends_the_tunnel(self) -> None:
        for number, payload in (
            (GLOBAL_REQUEST, string(FORWARD) + b"\1" + string(b"control")),
            (CHANNEL_OPEN, string(DIRECT) + uint32(0) + uint32(1000) + uint32(1000) + string(b"control")),
        ):
            tunnels = Tunnels()
            tunnels.pair.client.sendPacket(number, payload)
            tunnels.settle()
            self.assertTrue(tunnels.server.lost)
            tunnels.close()

    def test_many_channels_are_refused(self) -> None:
        """(S30)"""
        tunnels = Tunnels(limits=ChannelLimits(channels=10))
        for _ in range(10):
            tunnels.talk(tunnels.client, "control:80")
        self.failureResultOf(tunnels.client.endpoint("control:80").connect(factory_of(Talker())), TooMany)
        tunnels.close()


class EndTests(SynchronousTestCase):
    def test_a_tunnel_that_is_closed_says_why(self) -> None:
        tunnels = Tunnels()
        lost = tunnels.client.when_lost()
        near = tunnels.talk(tunnels.client, "control:80")
        tunnels.server.close("the node goes down")
        tunnels.settle()
        self.assertEqual(self.successResultOf(lost), "it said: the node goes down")
        self.assertEqual(self.successResultOf(tunnels.client.when_lost()), "it said: the node goes down")
        self.assertEqual(len(near.lost), 1)
        self.failureResultOf(tunnels.client.endpoint("control:80").connect(factory_of(Talker())), Unavailable)
        tunnels.close()

    def test_a_thousand_bytes_in_each_of_a_hundred_channels_survive_an_end_in_order(self) -> None:
        tunnels = Tunnels()
        for _ in range(100):
            near = tunnels.talk(tunnels.client, "control:80")
            near.transport.write(bytes(1000))
            near.transport.loseConnection()
        tunnels.settle()
        made = tunnels.server_services["control:80"].made  # type: ignore[attr-defined]
        self.assertEqual([len(far.received) for far in made], [1000] * 100)
        self.assertEqual((tunnels.server.channels, tunnels.client.channels), (0, 0))
        tunnels.close()


class GarbageTests(SynchronousTestCase):
    def test_a_channel_that_was_closed_waits_for_no_collection(self) -> None:
        tunnels = Tunnels()
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        others = self.channels()
        near = tunnels.talk(tunnels.client, "control:80")
        self.assertEqual(self.channels(), others + 2)
        near.transport.loseConnection()
        tunnels.settle()
        tunnels.server_services["control:80"].made.clear()  # type: ignore[attr-defined]
        del near
        self.assertEqual(self.channels(), others)
        tunnels.close()

    def channels(self) -> int:
        """How many there are in the process, those that nobody uses included."""
        return sum(isinstance(each, Channel) for each in gc.get_objects())


class LendingTests(SynchronousTestCase):
    """Data that is lent, over two real transports."""

    def test_small_packets_of_several_channels_keep_their_order_up_to_the_end(self) -> None:
        tunnels = Tunnels(limits=ChannelLimits(window_bytes=1 << 20, packet_bytes=1000))
        nears = [tunnels.talk(tunnels.client, "control:80") for _ in range(3)]
        fars = tunnels.server_services["control:80"].made
        borrowers = [Borrower() for _ in fars]
        for far, borrower in zip(fars, borrowers, strict=True):
            far.transport.lend_to(borrower)
        parts = [[bytes((turn, which)) * (1 + (turn * 37) % 700) for turn in range(80)] for which in range(3)]
        for turn in range(80):
            for near, each in zip(nears, parts, strict=True):
                near.transport.write(each[turn])
                if turn % 5 == 0:
                    near.transport.write(each[turn])
        for near in nears:
            near.transport.loseWriteConnection()
        tunnels.settle()
        for far, borrower, each in zip(fars, borrowers, parts, strict=True):
            expected = b"".join(part * (2 if turn % 5 == 0 else 1) for turn, part in enumerate(each))
            self.assertEqual(bytes(borrower.received), expected)
            self.assertIn("read lost", far.events)
            self.assertGreater(borrower.together, 1, "several packets were lent in one call")
        for near in nears:
            near.transport.loseConnection()
        tunnels.settle()
        tunnels.close()

    def test_a_borrower_that_pauses_in_the_middle_loses_nothing(self) -> None:
        """(S25)"""
        tunnels = Tunnels(limits=ChannelLimits(packet_bytes=1000))
        near = tunnels.talk(tunnels.client, "control:80")
        (far,) = tunnels.server_services["control:80"].made
        borrower = Borrower(lambda: far.transport.pauseProducing())
        far.transport.lend_to(borrower)
        sent = bytes(range(251)) * 4000
        near.transport.write(sent)
        for _ in range(10_000):
            tunnels.settle()
            if len(borrower.received) == len(sent):
                break
            far.transport.resumeProducing()
        self.assertEqual(bytes(borrower.received), sent)
        near.transport.loseConnection()
        tunnels.settle()
        tunnels.close()


class Borrower:
    """Copies what it is lent; `together` is how many pieces came in one call at most."""

    def __init__(self, lent: Callable[[], None] = lambda: None) -> None:
        self.received = bytearray()
        self.together = 0
        self._lent = lent

    def buffer(self) -> memoryview | None:
        raise AssertionError("a channel has memory of its own")

    def lent(self, data: memoryview) -> None:
        self.lent_all((data,))

    def lent_all(self, pieces: Sequence[memoryview]) -> None:
        self.together = max(self.together, len(pieces))
        self.received += b"".join(pieces)
        self._lent()


class LivenessTests(SynchronousTestCase):
    def test_a_probe_measures_the_round_trip_from_both_ends(self) -> None:
        tunnels = Tunnels()
        for end in (tunnels.server, tunnels.client):
            probing = as_deferred(end.probe(2.0))
            tunnels.clock.advance(0.25)
            tunnels.settle()
            self.assertEqual(self.successResultOf(probing), 0.25)
        tunnels.close()

    def test_a_probe_has_a_deadline(self) -> None:
        tunnels = Tunnels()
        probing = as_deferred(tunnels.server.probe(2.0))
        tunnels.clock.advance(2.0)
        self.failureResultOf(probing, TimedOut)
        tunnels.close()

    def test_a_peer_that_falls_silent_is_noticed_by_both_ends_within_15_seconds(self) -> None:
        """(S34)"""
        tunnels = Tunnels()
        near = tunnels.talk(tunnels.client, "control:80")
        for _ in range(150):
            tunnels.clock.advance(0.1)
        self.assertTrue(tunnels.pair.wires.left.aborted, "the server has given up")
        self.assertTrue(tunnels.pair.wires.right.aborted, "the client has given up")
        tunnels.settle()
        self.assertEqual((tunnels.server.why, tunnels.client.why), ("it gives no sign of life",) * 2)
        self.assertEqual(len(near.lost), 1)
        self.assertEqual(tunnels.clock.getDelayedCalls(), [])

    def test_an_idle_tunnel_stays_and_costs_little(self) -> None:
        """(S34)"""
        tunnels = Tunnels()
        before = tunnels.pair.wires.moved_bytes
        for _ in range(36_000):
            tunnels.clock.advance(0.1)
            tunnels.pair.wires.flush()
        self.assertFalse(tunnels.server.lost)
        self.assertFalse(tunnels.client.lost)
        self.assertLess(tunnels.pair.wires.moved_bytes - before, 3600 * 33)
        self.assertLessEqual(len(tunnels.clock.getDelayedCalls()), 2)
        tunnels.close()

    def test_any_packet_counts(self) -> None:
        tunnels = Tunnels()
        near = tunnels.talk(tunnels.client, "control:80")
        far = tunnels.server_services["control:80"].made[-1]  # type: ignore[attr-defined]
        before = len(far.received)
        for _ in range(100):
            near.transport.write(b"x")
            far.transport.write(b"y")
            tunnels.settle()
            tunnels.clock.advance(1.0)
        self.assertEqual(len(far.received) - before, 100)
        self.assertEqual((tunnels.server.strays, tunnels.server.refused), (0, 0), "nobody had to ask")
        tunnels.close()

    def test_a_sign_of_life_is_a_global_request_from_either_end(self) -> None:
        """(S22)"""
        tunnels = Tunnels()
        asked = [end._inbound.taken_packets for end in (tunnels.pair.server, tunnels.pair.client)]
        for _ in range(150):
            tunnels.clock.advance(0.1)
            tunnels.settle()
        questions = tunnels.server.refused + tunnels.client.refused
        self.assertGreater(questions, 0)
        self.assertEqual(
            [
                end._inbound.taken_packets - n
                for end, n in zip((tunnels.pair.server, tunnels.pair.client), asked, strict=True)
            ],
            [questions, questions],
            "questions and their answers, and nothing else",
        )
        tunnels.close()

    def test_who_was_stopped_itself_asks_once_more(self) -> None:
        tunnels = Tunnels()
        tunnels.clock.advance(3600.0)
        tunnels.settle()
        self.assertFalse(tunnels.server.lost)
        self.assertFalse(tunnels.client.lost)
        tunnels.close()


class Large(Resource):
    """Answers with more than any window, as fast as it is taken."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[Endless] = []

    @override
    def render_GET(self, request: Any) -> int:
        source = Endless(request, most=3000)
        self.sources.append(source)
        done = source.resumeProducing

        def resume() -> None:
            done()
            if not source.left:
                request.unregisterProducer()
                request.finish()

        source.resumeProducing = resume  # type: ignore[method-assign]
        resume()
        return NOT_DONE_YET


class Digest(Resource):
    """Answers with the hash of what it was sent."""

    isLeaf = True

    @override
    def render_POST(self, request: Any) -> bytes:
        return sha256(request.content.read()).hexdigest().encode()


@implementer(IBodyProducer)
class Body:
    """A large body, written all at once."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    def startProducing(self, consumer: Any) -> Any:
        from twisted.internet.defer import succeed

        consumer.write(self.data)
        return succeed(None)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


class WebTests(TunnelCase):
    """twisted.web on both ends of a channel, in both directions."""

    def serve(self, root: Resource) -> None:
        site = Site(root, reactor=self.tunnels.clock, timeout=None)  # type: ignore[arg-type]
        site.noisy = False
        site.log = lambda request: None  # type: ignore[method-assign]
        self.addCleanup(site.stopFactory)
        site.startFactory()
        self.tunnels.client_services["control:80"] = site
        self.tunnels.server_services["control:80"] = site
        self.successResultOf(self.tunnels.offer("control:80"))

    def ask(self, end: Any, method: bytes, uri: bytes, body: Any = None) -> Any:
        client = HTTP11ClientProtocol()
        end.endpoint("control:80").connect(factory_of(client))
        self.tunnels.settle()
        answered = client.request(Request(method, uri, Headers({"host": ["control"]}), body, persistent=False))
        self.tunnels.settle()
        return answered

    def test_a_request_and_its_answer_in_both_directions(self) -> None:
        root = Resource()
        root.putChild(b"hello", Data(b"hello", "text/plain"))
        self.serve(root)
        for end in (self.client, self.server):
            response = self.successResultOf(self.ask(end, b"GET", b"/hello"))
            body = readBody(response)
            self.tunnels.settle()
            self.assertEqual(self.successResultOf(body), b"hello")
        self.assertEqual((self.client.channels, self.server.channels), (0, 0))

    def test_a_large_body_arrives_whole(self) -> None:
        self.serve(Digest())
        data = bytes(range(256)) * 8192
        response = self.successResultOf(self.ask(self.client, b"POST", b"/", Body(data)))
        body = readBody(response)
        self.tunnels.settle()
        self.assertEqual(self.successResultOf(body), sha256(data).hexdigest().encode())

    def test_an_answer_that_nobody_reads_is_not_produced(self) -> None:
        """(S24)"""
        large = Large()
        self.serve(large)
        response = self.successResultOf(self.ask(self.client, b"GET", b"/"))
        (source,) = large.sources
        self.assertTrue(source.paused)
        window = self.server.limits.window_bytes
        self.assertLess(source.written, window + 2 * HIGH_BYTES)
        body = readBody(response)
        self.tunnels.settle()
        self.assertEqual(len(self.successResultOf(body)), 3_000_000)
