"""What a peer that nobody knows can cost: 5 ms of CPU, 64 kB of memory, one line of 200 bytes, for a MiB of anything."""

from __future__ import annotations

import gc
import struct
import time
import tracemalloc
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv6Address
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh import phases
from avinet.ssh.negotiation import Proposal
from avinet.ssh.packets import Outbound
from avinet.ssh.policy import Policy
from avinet.ssh.server import Server, ServerTransport
from avinet.ssh.strings import string, uint32
from tests.ssh.attacker import Attacker, Siege
from tests.ssh.pair import HOST_KEY, USER, Guests, Recorder, Wire

MIB = 1 << 20
MEMORY_BYTES = 64_000
LOG_BYTES = 200
RUNS = 5
ADDRESS = IPv6Address("TCP", "2001:db8:1234:5678:9abc:def0:1234:5678", 65535)
STRANGER = Ed25519PrivateKey.generate()
VERSION = b"SSH-2.0-attacker\r\n"
LARGE = 34_000
FULL = MIB // LARGE


def five_ms() -> float:
    """How long this machine takes, now, for what takes an idle core of 3 GHz about 5 ms."""
    began = time.process_time()
    total = 0
    for number in range(80_000):
        total += number
    return time.process_time() - began


def plain(*messages: bytes) -> bytes:
    """The packets of `messages` before there are keys."""
    outbound = Outbound()
    return VERSION + b"".join(map(outbound.seal, messages))


def kexinit(**lists: tuple[bytes, ...]) -> bytes:
    """A proposal of ours with other lists in it."""
    proposal = Proposal.of(Policy(), client=True)
    return bytes((phases.KEXINIT,)) + Proposal(**{**proposal.__dict__, **lists}).encode(bytes(16))


SHORT_NAMES = tuple(b"%d" % (number % 10) for number in range(16_000))
LONG_NAMES = tuple(b"%060d" % number for number in range(500))
EARLY = {
    "zeros": bytes(MIB),
    "all bits": b"\xff" * MIB,
    "a version without end": b"SSH-2.0-" + b"x" * MIB,
    "a version of bytes that are none": b"SSH-2.0-" + b"\xff" * 200 + b"\n" + bytes(MIB),
    "empty lines": b"\n" * MIB,
    "another protocol": b"GET / HTTP/1.1\r\nHost: x\r\n" * (MIB // 25),
    "a packet of a MiB": VERSION + struct.pack(">IB", MIB, 4) + bytes(MIB),
    "a packet without end": VERSION + b"\xff" * MIB,
    "a packet that is held": VERSION + struct.pack(">IB", 34_996, 4) + bytes(30_000),
    "a flood of small messages": plain(*[bytes((phases.IGNORE,)) + string(b"")] * 20_000),
    "large messages to ignore": plain(*[bytes((phases.IGNORE,)) + string(bytes(LARGE))] * FULL),
    "large messages to log": plain(*[bytes((phases.DEBUG, 1)) + string(b"\x1b" * LARGE) + string(b"")] * FULL),
    "large unknown messages": plain(*[b"\xc8" + bytes(LARGE)] * FULL),
    "thousands of short names": plain(kexinit(key_exchanges=SHORT_NAMES)),
    "hundreds of long names": plain(kexinit(key_exchanges=LONG_NAMES)),
    "thousands of names of MACs": plain(kexinit(macs_to_server=SHORT_NAMES, ciphers_to_server=(b"aes256-ctr",))),
    "extensions": plain(kexinit(), bytes((phases.EXT_INFO,)) + uint32(1) + string(b"a") + string(bytes(LARGE))),
    "a key of the exchange that is none": plain(kexinit(), bytes((phases.KEX_INIT,)) + string(b"\xff" * 1216)),
    "an exchange, and noise": plain(kexinit(), bytes((phases.KEX_INIT,)) + string(bytes(1184) + b"\x09" + bytes(31)))
    + b"\xff" * MIB,
    "a long farewell": plain(bytes((phases.DISCONNECT,)) + uint32(11) + string(b"\x1b" * LARGE) + string(b"")),
}

Say = Callable[[Attacker], list[tuple[int, bytes]]]
LATE: dict[str, Say] = {
    "a message of a MiB that nobody knows": lambda _: [(200, bytes(MIB - 100))],
    "extensions of a MiB": lambda _: [(phases.EXT_INFO, uint32(1) + string(b"a") + string(bytes(MIB - 100)))],
    "a service of a long name": lambda _: [(phases.SERVICE_REQUEST, string(b"\xff" * LARGE))],
    "large messages to ignore": lambda _: [(phases.IGNORE, string(bytes(LARGE)))] * FULL,
    "large unknown messages": lambda _: [(200, bytes(LARGE))] * FULL,
    "a flood of small messages": lambda _: [(phases.IGNORE, string(b""))] * 20_000,
    "no method": lambda attacker: [attacker.request(USER, b"none")] * 1000,
    "methods of long names": lambda attacker: [attacker.request(USER, b"\xff" * LARGE)] * FULL,
    "methods of names that fit": lambda attacker: [attacker.request("\u2028" * 300, b"\xff" * 64)] * 100,
    "passwords for users of long names": lambda attacker: (
        [attacker.request("\u00e4" * 512, b"password", b"\0" + string(bytes(LARGE - 2000)))] * FULL
    ),
    "questions about a key": lambda attacker: [attacker.query(key=STRANGER)] * 1000,
    "signatures that are wrong": lambda attacker: [attacker.claim(signer=STRANGER)] * 1000,
    "signatures by a key that nobody knows": lambda attacker: [attacker.claim("\\" * 400, STRANGER)] * 500,
    "a huge RSA key": lambda attacker: (
        [
            attacker.request(
                USER,
                b"publickey",
                b"\1"
                + string(b"ssh-rsa")
                + string(string(b"ssh-rsa") + string(b"\1\0\1") + string(b"\1" * LARGE))
                + uint32(0),
            )
        ]
        * FULL
    ),
    "a key of empty numbers": lambda attacker: (
        [attacker.request(USER, b"publickey", b"\1" + string(b"ssh-ed25519") + string(bytes(32_000)) + uint32(0))]
        * FULL
    ),
    "a kind of key of a long name": lambda attacker: (
        [attacker.request(USER, b"publickey", b"\1" + string(b"\xff" * 64) + string(b""))] * FULL
    ),
    "success": lambda _: [(phases.USERAUTH_SUCCESS, b"")] * 1000,
    "channels": lambda _: [(90, string(b"session") + bytes(12))] * 1000,
}


class Visit:
    """A server with one stranger, and what that one sends, in pieces."""

    def __init__(self, data: bytes | Say, piece_bytes: int) -> None:
        if isinstance(data, bytes):
            clock = Clock()
            factory = Server(clock, HOST_KEY, Guests(), Recorder)
            server = factory.buildProtocol(ADDRESS)
            assert isinstance(server, ServerTransport)
            self.server, self.wire = server, Wire(ADDRESS.host, ADDRESS.port)
            self.wire._address = ADDRESS  # type: ignore[assignment]
            self.wire.protocol = server
            server.makeConnection(self.wire)
        else:
            siege = Siege()
            siege.attacker.begin()
            siege.flush()
            siege.attacker.say_all(*data(siege.attacker))
            self.server, self.wire = siege.server, siege.wires.left
            self.server.address = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"
            data = bytes(siege.wires.right.out)
        data = data[: MIB + 4096]
        self.pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]

    def pay(self) -> None:
        """The server takes all of it, or as much as it likes."""
        for piece in self.pieces:
            if self.wire.disconnecting:
                return
            self.server.dataReceived(piece)

    def end(self) -> None:
        self.wire.abortConnection()
        self.wire.lose(ConnectionError())


class BoundTests(SynchronousTestCase):
    """The worst that is known to be sent without a login, or before it (S7, S8, S9, S33)."""

    def cpu(self, data: bytes | Say, piece_bytes: int) -> float:
        """The CPU seconds that it costs, undisturbed."""
        costs = []
        for _ in range(RUNS):
            visit = Visit(data, piece_bytes)
            began = time.process_time()
            visit.pay()
            costs.append(time.process_time() - began)
            visit.end()
        return min(costs)

    def memory(self, data: bytes | Say, piece_bytes: int) -> int:
        """The bytes that it costs at its worst moment."""
        visit = Visit(data, piece_bytes)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            visit.pay()
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
            visit.end()

    def lines(self, data: bytes | Say) -> list[bytes]:
        """What is logged of it."""
        with capturedLogs() as events:
            visit = Visit(data, 65536)
            visit.pay()
            visit.end()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual([event["log_failure"] for event in events if "log_failure" in event], [])
        return [formatEvent(event).encode("utf-8") for event in events]

    def each(self) -> list[tuple[str, bytes | Say]]:
        return [*EARLY.items(), *LATE.items()]

    def test_costs_less_than_5_ms_of_cpu(self) -> None:
        for name, data in self.each():
            for piece_bytes in (1448, 65536):
                bound = min(five_ms() for _ in range(RUNS))
                self.assertLess(self.cpu(data, piece_bytes), bound, (name, piece_bytes))

    def test_costs_less_than_64_kb_of_memory(self) -> None:
        for name, data in self.each():
            for piece_bytes in (1448, 65536):
                self.assertLess(self.memory(data, piece_bytes), MEMORY_BYTES, (name, piece_bytes))

    def test_costs_one_line_of_200_bytes_at_most_and_no_traceback(self) -> None:
        for name, data in self.each():
            lines = self.lines(data)
            self.assertLessEqual(len(lines), 1, (name, lines))
            for line in lines:
                self.assertLessEqual(len(line), LOG_BYTES, (name, line))
                self.assertTrue(line.decode().isprintable(), (name, line))

    def test_a_bound_is_seen_to_be_crossed(self) -> None:
        """A server that believes a packet's length, and keeps it, would not pass."""
        data = VERSION + struct.pack(">IB", MIB - 4 - 8, 4) + bytes(MIB)
        visit = Visit(data, 65536)
        visit.server._inbound.packet_bytes = MIB
        tracemalloc.start()
        try:
            visit.server.dataReceived(data[: MIB // 2])
            self.assertGreater(tracemalloc.get_traced_memory()[0], MEMORY_BYTES)
        finally:
            tracemalloc.stop()
            visit.end()
