"""Real servers behind a load balancer, and a client in front of it, all on loopback."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool, readBody
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from avinet.aio import pause
from tests.running import free_port


class Answers(Resource):
    """Answers with its name and the digest of what it was sent; `/big/N` answers N bytes, `/status/N` that status.

    `/held` is answered when it is released.
    """

    isLeaf = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.asked = 0
        self.request_ids: list[list[str]] = []
        self.held: list[Any] = []

    def release(self) -> None:
        for each in self.held:
            each.finish()
        self.held.clear()

    def render(self, request: Any) -> Any:
        self.asked += 1
        if request.requestHeaders.hasHeader("x-request-id"):  # health checks have none
            self.request_ids.append(request.requestHeaders.getRawHeaders("x-request-id"))
        parts = request.path.decode().split("/")
        if parts[1] == "big":
            return b"x" * int(parts[2])
        if parts[1] == "held":
            self.held.append(request)
            return NOT_DONE_YET
        if parts[1] == "status":
            request.setResponseCode(int(parts[2]))
        digest = hashlib.sha256(request.content.read()).hexdigest()
        return f"{self.name} {digest} {request.getHeader('x-forwarded-for') or ''} {request.getHeader('x-forwarded-proto') or ''}".encode()


class WebServer:
    """A web server that can be stopped, and started again on its port."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers = Answers(name)
        self.port = free_port()
        self._listening: Any = None
        self._open: dict[Any, Any] = {}

    def start(self) -> None:
        site = Site(self.answers)
        site.noisy = False
        site.log = lambda request: None
        tracked = WrappingFactory(site)
        tracked.noisy = False
        self._open = tracked.protocols
        self._listening = reactor.listenTCP(self.port, tracked, interface="127.0.0.1")

    async def stop(self) -> None:
        if self._listening is not None:
            listening, self._listening = self._listening, None
            await listening.stopListening()
            for channel in list(self._open):
                channel.transport.abortConnection()
            while self._open:
                await pause(reactor, 0.001)


@implementer(IHalfCloseableProtocol)
class Digest(Protocol):
    """Reads until the peer has finished, then answers the digest of it, and finishes."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def dataReceived(self, data: bytes) -> None:
        self._digest.update(data)

    def readConnectionLost(self) -> None:
        self.transport.write(self._digest.hexdigest().encode())
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass


class Collect(Protocol):
    """Sends what it is given, finishes, and collects the answer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parts: list[bytes] = []
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._data)
        self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.answer.callback(b"".join(self._parts))


def quiet(factory: Factory) -> Factory:
    factory.noisy = False
    return factory


async def send_tcp(port: int, data: bytes) -> bytes:
    """What a TCP service answers to `data` and a half-close."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    protocol: Any = await endpoint.connect(quiet(Factory.forProtocol(lambda: Collect(data))))
    return await protocol.answer


async def ask(
    port: int, path: str = "/", *, host: str = "example.net", method: str = "GET", body: bytes = b""
) -> tuple[int, bytes]:
    """The status and the body of one answer, over a connection of its own."""
    agent = Agent(reactor, connectTimeout=5, pool=HTTPConnectionPool(reactor, persistent=False))
    uri = f"http://127.0.0.1:{port}{path}".encode()
    producer = FileBodyProducer(BytesIO(body)) if body else None
    response = await agent.request(method.encode(), uri, Headers({"host": [host]}), producer)
    return response.code, await readBody(response)
