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
from avinet.dataplane.counting import Counter, ServerCounter
from avinet.dataplane.headers import downstream, forwarded
from avinet.dataplane.pools import LivePool, Member
from avinet.dataplane.timeline import Client, Take, Timeline
from avinet.errors import Unavailable
from avinet.relay import Reading

IDLE_S = 60.0
ANSWER_S = 60.0
HEAD_LIMIT_BYTES = 16 * 1024
Choose = Callable[[str, str], "LivePool | None"]


class HTTPFront(Factory):
    """Accepts connections of one HTTP service; `choose` finds the pool for a host and a path, `take` gets the records.

    Servers are told of `tls` beneath it, whatever the client says.
    """

    noisy = False

    def __init__(
        self, clock: IReactorTime, counter: Counter, choose: Choose, tasks: Tasks, take: Take, *, tls: bool
    ) -> None:
        self.clock = clock
        self.take = take
        self.counter = counter
        self.choose = choose
        self.tasks = tasks
        self.tls = tls
        self.open: set[Any] = set()

    @override
    def buildProtocol(self, addr: IAddress | None) -> Front:
        return Front(self, addr)


class Front(Protocol):
    """A client's connection: one request at a time, each to a server of its own choosing."""

    transport: Any

    def __init__(self, site: HTTPFront, peer: IAddress | None) -> None:
        self.site = site
        self._counter = site.counter
        self._peer = peer
        self._client = Client.of(peer)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self._back: Back | None = None
        self._connecting = False
        self._current: Timeline | None = None
        self._received = self._consumed = 0
        self._bodiless = False
        self._timer: IDelayedCall | None = None
        self._lost = False
        self._leaver = "C"

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
            self.answer(504, b"the server did not answer in time\n", "s")
        else:
            self._leaver = "c"
            self.transport.abortConnection()

    @override
    def dataReceived(self, data: bytes) -> None:
        if not self._received and self.site.tls:
            self._client = Client.of(self._peer, self.transport)
        self._counter.bytes_in += len(data)
        self._received += len(data)
        self.moved()
        self._begin()
        self._http.receive_data(data)
        self._pump()

    def _begin(self) -> None:
        """The first byte of a request is there, if one may come now."""
        if self._current is None and self._http.their_state is h11.IDLE:
            self._current = Timeline(self._client, self.site.clock.seconds())

    def _pump(self) -> None:
        """Take from the parser what can be passed on now."""
        while not self._connecting and not self._lost:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self.answer(error.error_status_hint or 400, b"the request cannot be understood\n", "P")
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
        assert self._current is not None
        headers = dict(request.headers)
        now = self.site.clock.seconds()
        self._current.ask(now, request.method, request.target, request.http_version, headers)
        self._bodiless = request.method == b"HEAD"
        if request.method == b"CONNECT":
            self.answer(405, b"this is no forward proxy\n", "P")
            return
        self._wait(ANSWER_S)
        pool = self.site.choose(headers.get(b"host", b"").decode("latin-1"), request.target.decode("latin-1"))
        self._connecting = True
        self.transport.pauseProducing()
        self.site.tasks.spawn(self._connect(request, self._current, pool), "connecting to a server")

    async def _connect(self, request: h11.Request, current: Timeline, pool: LivePool | None) -> None:
        def backend() -> Back:
            return Back(self, request.method)

        factory = Factory.forProtocol(backend)
        factory.noisy = False
        try:
            if pool is None:
                raise Unavailable("no route and no pool for this request")
            current.pool = pool.config.name
            member, back = await pool.connect(factory, current.dialled)
        except Unavailable as error:
            self._connecting = False
            self.answer(503, error.what.encode() + b"\n", "S")
            return
        if self._lost:
            back.transport.abortConnection()
            return
        self._connecting = False
        current.connected = self.site.clock.seconds()
        self._back = back
        back.serve(member, self._counter.server(pool.config.name, member.server.name))
        back.send(forwarded(request, member.server, self._client.address, current.request_id, tls=self.site.tls))
        self.transport.resumeProducing()
        self._pump()

    def send(self, event: Any) -> None:
        """Pass on a part of the answer."""
        self.moved()
        if isinstance(event, h11.InformationalResponse) and self._http.their_http_version == b"1.0":
            return
        data = self._http.send(event)
        if self._current is not None:
            self._current.bytes_out += len(data or b"")
            if isinstance(event, h11.Response):
                self._current.status = event.status_code
                if self._back is not None:
                    self._current.answered = self.site.clock.seconds()
        if data:
            self._counter.bytes_out += len(data)
            self.transport.write(data)

    def finished(self) -> None:
        """The answer is whole: count it, and take the next request, if there may be one."""
        self._count("--")
        self._drop_back()
        self.transport.unregisterProducer()
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            if self._consumed < self._received:
                self._begin()
            self._wait(IDLE_S)
            self.transport.resumeProducing()
            self._pump()
        else:
            self.transport.loseConnection()

    def answer(self, status: int, body: bytes, who: str) -> None:
        """Answer in the server's place, or break off when it has begun to answer, and close.

        `who` is at fault, in HAProxy's letters: the proxy has refused (P), the server (S), or it was too late (s).
        """
        termination = self._current.ended_by(who) if self._current is not None else ""
        self._drop_back()
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = [("content-length", str(len(body))), ("content-type", "text/plain"), ("connection", "close")]
            self.send(h11.Response(status_code=status, headers=head))
            self.send(h11.Data(data=b"" if self._bodiless else body))
            self.send(h11.EndOfMessage())
            self._count(termination)
            self.transport.loseConnection()
        else:
            self._count(termination)
            self.transport.abortConnection()

    def _count(self, termination: str) -> None:
        """The request has ended, if there is one: count it, and give its record."""
        current, self._current = self._current, None
        if current is None:
            return
        now = self.site.clock.seconds()
        before, self._consumed = self._consumed, self._received - len(self._http.trailing_data[0])
        current.bytes_in = self._consumed - before
        record = current.record(now, self._counter.name, termination)
        counted = self._counter.dialled(current.pool, current.dialled)
        counted.bytes_in += record.bytes_in
        counted.bytes_out += record.bytes_out
        counted.ended(now - (now if current.asked is None else current.asked), current.status)
        self.site.take(record)

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
        if self._current is not None:
            self._count(self._current.ended_by(self._leaver))
        self._drop_back()


class Back(Protocol):
    """The connection to a server for one request."""

    transport: Any

    def __init__(self, front: Front, method: bytes) -> None:
        self._front: Front | None = front
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self._member: Member | None = None
        self._counted = ServerCounter()

    @override
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.pauseProducing()

    def serve(self, member: Member, counted: ServerCounter) -> None:
        """Begin: count the connection, and join the back-pressure of both sides."""
        assert self._front is not None
        self._member, self._counted = member, counted
        member.active += 1
        counted.connections += 1
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
                if self._http.trailing_data[1]:
                    self._front.answer(502, b"the server closed the connection\n", "S")
                else:
                    self._front.answer(502, b"the server's answer cannot be understood\n", "P")
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.ConnectionClosed):
                self._front.answer(502, b"the server closed the connection\n", "S")
            elif isinstance(event, (h11.Response, h11.InformationalResponse)):
                if event.status_code != 101:
                    self._front.send(downstream(event))
            elif isinstance(event, h11.EndOfMessage):
                self._front.send(h11.EndOfMessage())
                self._front.finished()
            else:
                self._front.send(event)

    def leave(self) -> None:
        """The front has done with this server."""
        self._front = None
        if self._member is not None:
            self._member.active -= 1
            self._counted.connections -= 1
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
            self._front.answer(502, b"the server broke the connection off\n", "S")
