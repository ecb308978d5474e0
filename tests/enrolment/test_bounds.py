"""What a stranger can cost at the enrolment door, before TLS and within it (H1)."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import Tasks
from avinet.enrolment.door import BURST, PER_S, enrolment_routes
from avinet.enrolment.pending import PendingRequests
from avinet.enrolment.registrar import Registrar
from avinet.flow.allowance import Allowance
from avinet.rest.door import Door
from avinet.rest.table import Table
from avinet.trust.tls import ServerTLS
from avinet.wire.trust import SignedTrust
from tests.bounds import MIB, BoundCase, pieces
from tests.enrolment.making import document, domain
from tests.store.memory import MemoryStore

ADDRESS = IPv4Address("TCP", "192.0.2.1", 4711)
GET = b"GET /v1/trust HTTP/1.1\r\nHost: x\r\n\r\n"
ENROL = b"POST /v1/service-engines/se-1/enrolment HTTP/1.1\r\nHost: x\r\n"


class Dropped(StringTransport):
    """A transport that keeps nothing of what it is given, and knows when it is closed."""

    @override
    def write(self, data: bytes) -> None: ...

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    @override
    def abortConnection(self) -> None:
        self.loseConnection()


class Visit:
    """The door, and what a stranger sends to it; `secret` is TLS that is never begun."""

    def __init__(self, data: bytes, secret: bool, piece_bytes: int) -> None:
        of, clock = domain(), Clock()
        store = MemoryStore(clock)
        pending = PendingRequests(store, of.node, clock.seconds)
        signed = SignedTrust(document="{}", signature="", issuer="")
        routes = enrolment_routes(
            Registrar(store, pending, domain, document, clock.seconds),
            trust=lambda: signed,
            nonce_key=of.nonce_key,
            signer=lambda: (of.server.key, [of.server.certificate]),
            now=clock.seconds,
            allowance=Allowance(clock.seconds, burst=BURST, per_s=PER_S),
        )
        door: Any = Door(clock, Table(routes), tasks=Tasks())
        if secret:
            door = TLSMemoryBIOFactory(ServerTLS(of.server, [of.issuing.certificate]), False, door)
        self.transport = Dropped(peerAddress=ADDRESS)
        self.protocol = door.buildProtocol(ADDRESS)
        self.protocol.makeConnection(self.transport)
        self.pieces = pieces(data, piece_bytes)

    def pay(self) -> None:
        """The door takes all of it, or as much as it likes."""
        for piece in self.pieces:
            if self.transport.disconnecting:
                return
            self.protocol.dataReceived(piece)

    def end(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionAborted()))


PLAIN = {
    "zeros": bytes(MIB),
    "all bits": b"\xff" * MIB,
    "a line without end": b"GET /" + b"a" * MIB,
    "lines without end": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MIB // 6),
    "a header without end": b"GET / HTTP/1.1\r\n" + b"a: b\r\n " + b" b\r\n" * (MIB // 5),
    "requests that do not wait for their answers": GET * (MIB // len(GET)),
    "requests that are none": b"a b c\r\n\r\n" * (MIB // 9),
    "paths that are not there": b"GET /%s HTTP/1.1\r\n\r\n" % (b"%2e/" * 4000),
    "queries without end": b"GET /v1/trust?" + b"a=&" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a body that is too long": ENROL + b"Content-Length: 1000000\r\n\r\n" + bytes(MIB),
    "a body of an impossible length": ENROL + b"Content-Length: 99999999999999999999\r\n\r\n" + bytes(MIB),
    "lengths that contradict each other": ENROL + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + bytes(MIB),
    "chunks without end": ENROL + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * (MIB // 6),
    "a large chunk": ENROL + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n" + bytes(MIB),
    "a chunk of an endless name": ENROL + b"Transfer-Encoding: chunked\r\n\r\n" + b"f;" + b"a" * MIB,
    "a body that is deep": ENROL + b"Content-Length: 8000\r\n\r\n" + b"[" * 8000,
    "a body that is packed": ENROL + b"Content-Encoding: gzip\r\nContent-Length: 8000\r\n\r\n" + bytes(8000),
    "signatures without end": ENROL + b"Signature-Input: " + b"a=();" * 2000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "cookies": b"GET /v1/trust HTTP/1.1\r\nHost: x\r\nCookie: " + b"a=b;" * 3000 + b"\r\n\r\n",
    "a form": ENROL
    + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 8000\r\n\r\n"
    + b"--x\r\n" * 1600,
    "SSH": b"SSH-2.0-lost\r\n" + bytes(MIB),
}
RAW = {
    "zeros": bytes(MIB),
    "no TLS": GET * (MIB // len(GET)),
    "records without end": b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + b"\xff" * MIB,
    "alerts": b"\x15\x03\x01\x00\x02\x01\x00" * (MIB // 7),
}
VISITS = [
    *((name, partial(Visit, data, False)) for name, data in PLAIN.items()),
    *((name + ", before TLS", partial(Visit, data, True)) for name, data in RAW.items()),
]


class BoundTests(BoundCase):
    def test_costs_little_cpu(self) -> None:
        self.assert_little_cpu(VISITS)

    def test_costs_little_memory(self) -> None:
        self.assert_little_memory(VISITS)

    def test_costs_one_short_line_at_most_and_no_traceback(self) -> None:
        self.assert_one_line(VISITS)
