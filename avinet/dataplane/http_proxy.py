"""HTTP services of the built-in proxy: HTTP/1.1 with h11 on both sides, so that what one side sent is never passed on
as it was, but parsed and written anew; bodies are streamed, with back-pressure both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import Tasks
from avinet.dataplane.counting import Counter
from avinet.dataplane.pools import LivePool, Member
from avinet.dataplane.tls import FORWARDED_PROTO
from avinet.errors import Unavailable
from avinet.relay import Reading
from avinet.wire.config import Server

IDLE_S = 60.0
ANSWER_S = 60.0
HEAD_LIMIT_BYTES = 16 * 1024
_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
}
Choose = Callable[[str, str], "LivePool | None"]


class HTTPFront(Factory):
    """Accepts connections of one HTTP service; `choose` finds the pool for a host and a path.

    Servers are told of `tls` beneath it, whatever the client says.
    """

    noisy = False

    def __init__(self, clock: IReactorTime, counter: Counter, choose: Choose, tasks: Tasks, *, tls: bool) -> None:
        self.clock = clock
        self.counter = counter
        self.choose = choose
        self.tasks = tasks
        self.tls = tls
        self.open: set[Any] = set()

    @override
    def buildProtocol(self, addr: IAddress | None) -> Front:
        return Front(self, str(getattr(addr, "host", "")))


class Front(Protocol):
    """A client's connection: one request at a time, each to a server of its own choosing."""

    transport: Any

    def __init__(self, site: HTTPFront, peer: str) -> None:
        self.site = site
        self._counter = site.counter
        self._peer = peer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self._back: Back | None = None
        self._connecting = False
        self._begun: float | None = None
        self._bodiless = False
        self._timer: IDelayedCall | None = None
        self._lost = False

    @override
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.site.open.add(self)
        self._counter.new_connections += 1
        self._counter.connections += 1
        self._wait(IDLE_S)

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self.site.clock.callLater(seconds, self._late) if seconds is not None else None

    def moved(self) -> None:
        """A part of the request or of the answer has passed: wait for the next as long as for the first."""
        if self._back is not None and self._timer is not None:
            self._timer.reset(ANSWER_S)

    def _late(self) -> None:
        if self._back is not None:
            self.answer(504, b"the server did not answer in time\n")
        else:
            self.transport.abortConnection()

    @override
    def dataReceived(self, data: bytes) -> None:
        self._counter.bytes_in += len(data)
        self.moved()
        self._http.receive_data(data)
        self._pump()

    def _pump(self) -> None:
        """Take from the parser what can be passed on now."""
        while not self._connecting and not self._lost:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self.answer(error.error_status_hint or 400, b"the request cannot be understood\n")
                return
            if event is h11.NEED_DATA:
                return
            if event is h11.PAUSED:
                self.transport.pauseProducing()
                return
            if isinstance(event, h11.Request):
                self._request(event)
            elif isinstance(event, h11.ConnectionClosed):
                self.transport.loseConnection()
                return
            elif self._back is not None:
                self._back.send(event)

    def _request(self, request: h11.Request) -> None:
        self._begun = self.site.clock.seconds()
        self._bodiless = request.method == b"HEAD"
        if request.method == b"CONNECT":
            self.answer(405, b"this is no forward proxy\n")
            return
        self._wait(ANSWER_S)
        headers = dict(request.headers)
        pool = self.site.choose(headers.get(b"host", b"").decode("latin-1"), request.target.decode("latin-1"))
        self._connecting = True
        self.transport.pauseProducing()
        self.site.tasks.spawn(self._connect(request, pool), "connecting to a server")

    async def _connect(self, request: h11.Request, pool: LivePool | None) -> None:
        def backend() -> Back:
            return Back(self, request.method)

        factory = Factory.forProtocol(backend)
        factory.noisy = False
        try:
            if pool is None:
                raise Unavailable("no route and no pool for this request")
            member, back = await pool.connect(factory)
        except Unavailable as error:
            self._connecting = False
            self.answer(503, error.what.encode() + b"\n")
            return
        if self._lost:
            back.transport.abortConnection()
            return
        self._connecting = False
        self._back = back
        back.serve(member)
        back.send(self._forwarded(request, member.server))
        self.transport.resumeProducing()
        self._pump()

    def _forwarded(self, request: h11.Request, server: Server) -> h11.Request:
        headers = end_to_end(list(request.headers))
        if all(name != b"host" for name, _ in headers):  # HTTP/1.0 needs none
            address = f"[{server.address}]" if ":" in server.address else server.address
            headers.insert(0, (b"host", f"{address}:{server.port}".encode("ascii")))
        headers.append((b"x-forwarded-for", self._peer.encode("ascii")))
        if self.site.tls:
            headers = [each for each in headers if each[0] != FORWARDED_PROTO]
            headers.append((FORWARDED_PROTO, b"https"))
        headers.append((b"connection", b"close"))
        return h11.Request(method=request.method, target=request.target, headers=headers)

    def send(self, event: Any) -> None:
        """Pass on a part of the answer."""
        self.moved()
        if isinstance(event, h11.InformationalResponse) and self._http.their_http_version == b"1.0":
            return
        data = self._http.send(event)
        if data:
            self._counter.bytes_out += len(data)
            self.transport.write(data)

    def finished(self, status: int) -> None:
        """The answer is whole: count it, and take the next request, if there may be one."""
        self._count(status)
        self._drop_back()
        self.transport.unregisterProducer()
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._wait(IDLE_S)
            self.transport.resumeProducing()
            self._pump()
        else:
            self.transport.loseConnection()

    def answer(self, status: int, body: bytes) -> None:
        """Answer in the server's place, or break off when it has begun to answer, and close."""
        self._drop_back()
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = [("content-length", str(len(body))), ("content-type", "text/plain"), ("connection", "close")]
            self.send(h11.Response(status_code=status, headers=head))
            self.send(h11.Data(data=b"" if self._bodiless else body))
            self.send(h11.EndOfMessage())
            self._count(status)
            self.transport.loseConnection()
        else:
            self.transport.abortConnection()

    def _count(self, status: int) -> None:
        now = self.site.clock.seconds()
        self._counter.ended(now - (now if self._begun is None else self._begun), status)
        self._begun = None

    def _drop_back(self) -> None:
        back, self._back = self._back, None
        if back is not None:
            back.leave()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._wait(None)
        self.site.open.discard(self)
        self._counter.connections -= 1
        self._drop_back()


class Back(Protocol):
    """The connection to a server for one request."""

    transport: Any

    def __init__(self, front: Front, method: bytes) -> None:
        self._front: Front | None = front
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self._member: Member | None = None
        self._status = 502

    @override
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.pauseProducing()

    def serve(self, member: Member) -> None:
        """Begin: count the connection, and join the back-pressure of both sides."""
        assert self._front is not None
        self._member = member
        member.active += 1
        self.transport.registerProducer(Reading(self._front.transport), True)
        self._front.transport.registerProducer(Reading(self.transport), True)
        self.transport.resumeProducing()

    def send(self, event: Any) -> None:
        """Pass on a part of the request; the server may have answered and gone already."""
        if self._front is None or self._http.our_state is h11.MUST_CLOSE:
            return
        data = self._http.send(event)
        if data:
            self.transport.write(data)

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._front is not None:
            self._http.receive_data(data)
            self._pump()

    def _pump(self) -> None:
        while self._front is not None:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                self._front.answer(502, b"the server's answer cannot be understood\n")
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.ConnectionClosed):
                self._front.answer(502, b"the server closed the connection\n")
            elif isinstance(event, (h11.Response, h11.InformationalResponse)):
                self._status = event.status_code
                if event.status_code != 101:
                    self._front.send(_downstream(event))
            elif isinstance(event, h11.EndOfMessage):
                self._front.send(h11.EndOfMessage())
                self._front.finished(self._status)
            else:
                self._front.send(event)

    def leave(self) -> None:
        """The front has done with this server."""
        self._front = None
        if self._member is not None:
            self._member.active -= 1
            self._member = None
            self.transport.unregisterProducer()
        self.transport.abortConnection()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._front is None:
            return
        if reason.check(ConnectionDone):
            self._http.receive_data(b"")
            self._pump()
        else:  # where only the end of the connection ends an answer, this one is not whole
            self._front.answer(502, b"the server broke the connection off\n")


def _downstream(event: Any) -> Any:
    return type(event)(status_code=event.status_code, headers=end_to_end(list(event.headers)), reason=event.reason)


def end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that are passed on: all but those for the one connection (RFC 9110, section 7.6.1).

    A length beside a transfer coding is not (RFC 9112, section 6.3): it was not what the message was read by.
    """
    coded = any(key == b"transfer-encoding" for key, _ in headers)
    named = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")} - {
        b"host",
        b"content-length",
        b"transfer-encoding",
    }
    if coded:
        named.add(b"content-length")
    return [(key, value) for key, value in headers if key not in _HOP and key not in named]
