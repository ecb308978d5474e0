"""A door and its client, joined in memory: what goes through, and what is refused (H1)."""

from __future__ import annotations

import gzip
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.test.iosim import FakeTransport, IOPump
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from avinet.aio import Tasks, as_deferred
from avinet.errors import Conflict, NotFound, PeerError, TimedOut, TooLarge, Unavailable
from avinet.relay import Relay
from avinet.rest.answering import DoorLimits
from avinet.rest.client import Client
from avinet.rest.door import Door
from avinet.rest.openapi import openapi
from avinet.rest.route import Pipe, Reply, Request, Route
from avinet.rest.table import Table
from avinet.wire.message import Id, Message


class Greeting(Message, frozen=True, kw_only=True):
    name: Id


async def greet(request: Request) -> Reply:
    return Reply(200, Greeting(name=request.decoded(Greeting).name + "-" + request.arguments["who"]))


async def refuse(request: Request) -> Reply:
    raise Conflict("it is there already", hint="choose another name")


async def wait(request: Request) -> Reply:
    raise Unavailable("not now", retry_after_s=7)


async def fail(request: Request) -> Reply:
    raise ZeroDivisionError


async def echo(request: Request) -> Reply:
    return Reply(200, request.body, {"content-type": "application/octet-stream"})


async def whoami(request: Request) -> Reply:
    return Reply(200, repr(request.identity).encode())


ROUTES = [
    Route("POST", "/v1/greetings/<who>", greet, "Greet", Greeting, Greeting),
    Route("GET", "/v1/refusal", refuse, "Refuse"),
    Route("GET", "/v1/wait", wait, "Wait"),
    Route("GET", "/v1/fault", fail, "Fail"),
    Route("PUT", "/v1/echo", echo, "Echo", bytes, bytes, limit_bytes=200_000),
    Route("GET", "/v1/whoami", whoami, "Who am I"),
]


class Network:
    """Connects clients to a door in memory; `pump` carries the bytes."""

    def __init__(self, clock: Clock, factory: Any) -> None:
        self.clock, self.factory, self.pumps = clock, factory, []

    def connect(self, client: Any) -> None:
        server = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4000))
        server_end = FakeTransport(server, isServer=True)
        client_end = FakeTransport(client, isServer=False)
        self.pumps.append(IOPump(client, server, client_end, server_end, False))
        server.makeConnection(server_end)
        client.makeConnection(client_end)

    def pump(self) -> None:
        while any(pump.pump() for pump in self.pumps):
            self.clock.advance(0)


@implementer(IStreamClientEndpoint)
class Endpoint:
    def __init__(self, network: Network) -> None:
        self.network = network

    def connect(self, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        self.network.connect(protocol)
        return succeed(protocol)


class DoorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.tasks = Tasks()
        self.door = Door(self.clock, Table(ROUTES), tasks=self.tasks, identify=lambda _: "se-1")
        self.network = Network(self.clock, self.door)
        self.client = Client(self.clock, Endpoint(self.network), authority="control", where="the node")

    def ask(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        asked = as_deferred(self.client.request(*args, **kwargs))
        self.network.pump()
        return asked

    def raw(self, data: bytes) -> StringTransport:
        """Send `data` to the door as they are; what comes back is in the transport."""
        channel = self.door.buildProtocol(None)
        assert channel is not None
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(data)
        return transport

    def test_a_message_goes_in_and_a_message_comes_out(self) -> None:
        answer = self.successResultOf(self.ask("POST", "/v1/greetings/bob", Greeting(name="hello")))
        self.assertEqual(answer.decoded(Greeting), Greeting(name="hello-bob"))

    def test_identity_is_what_the_door_knows(self) -> None:
        answer = self.successResultOf(self.ask("GET", "/v1/whoami", headers={"x-identity": "se-2"}))
        self.assertEqual(answer.body, b"'se-1'")

    def test_an_error_comes_back_as_the_same_error(self) -> None:
        error = self.failureResultOf(self.ask("GET", "/v1/refusal"), Conflict).value
        self.assertEqual(str(error), "it is there already; choose another name")

    def test_retry_after_comes_back(self) -> None:
        error = self.failureResultOf(self.ask("GET", "/v1/wait"), Unavailable).value
        self.assertEqual(error.retry_after_s, 7)

    def test_unknown_paths_and_methods_are_problems(self) -> None:
        self.failureResultOf(self.ask("GET", "/v1/nothing"), NotFound)
        error = self.failureResultOf(self.ask("DELETE", "/v1/echo"), PeerError).value
        self.assertIn("use PUT", str(error))

    def test_a_fault_of_ours_says_nothing_of_its_cause(self) -> None:
        error = self.failureResultOf(self.ask("GET", "/v1/fault")).value
        self.assertNotIn("ZeroDivision", str(error))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_large_body_passes_and_a_larger_one_is_refused(self) -> None:
        body = bytes(range(256)) * 700
        self.assertEqual(self.successResultOf(self.ask("PUT", "/v1/echo", body)).body, body)
        self.failureResultOf(self.ask("PUT", "/v1/echo", body * 2))
        self.failureResultOf(self.ask("POST", "/v1/greetings/x", body), TooLarge)

    def test_a_chunked_body_without_end_is_refused(self) -> None:
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        said = self.raw(b"PUT /v1/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 4)
        self.assertIn(b"413", said.value().split(b"\r\n")[0])
        self.assertTrue(said.disconnecting)
        self.clock.advance(120)

    def test_a_head_without_end_is_refused(self) -> None:
        said = self.raw(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100)
        self.assertIn(b"400", said.value().split(b"\r\n")[0])
        self.clock.advance(120)

    def test_a_slow_request_is_ended(self) -> None:
        channel = self.door.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        for byte in b"GET /v1/whoami HTTP/1.1":
            channel.dataReceived(bytes([byte]))
            self.clock.advance(2)
        self.assertIn(b"408", transport.value().split(b"\r\n")[0])
        self.clock.advance(120)

    def test_a_request_that_drips_is_ended_whatever_part_of_it_drips(self) -> None:
        for head in (b"", b"GET /v1/whoami HTTP/1.1\r\nx: ", b"PUT /v1/echo HTTP/1.1\r\ncontent-length: 100\r\n\r\n"):
            channel = self.door.buildProtocol(None)
            transport = StringTransport()
            channel.makeConnection(transport)
            channel.dataReceived(head + b"G")
            for _ in range(14):
                self.clock.advance(2)
                channel.dataReceived(b"E")
            self.assertEqual(transport.value(), b"")
            self.clock.advance(2)
            self.assertIn(b"408", transport.value().split(b"\r\n")[0])
            self.clock.advance(120)

    def test_an_answer_that_nobody_takes_is_dropped(self) -> None:
        class Stuck(StringTransport):
            aborted = False

            def abortConnection(self) -> None:
                self.aborted = True

        for ends in (b"", b"connection: close\r\n"):
            channel = self.door.buildProtocol(None)
            transport = Stuck()
            channel.makeConnection(transport)
            channel.dataReceived(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n" + ends + b"\r\n")
            self.assertIn(b" 200 ", transport.value())
            self.clock.advance(59)
            self.assertFalse(transport.aborted)
            self.clock.pump([2.0] * 31)
            self.assertTrue(transport.aborted)
            channel.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_requests_that_do_not_wait_for_their_answers_get_one(self) -> None:
        request = b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n"
        said = self.raw(request * 20)
        self.assertEqual(said.value().count(b"HTTP/1.1 200"), 1)
        self.assertTrue(said.disconnecting)
        waiting: Deferred[None] = Deferred()

        async def slow(request: Request) -> Reply:
            await waiting
            return Reply(200, b"done")

        self.door = Door(self.clock, Table([Route("GET", "/v1/whoami", slow, "Slow")]), tasks=self.tasks)
        said = self.raw(request * 20)
        waiting.callback(None)
        self.assertEqual(said.value().count(b"HTTP/1.1 200"), 1)
        self.assertTrue(said.disconnecting)

    def test_requests_that_wait_for_their_answers_share_a_connection(self) -> None:
        channel = self.door.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        for number in range(1, 21):
            channel.dataReceived(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n")
            self.assertEqual(transport.value().count(b"HTTP/1.1 200"), number)

    def status(self, data: bytes) -> bytes:
        return self.raw(data).value().split(b" ")[1]

    def test_what_is_too_long_or_too_many_is_refused(self) -> None:
        query = b"&".join(b"a=b" for _ in range(33))
        chunks = b"1\r\na\r\n" * 1000
        for head, status in (
            (b"GET /v1/whoami?" + query, b"400"),
            (b"GET /" + b"a/" * 1100, b"414"),
            (b"GET /v1/whoami?a=" + b"b" * 2048, b"414"),
            (b"PUT /v1/echo", b"413"),
        ):
            whole = head + b" HTTP/1.1\r\nhost: x\r\n"
            whole += b"transfer-encoding: chunked\r\n\r\n" + chunks if status == b"413" else b"\r\n"
            self.assertEqual(self.status(whole), status)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_folded_header_is_refused(self) -> None:
        self.assertEqual(self.status(b"GET /v1/whoami HTTP/1.1\r\nx: a\r\n b\r\n\r\n"), b"400")

    def test_nothing_is_unpacked_and_no_cookie_is_heeded(self) -> None:
        packed = gzip.compress(b"a" * 1_000_000)
        head = (
            b"PUT /v1/echo HTTP/1.1\r\nhost: x\r\ncookie: a=b\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
        )
        said = self.raw(head % len(packed) + packed)
        head, _, body = said.value().partition(b"\r\n\r\n")
        self.assertEqual(body, packed)
        self.assertNotIn(b"set-cookie", head.lower())

    def test_every_answer_is_inert_in_a_browser(self) -> None:
        """(H6)"""
        kinds = set()
        for data in (
            b"GET /v1/whoami HTTP/1.1\r\n\r\n",
            b"GET /v1/refusal HTTP/1.1\r\n\r\n",
            b"GET /v1/<script> HTTP/1.1\r\n\r\n",
            b'POST /v1/greetings/bob HTTP/1.1\r\ncontent-length: 16\r\n\r\n{"name":"alice"}',
            b"DELETE /v1/echo HTTP/1.1\r\n\r\n",
            b"GET /v1/whoami HTTP/1.0\r\n\r\n",
            b"PUT /v1/echo HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n",
            b"GET /v1/whoami\r\n\r\n",
            b"<script> a b c\r\n\r\n",
            b"GET / HTTP/1.1\r\nno header\r\n\r\n",
        ):
            head = self.raw(data).value().partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
            self.assertIn(b"content-security-policy: default-src 'none'; frame-ancestors 'none'", head, data)
            self.assertIn(b"x-content-type-options: nosniff", head, data)
            kinds |= {line for line in head if line.startswith(b"content-type:")}
        self.assertEqual(
            kinds, {b"content-type: application/" + kind for kind in (b"octet-stream", b"json", b"problem+json")}
        )

    def test_the_number_of_connections_is_bounded(self) -> None:
        door = Door(self.clock, Table(ROUTES), tasks=self.tasks, limits=DoorLimits(connections=2))
        self.assertIsNotNone(door.buildProtocol(None))
        self.assertIsNotNone(door.buildProtocol(None))
        self.assertIsNone(door.buildProtocol(None))

    def test_an_answer_that_is_too_long_is_refused_by_the_client(self) -> None:
        self.failureResultOf(self.ask("PUT", "/v1/echo", bytes(5000), limit_bytes=4999), TooLarge)

    def test_no_answer_is_a_time_out(self) -> None:
        silent = Client(
            self.clock, Endpoint(Network(self.clock, SilentFactory())), authority="control", where="the node"
        )
        asked = as_deferred(silent.request("GET", "/v1/whoami", timeout_s=5))
        self.clock.advance(5)
        self.failureResultOf(asked, TimedOut)

    def test_an_answer_that_drips_is_a_time_out_whatever_part_of_it_drips(self) -> None:
        for head in (b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b"HTTP/1.1 100 "):
            factory = SilentFactory()
            network = Network(self.clock, factory)
            slow = Client(self.clock, Endpoint(network), authority="control", where="the node")
            asked = as_deferred(slow.request("GET", "/v1/whoami", timeout_s=5))
            network.pump()
            (server,) = factory.made
            server.transport.write(head)
            for _ in range(9):
                server.transport.write(b"a")
                network.pump()
                self.clock.advance(0.5)
                self.assertNoResult(asked)
            self.clock.advance(0.5)
            self.failureResultOf(asked, TimedOut)
            network.pump()
            self.assertTrue(server.transport.disconnected)

    def test_a_peer_that_never_accepts_is_a_time_out(self) -> None:
        reactor = MemoryReactorClock()
        endpoint = TCP4ClientEndpoint(reactor, "192.0.2.1", 80)
        far = Client(reactor, endpoint, authority="control", where="the node")
        asked = as_deferred(far.request("GET", "/v1/whoami", timeout_s=5))
        reactor.advance(5)
        self.failureResultOf(asked, TimedOut)

    def test_openapi_names_every_route_and_type(self) -> None:
        description = openapi("test", "1", ROUTES)
        self.assertIn("post", description["paths"]["/v1/greetings/{who}"])
        self.assertIn("Greeting", description["components"]["schemas"])


class SilentFactory:
    def __init__(self) -> None:
        self.made: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        self.made.append(Protocol())
        return self.made[-1]


class PipeTests(SynchronousTestCase):
    """`Upgrade: avinet-pipe`, from the head of the request to the end of both streams."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.far = Relay()
        self.far_transport = StringTransport()
        self.far.makeConnection(self.far_transport)

        self.ready: Deferred[None] = succeed(None)

        async def open_pipe(request: Request) -> Pipe:
            await self.ready
            return Pipe(self.far)

        door = Door(self.clock, Table([Route("GET", "/v1/pipe", open_pipe, "Pipe")]), tasks=Tasks())
        self.channel = door.buildProtocol(None)
        self.near_transport = StringTransport()
        self.channel.makeConnection(self.near_transport)

    def upgrade(self, more: bytes = b"") -> None:
        self.channel.dataReceived(b"GET /v1/pipe HTTP/1.1\r\nhost: x\r\nupgrade: avinet-pipe\r\n\r\n" + more)

    def test_bytes_pass_both_ways_after_101(self) -> None:
        self.upgrade()
        head, _, rest = self.near_transport.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "))
        self.assertEqual(rest, b"")
        self.channel.dataReceived(b"to the far side")
        self.far.dataReceived(b"to the near side")
        self.assertEqual(self.far_transport.value(), b"to the far side")
        self.assertTrue(self.near_transport.value().endswith(b"\r\n\r\nto the near side"))

    def test_nothing_is_read_before_the_pipe_is_joined(self) -> None:
        self.assertEqual(self.far_transport.producerState, "paused")
        self.upgrade()
        self.assertEqual(self.far_transport.producerState, "producing")

    def test_bytes_before_the_101_are_refused(self) -> None:
        self.ready = Deferred()
        self.upgrade(b"too early")
        self.ready.callback(None)
        self.assertIn(b" 400 ", self.near_transport.value().split(b"\r\n")[0])
        self.assertTrue(self.far_transport.disconnected or self.far_transport.disconnecting)

    def test_the_loss_of_one_side_ends_the_other(self) -> None:
        self.upgrade()
        self.far.connectionLost()
        self.assertTrue(self.near_transport.disconnecting)
