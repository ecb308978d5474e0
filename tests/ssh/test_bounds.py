"""What a peer that nobody knows can cost: 5 ms of CPU, 64 kB of memory, one line of 200 bytes, for a MiB of anything."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv6Address
from twisted.internet.task import Clock

from avinet.ssh import phases
from avinet.ssh.negotiation import Proposal
from avinet.ssh.packets import Outbound
from avinet.ssh.policy import Policy
from avinet.ssh.server import Server, ServerTransport
from avinet.ssh.shown import shown_address
from avinet.ssh.strings import string, uint32
from tests.bounds import MEMORY_BYTES, MIB, PIECES, BoundCase, memory_bytes, pieces
from tests.ssh.attacker import Attacker, Siege
from tests.ssh.pair import HOST_KEY, USER, Guests, Recorder, Wire

ADDRESS = IPv6Address("TCP", "2001:db8:1234:5678:9abc:def0:1234:5678", 65535)
STRANGER = Ed25519PrivateKey.generate()
VERSION = b"SSH-2.0-attacker\r\n"
LARGE = 34_000
FULL = MIB // LARGE


def plain(*messages: bytes) -> bytes:
    """The packets of `messages` before there are keys."""
    outbound = Outbound()
    return VERSION + b"".join(map(outbound.seal, messages))


def kexinit(**lists: tuple[bytes, ...]) -> bytes:
    """A proposal of ours with other lists in it."""
    proposal = Proposal.of(Policy(), client=True)
    return bytes((phases.KEXINIT,)) + replace(proposal, **lists).encode(bytes(16))


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
            factory = Server(Clock(), HOST_KEY, Guests(), Recorder)
            server = factory.buildProtocol(ADDRESS)
            assert isinstance(server, ServerTransport)
            self.server, self.wire = server, Wire(ADDRESS.host, ADDRESS.port)
            self.wire.protocol = server
            server.makeConnection(self.wire)
        else:
            siege = Siege()
            siege.attacker.begin()
            siege.flush()
            siege.attacker.say_all(*data(siege.attacker))
            self.server, self.wire = siege.server, siege.wires.left
            data = bytes(siege.wires.right.out)
        self.server.address = shown_address(ADDRESS)
        self.pieces = pieces(data, piece_bytes)

    def pay(self) -> None:
        """The server takes all of it, or as much as it likes."""
        for piece in self.pieces:
            if self.wire.disconnecting:
                return
            self.server.dataReceived(piece)

    def end(self) -> None:
        self.wire.abortConnection()
        self.wire.lose(ConnectionError())


VISITS = [(name, partial(Visit, data)) for name, data in (*EARLY.items(), *LATE.items())]


class BoundTests(BoundCase):
    """The worst that is known to be sent without a login, or before it (S7, S8, S9, S33)."""

    def test_costs_little_cpu(self) -> None:
        self.assert_little_cpu(VISITS)

    def test_costs_little_memory(self) -> None:
        self.assert_little_memory(VISITS)

    def test_costs_one_short_line_at_most_and_no_traceback(self) -> None:
        self.assert_one_line(VISITS)

    def test_a_bound_is_seen_to_be_crossed(self) -> None:
        """A server that believed a packet's length, and kept all of it, would not pass."""

        def trusting(piece_bytes: int) -> Visit:
            visit = Visit(VERSION + struct.pack(">IB", MIB - 12, 4) + bytes(MIB // 2), piece_bytes)
            visit.server._inbound.packet_bytes = MIB
            return visit

        for piece_bytes in PIECES:
            self.assertGreater(memory_bytes(trusting, piece_bytes), MEMORY_BYTES)
