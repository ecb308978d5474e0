"""The built-in HTTP proxy between a client and a server in memory: what HTTP/1.1 allows, and what it does not."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import Tasks
from avinet.dataplane.counting import Counter
from avinet.dataplane.http_proxy import ANSWER_S, IDLE_S, HTTPFront
from avinet.dataplane.pools import Member
from avinet.dataplane.records import Record
from avinet.errors import Unavailable
from avinet.wire.config import Pool, Server

GET = b"GET /a HTTP/1.1\r\nHost: example.net\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Transport(StringTransport):
    """A transport that takes note of what is done to it."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        if self.producer is not None:  # real ones do not mind
            super().unregisterProducer()

    @property
    def gone(self) -> bool:
        return self.disconnecting or self.disconnected

    def take(self) -> bytes:
        """What was written since it was last taken."""
        data = self.value()
        self.clear()
        return data


class Servers:
    """Stands in for a pool: each connection is a transport that the test answers on; `ready` may be waited for."""

    def __init__(self) -> None:
        self.opened: list[tuple[Protocol, Transport]] = []
        self.member = Member(Server(name="a", address="192.0.2.1", port=80), 0.0)
        self.config = Pool(name="p", servers=[self.member.server])
        self.ready: Deferred[None] | None = None
        self.away = False

    async def connect(self, factory: Any, dialled: list[str]) -> Any:
        if self.ready is not None:
            await self.ready
        if self.away:
            raise Unavailable("no server of pool p can be reached")
        dialled.append("a")
        protocol = factory.buildProtocol(None)
        transport = Transport()
        self.opened.append((protocol, transport))
        protocol.makeConnection(transport)
        return self.member, protocol


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin()
        self.addCleanup(self.end)

    def begin(self) -> None:
        """A client's connection to a service of its own."""
        self.clock = Clock()
        self.servers = Servers()
        self.counter = Counter("web")
        self.asked: list[tuple[str, str]] = []
        self.records: list[Record] = []
        self.site = HTTPFront(self.clock, self.counter, self.choose, Tasks(), self.records.append, tls=False)
        self.front: Any = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4000))
        self.client = Transport()
        self.front.makeConnection(self.client)
        self.left = False

    def leave(self) -> None:
        """The client's connection is lost."""
        self.left = True
        self.front.connectionLost(Failure(ConnectionDone()))

    def end(self) -> None:
        """Lose what is still open: nothing is left of it."""
        if not self.left:
            self.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.counter.connections, self.servers.member.active), (0, 0))
        self.assertEqual([transport.gone for _, transport in self.servers.opened].count(False), 0)

    def choose(self, host: str, path: str) -> Any:
        self.asked.append((host, path))
        return self.servers

    @property
    def back(self) -> Any:
        return self.servers.opened[-1][0]

    @property
    def server(self) -> Transport:
        return self.servers.opened[-1][1]

    def head(self, data: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """The first line, the headers (each once, names in lower case) and the rest of a message."""
        head, end, rest = data.partition(b"\r\n\r\n")
        self.assertEqual(end, b"\r\n\r\n", data)
        first, *lines = head.split(b"\r\n")
        named = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
        self.assertEqual(len(named), len(dict(named)), lines)
        return first, dict(named), rest

    def status(self) -> int:
        return int(self.client.value().split()[1])

    def exchange(self, request: bytes = GET, answer: bytes = OK) -> tuple[bytes, bytes]:
        """What the server was sent for `request`, and what the client was sent for `answer`."""
        self.client.clear()
        self.front.dataReceived(request)
        self.back.dataReceived(answer)
        return self.server.value(), self.client.take()

    def again(self) -> None:
        """End this connection, and begin another."""
        self.end()
        self.begin()


class RequestTests(Case):
    def test_a_request_is_written_anew(self) -> None:
        sent, answered = self.exchange()
        first, headers, rest = self.head(sent)
        self.assertEqual((first, rest), (b"GET /a HTTP/1.1", b""))
        self.assertEqual(
            headers,
            {
                b"host": b"example.net",
                b"x-forwarded-for": b"192.0.2.7",
                b"x-request-id": self.records[0].request_id.encode(),
                b"connection": b"close",
            },
        )
        self.assertEqual(self.head(answered), (b"HTTP/1.1 200 OK", {b"content-length": b"2"}, b"ok"))
        self.assertEqual(self.asked, [("example.net", "/a")])

    def test_headers_for_one_connection_are_not_passed_on(self) -> None:
        sent, answered = self.exchange(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n"
            b"Keep-Alive: 5\r\nUpgrade: websocket\r\nProxy-Connection: close\r\nX-End: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: 1\r\nx-end: 2\r\n\r\n",
        )
        self.assertEqual(
            set(self.head(sent)[1]), {b"host", b"x-end", b"x-forwarded-for", b"x-request-id", b"connection"}
        )
        self.assertEqual(self.head(answered)[1], {b"content-length": b"0", b"x-end": b"2"})
        self.assertFalse(self.client.gone)

    def test_connection_cannot_take_the_framing_away(self) -> None:
        sent, _ = self.exchange(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: content-length, host\r\nContent-Length: 2\r\n\r\nab"
        )
        _, headers, rest = self.head(sent)
        self.assertEqual((headers[b"content-length"], headers[b"host"], rest), (b"2", b"x", b"ab"))

    def test_a_length_beside_chunks_is_not_passed_on(self) -> None:
        """RFC 9112, section 6.3: otherwise a server could see another request in the body."""
        self.front.dataReceived(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        if self.servers.opened:
            _, headers, rest = self.head(self.server.value())
            self.assertNotIn(b"content-length", headers)
            self.assertEqual(rest, b"0\r\n\r\n")
        else:
            self.assertEqual(self.status(), 400)

    def test_chunks_both_ways(self) -> None:
        sent, answered = self.exchange(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nfgh\r\n0\r\n\r\n",
        )
        self.assertIn(b"3\r\nabc\r\n2\r\nde\r\n0\r\n", sent)
        self.assertTrue(answered.endswith(b"\r\n\r\n3\r\nfgh\r\n0\r\n\r\n"), answered)
        self.assertFalse(self.client.gone)

    def test_an_answer_that_ends_with_its_connection(self) -> None:
        self.front.dataReceived(GET)
        self.back.dataReceived(b"HTTP/1.0 200 OK\r\n\r\nabc")
        self.back.dataReceived(b"def")
        self.back.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(self.client.value().endswith(b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"), self.client.value())
        self.assertFalse(self.client.gone)

    def test_a_request_of_http_1_0(self) -> None:
        sent, answered = self.exchange(
            b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        self.assertIn(b"host", self.head(sent)[1])
        _, headers, rest = self.head(answered)
        self.assertNotIn(b"transfer-encoding", headers)
        self.assertEqual(rest, b"abc")
        self.assertTrue(self.client.gone)

    def test_head_has_a_length_and_no_body(self) -> None:
        request = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
        _, answered = self.exchange(request, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        self.assertEqual(self.head(answered)[1:], ({b"content-length": b"1000"}, b""))
        self.assertTrue(self.exchange(GET)[1].endswith(b"ok"))

    def test_answers_without_a_body(self) -> None:
        for line in (b"204 No Content", b"304 Not Modified"):
            _, answered = self.exchange(GET, b"HTTP/1.1 " + line + b"\r\n\r\n")
            self.assertEqual(self.head(answered), (b"HTTP/1.1 " + line, {}, b""))
        self.assertTrue(self.exchange(GET)[1].endswith(b"ok"))

    def test_one_connection_carries_many_requests(self) -> None:
        for _ in range(5):
            self.assertTrue(self.exchange()[1].endswith(b"ok"))
        taken = self.counter.take()
        assert taken is not None
        self.assertEqual((taken.requests, taken.new_connections, taken.status), (5, 1, {"2xx": 5}))

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        self.front.dataReceived(GET + GET.replace(b"/a", b"/b") + GET.replace(b"/a", b"/c"))
        for number in range(3):
            self.assertEqual(len(self.servers.opened), number + 1)
            self.back.dataReceived(OK.replace(b"ok", b"%02d" % number))
        answered = self.client.value()
        self.assertEqual(
            [answered.index(b"\r\n\r\n%02d" % number) for number in range(3)],
            sorted(answered.index(b"\r\n\r\n%02d" % number) for number in range(3)),
        )
        self.assertEqual([path for _, path in self.asked], ["/a", "/b", "/c"])

    def test_a_client_that_pipelines_without_end_is_not_read(self) -> None:
        self.front.dataReceived(GET + GET)
        self.assertEqual(self.client.producerState, "paused")
        self.back.dataReceived(OK)
        self.back.dataReceived(OK)
        self.assertEqual(self.client.producerState, "producing")

    def test_a_client_that_closes_after_this_request(self) -> None:
        _, answered = self.exchange(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        self.assertEqual(self.head(answered)[1][b"connection"], b"close")
        self.assertTrue(self.client.gone)

    def test_100_continue_comes_from_the_server(self) -> None:
        self.front.dataReceived(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        self.assertEqual(self.client.value(), b"")
        self.back.dataReceived(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertTrue(self.client.take().startswith(b"HTTP/1.1 100 "))
        self.front.dataReceived(b"ab")
        self.assertTrue(self.server.value().endswith(b"\r\n\r\nab"))
        self.back.dataReceived(OK)
        self.assertTrue(self.client.value().endswith(b"ok"))

    def test_an_answer_that_is_broken_off_is_not_passed_off_as_whole(self) -> None:
        for reason, whole in ((ConnectionDone(), True), (ConnectionLost(), False)):
            self.front.dataReceived(GET)
            self.back.dataReceived(b"HTTP/1.1 200 OK\r\n\r\na part")
            self.back.connectionLost(Failure(reason))
            self.assertEqual(self.client.value().endswith(b"0\r\n\r\n"), whole)
            self.assertEqual(self.client.disconnected, not whole, "an abort is told from an end")
            self.again()
        self.front.dataReceived(GET)
        self.back.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.status(), 502)

    def test_a_tunnel_is_refused(self) -> None:
        self.front.dataReceived(b"CONNECT example.net:443 HTTP/1.1\r\nHost: example.net:443\r\n\r\n")
        self.assertEqual(self.status(), 405)
        self.assertEqual(self.servers.opened, [])
        self.assertTrue(self.client.gone)

    @given(st.binary(max_size=3000), st.lists(st.integers(1, 400), max_size=20), st.booleans())
    @settings(max_examples=50, deadline=None)
    def test_however_the_bytes_arrive(self, body: bytes, cuts: list[int], chunked: bool) -> None:
        self.again()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        inside = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n" if chunked else body
        request = b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + inside
        for cut in [*cuts, len(request)]:
            if request:
                self.front.dataReceived(request[:cut])
            request = request[cut:]
        sent = self.head(self.server.value())[2]
        received = b"".join(_chunks(sent)) if chunked else sent
        self.assertEqual(received, body)
        self.back.dataReceived(OK)
        self.assertTrue(self.client.value().endswith(b"ok"))


def _chunks(data: bytes) -> list[bytes]:
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        parts.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
    return parts


class RefusalTests(Case):
    def refused(self, status: int) -> None:
        self.assertEqual(self.status(), status, self.client.value())
        self.assertTrue(self.client.gone)
        _, headers, body = self.head(self.client.value())
        self.assertEqual((int(headers[b"content-length"]), headers[b"connection"]), (len(body), b"close"))

    def test_what_is_no_request_is_400(self) -> None:
        for data in (
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
            b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ):
            self.again()
            self.front.dataReceived(data)
            self.refused(400)
            self.assertEqual(self.servers.opened, [])

    def test_an_unknown_coding_is_501(self) -> None:
        self.front.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n")
        self.refused(501)

    def test_a_head_that_is_too_large_is_431(self) -> None:
        self.front.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000)
        self.refused(431)

    def test_a_bad_chunk_ends_both_sides(self) -> None:
        self.front.dataReceived(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        self.refused(400)
        self.assertTrue(self.server.gone)

    def test_no_pool_is_503(self) -> None:
        self.site.choose = lambda host, path: None
        self.front.dataReceived(GET)
        self.refused(503)

    def test_no_server_is_503(self) -> None:
        self.servers.away = True
        self.front.dataReceived(GET)
        self.refused(503)
        taken = self.counter.take()
        assert taken is not None
        self.assertEqual(taken.status, {"5xx": 1})

    def test_no_server_for_head_is_503_without_a_body(self) -> None:
        self.servers.away = True
        self.front.dataReceived(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(self.status(), 503)
        self.assertEqual(self.head(self.client.value())[2], b"")
        self.assertTrue(self.client.gone)

    def test_a_server_that_closes_before_it_answers_is_502(self) -> None:
        for answer in (b"", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue\r\n\r\n"):
            self.again()
            self.front.dataReceived(GET)
            if answer:
                self.back.dataReceived(answer)
            self.client.clear()
            self.back.connectionLost(Failure(ConnectionDone()))
            self.refused(502)

    def test_a_server_that_closes_within_its_answer_ends_the_client(self) -> None:
        for answer in (OK[:-1], b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab"):
            self.again()
            self.front.dataReceived(GET)
            self.back.dataReceived(answer)
            self.back.connectionLost(Failure(ConnectionDone()))
            self.assertTrue(self.client.disconnected)
            self.assertNotIn(b"0\r\n\r\n", self.client.value())

    def test_a_server_that_speaks_no_http_is_502(self) -> None:
        for answer in (
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nx: " + b"x" * 20_000,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        ):
            self.again()
            self.front.dataReceived(GET)
            self.back.dataReceived(answer)
            self.refused(502)

    def test_a_server_that_says_more_than_it_announced_cannot_answer_the_next_request(self) -> None:
        _, answered = self.exchange(GET, OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        self.assertTrue(answered.endswith(b"\r\n\r\nok"))
        self.assertTrue(self.server.gone)
        self.assertTrue(self.exchange()[1].endswith(b"ok"))

    def test_an_early_answer_ends_the_connection(self) -> None:
        self.front.dataReceived(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        self.back.dataReceived(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        self.assertEqual(self.status(), 413)
        self.assertTrue(self.client.gone)
        self.front.dataReceived(b"def" + GET)
        self.assertEqual(len(self.servers.opened), 1)

    def test_a_client_that_leaves_in_its_body_leaves_no_connection_open(self) -> None:
        self.front.dataReceived(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        self.leave()
        self.assertTrue(self.server.gone)
        self.assertEqual((self.counter.connections, self.servers.member.active), (0, 0))

    def test_a_client_that_leaves_while_a_server_is_dialled(self) -> None:
        self.servers.ready = Deferred()
        self.front.dataReceived(GET)
        self.leave()
        self.servers.ready.callback(None)
        self.assertTrue(self.server.gone)
        self.assertEqual(self.counter.connections, 0)


class TimeTests(Case):
    def test_a_silent_client_is_ended(self) -> None:
        self.front.dataReceived(GET[:-2])
        self.clock.advance(IDLE_S)
        self.assertTrue(self.client.disconnected)

    def test_an_idle_connection_is_ended(self) -> None:
        self.exchange()
        self.clock.advance(IDLE_S)
        self.assertTrue(self.client.disconnected)

    def test_a_silent_server_is_504(self) -> None:
        self.front.dataReceived(GET)
        self.clock.advance(ANSWER_S)
        self.assertEqual(self.status(), 504)
        self.assertTrue(self.server.gone)

    def test_a_long_download_goes_on_as_long_as_it_moves(self) -> None:
        self.front.dataReceived(GET)
        self.back.dataReceived(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
        for _ in range(10):
            self.clock.advance(ANSWER_S * 0.9)
            self.back.dataReceived(b"x")
        self.assertTrue(self.client.value().endswith(b"\r\n\r\nxxxxxxxxxx"))
        self.assertFalse(self.client.gone)

    def test_a_long_upload_goes_on_as_long_as_it_moves(self) -> None:
        self.front.dataReceived(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            self.clock.advance(ANSWER_S * 0.9)
            self.front.dataReceived(b"x")
        self.back.dataReceived(OK)
        self.assertEqual(self.status(), 200)

    def test_the_time_of_a_request_begins_with_its_head(self) -> None:
        self.exchange()
        self.counter.take()
        self.clock.advance(30)
        self.front.dataReceived(GET)
        self.clock.advance(0.1)
        self.back.dataReceived(OK)
        taken = self.counter.take()
        assert taken is not None
        self.assertTrue(0.09 < taken.latency.percentile_s(1.0) < 0.11)

    def test_a_request_that_cannot_be_understood_took_no_time(self) -> None:
        self.exchange()
        self.counter.take()
        self.clock.advance(30)
        self.front.dataReceived(b"nonsense\r\n\r\n")
        taken = self.counter.take()
        assert taken is not None
        self.assertLess(taken.latency.percentile_s(1.0), 0.01)


class PressureTests(Case):
    def test_a_client_that_reads_slowly_stops_its_server(self) -> None:
        self.front.dataReceived(GET)
        self.back.dataReceived(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
        self.client.producer.pauseProducing()
        self.assertEqual(self.server.producerState, "paused")
        self.client.producer.resumeProducing()
        self.assertEqual(self.server.producerState, "producing")

    def test_a_server_that_reads_slowly_stops_its_client(self) -> None:
        self.front.dataReceived(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        self.server.producer.pauseProducing()
        self.assertEqual(self.client.producerState, "paused")
        self.server.producer.resumeProducing()
        self.assertEqual(self.client.producerState, "producing")

    def test_a_client_is_not_read_while_a_server_is_dialled(self) -> None:
        self.servers.ready = Deferred()
        self.front.dataReceived(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        self.assertEqual(self.client.producerState, "paused")
        self.servers.ready.callback(None)
        self.assertEqual(self.client.producerState, "producing")

    def test_neither_side_is_a_producer_of_the_other_afterwards(self) -> None:
        self.exchange()
        self.assertEqual((self.client.producer, self.server.producer), (None, None))
