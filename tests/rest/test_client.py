"""What a hostile server can do to a client (H1, H13): it is bounded, in bytes and in time, and ends in one error."""

from __future__ import annotations

import gzip
from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from avinet.errors import AvinetError, PeerError, TimedOut, TooLarge, Unavailable
from avinet.rest.client import HEAD_LIMIT_BYTES, Answer, Client
from tests.running import asynchronous, eventually

OK = b"HTTP/1.1 200 OK\r\n"


class Scripted(Protocol):
    """Writes what it was told to when it is asked; for ever when that is called `endless`."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def connectionMade(self) -> None:
        self.server.open += 1

    def dataReceived(self, data: bytes) -> None:
        self.server.asked.append(data)
        answer = self.server.answer
        if callable(answer):
            self.answer = answer
            self.transport.registerProducer(self, False)
        else:
            self.transport.write(answer)
            if self.server.close:
                self.transport.loseConnection()

    def resumeProducing(self) -> None:
        data = self.answer()
        self.server.sent += len(data)
        self.transport.write(data)

    def stopProducing(self) -> None:
        """The connection is gone."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.open -= 1


class Server:
    def __init__(self, answer: bytes | Callable[[], bytes], close: bool) -> None:
        self.answer, self.close = answer, close
        self.asked: list[bytes] = []
        self.sent = self.open = 0


class ClientTests(TestCase):
    def serve(self, answer: bytes | Callable[[], bytes], *, close: bool = False) -> tuple[Server, Client]:
        server = Server(answer, close)
        factory = Factory.forProtocol(lambda: Scripted(server))
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        client = Client(reactor, endpoint, authority="control", where="the peer")
        self.addCleanup(lambda: eventually("every connection is closed", lambda: server.open == 0))
        self.addCleanup(lambda: ensureDeferred(client.close()))
        return server, client

    async def get(self, client: Client, timeout_s: float = 30) -> Answer:
        return await client.request("GET", "/v1/status", timeout_s=timeout_s, limit_bytes=100_000)

    async def refused(self, answer: bytes | Callable[[], bytes], kind: type[AvinetError], **rest: bool) -> Server:
        server, client = self.serve(answer, **rest)
        error = await self.assertFailure(ensureDeferred(self.get(client)), kind)
        self.assertLess(len(str(error)), 400)
        self.assertNotIn("\n", str(error))
        await eventually("the connection is closed", lambda: server.open == 0)
        return server

    @asynchronous
    async def test_a_head_without_end(self) -> None:
        begun = iter([OK])
        server = await self.refused(lambda: next(begun, b"x-more: " + b"a" * 1000 + b"\r\n"), Unavailable)
        self.assertLess(server.sent, 100 * HEAD_LIMIT_BYTES)
        await self.refused(lambda: b"a" * 4096, Unavailable)

    @asynchronous
    async def test_an_interim_answer_hides_no_head_without_end(self) -> None:
        for interim in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 0103 Hints\nx: y\n\r\n"):
            await self.refused(interim, Unavailable)
            begun = iter([interim + OK])
            server = await self.refused(lambda begun=begun: next(begun, b"x-more: a\r\n" * 100), Unavailable)  # type: ignore[misc]
            self.assertLess(server.sent, 100 * HEAD_LIMIT_BYTES)

    @asynchronous
    async def test_a_body_that_is_too_long(self) -> None:
        await self.refused(OK + b"content-length: 100001\r\n\r\n" + b"a" * 100_001, TooLarge)
        await self.refused(OK + b"content-length: 99999999999999999999\r\n\r\n", TooLarge)
        begun = iter([OK + b"transfer-encoding: chunked\r\n\r\n"])
        await self.refused(lambda: next(begun, b"1000\r\n" + b"a" * 4096 + b"\r\n"), TooLarge)
        until = iter([OK + b"connection: close\r\n\r\n"])
        await self.refused(lambda: next(until, b"a" * 4096), TooLarge)

    @asynchronous
    async def test_what_is_no_http(self) -> None:
        for answer in (
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            OK + b"content-length: -1\r\n\r\n",
            OK + b"content-length: x\r\n\r\n",
            OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        ):
            with self.subTest(answer=answer):
                await self.refused(answer, PeerError)

    @asynchronous
    async def test_an_answer_that_is_broken_off(self) -> None:
        for answer in (b"", b"HTTP/1.1 2", OK + b"content-length: 10\r\n\r\nabc", OK + b"x: y\r\n"):
            with self.subTest(answer=answer):
                await self.refused(answer, Unavailable, close=True)
        await self.refused(OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n", Unavailable)

    @asynchronous
    async def test_silence_and_drops_end_at_the_deadline(self) -> None:
        for answer in (b"", OK, OK + b"content-length: 10\r\n\r\na"):
            server, client = self.serve(answer)
            await self.assertFailure(ensureDeferred(self.get(client, timeout_s=0.05)), TimedOut)
            await eventually("the connection is closed", lambda server=server: server.open == 0)  # type: ignore[misc]

    @asynchronous
    async def test_a_redirect_is_not_followed_a_cookie_not_kept_and_nothing_unpacked(self) -> None:
        packed = gzip.compress(b"a" * 1_000_000)
        head = (
            b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\nset-cookie: a=b\r\ncontent-encoding: gzip\r\n"
            b"content-length: %d\r\n\r\n" % len(packed)
        )
        server, client = self.serve(head + packed)
        for _ in range(2):
            answer = await self.get(client)
            self.assertEqual((answer.status, answer.body), (302, packed))
        self.assertEqual(len(server.asked), 2)
        said = b"".join(server.asked).lower()
        for name in (b"cookie", b"accept-encoding", b"/elsewhere"):
            self.assertNotIn(name, said)

    @asynchronous
    async def test_two_clients_of_one_name_never_share_a_connection(self) -> None:
        """(H13)"""
        pairs = [self.serve(OK + b"content-length: 1\r\n\r\n" + name) for name in (b"a", b"b")]
        for _ in range(3):
            self.assertEqual([(await self.get(client)).body for _, client in pairs], [b"a", b"b"])
        self.assertEqual([len(server.asked) for server, _ in pairs], [3, 3])
