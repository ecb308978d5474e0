"""Crowds at the door, over real sockets: what a machine's backlog, memory and descriptors make of them (S11)."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import socket
import struct
import termios
import tracemalloc
from typing import Any

from twisted.internet import reactor
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import pause
from avinet.sockets import direct
from avinet.ssh.gate import Limits
from avinet.ssh.policy import BACKLOG, Policy
from avinet.ssh.server import Server
from avinet.taps.process import more_files
from tests.peers import missing
from tests.running import asynchronous, eventually
from tests.ssh.pair import HOST_KEY, Guests, Recorder

VERSION = b"SSH-2.0-crowd\r\n"
PARTIAL_BYTES = 64_000
"""What a stranger may cost."""


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


class CrowdCase(TestCase):
    timeout = 120

    @override
    def setUp(self) -> None:
        more_files()
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 5000:
            missing("this process may have fewer than 5000 files open")
        self.crowd: list[socket.socket] = []
        self.addCleanup(self.disperse)

    def listen(self, *, backlog: int = BACKLOG, **settings: Any) -> None:
        self.server = Server(reactor, HOST_KEY, Guests(), Recorder, **settings)
        port = direct(reactor).listenTCP(0, self.server, interface="0.0.0.0", backlog=backlog)
        self.port = port.getHost().port
        self.addCleanup(port.stopListening)

    def dial(self, source: str, timeout_s: float = 20.0) -> socket.socket:
        """Connect while the server is busy: nothing is accepted before the reactor turns."""
        one = socket.socket()
        self.crowd.append(one)
        one.settimeout(timeout_s)
        one.bind((source, 0))
        one.connect(("127.0.0.1", self.port))
        one.setblocking(False)
        return one

    async def disperse(self) -> None:
        """Everybody goes, and nothing is left of them."""
        for one in self.crowd:
            one.close()
        await eventually("everybody is gone", lambda: self.server.connections == self.server.logging_in == 0)


class ManyTests(CrowdCase):
    def test_2000_are_connected_before_one_is_accepted(self) -> None:
        with open("/proc/sys/net/core/somaxconn") as limit:
            if int(limit.read()) < 2000:
                missing("this machine's net.core.somaxconn is below 2000")
        self.listen()
        for number in range(2000):  # one that had to wait would wait for ever: nobody accepts meanwhile
            self.dial(f"127.0.0.{number % 100 + 1}")

    def test_a_short_backlog_would_keep_them_waiting(self) -> None:
        self.listen(backlog=50)
        for _ in range(51):
            self.dial("127.0.0.1")
        self.assertRaises(TimeoutError, self.dial, "127.0.0.1", 0.2)

    @asynchronous
    async def test_of_2000_at_once_a_bounded_part_gets_in_and_each_other_one_is_told_when_to_come_again(self) -> None:
        self.listen()
        await pause(reactor, 0.01)  # the reactor opens some for itself
        before = descriptors()
        with capturedLogs() as events:
            for number in range(2000):
                self.dial(f"127.0.0.{number % 20 + 1}")
            await eventually(
                "all are in or turned away", lambda: self.server.connections + self.server.turned_away == 2000
            )
            inside = self.server.logging_in
            self.assertLessEqual(inside, 1000)
            self.assertGreater(inside, 500, "the door is not shut before it is half full")
            told = [await self.said(one) for one in self.crowd]
        self.assertEqual(sum(b"retry-after=" in said for said in told), self.server.turned_away)
        self.assertEqual(sum(said.startswith(b"SSH-2.0-") for said in told), inside)
        self.assertEqual(len(events), self.server.turned_away, "one line for each")
        await self.disperse()
        await eventually("no descriptor is left", lambda: descriptors() <= before)

    async def said(self, one: socket.socket) -> bytes:
        """What the server has said to somebody by now, which is something."""

        def heard() -> bytes:
            try:
                return one.recv(4096)
            except BlockingIOError:
                return b""

        return await eventually("the server says something", heard)

    @asynchronous
    async def test_one_source_gets_its_share_and_leaves_room_for_others(self) -> None:
        self.listen()
        for _ in range(500):
            self.dial("127.0.0.1")
        await eventually("all are in or turned away", lambda: self.server.connections + self.server.turned_away == 500)
        self.assertEqual(self.server.logging_in, 200)
        self.dial("127.0.0.2")
        await eventually("somebody else is let in", lambda: self.server.logging_in == 201)


class PartialTests(CrowdCase):
    """Packets that are begun and never ended."""

    async def cost(self, *parts: bytes, count: int = 200) -> int:
        """What `count` peers cost that have sent `parts`, one after the other, and wait."""
        for _ in range(count):
            self.dial("127.0.0.1")
        await eventually("all are in", lambda: self.server.logging_in == count)
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for part in parts:
            for one in self.crowd:
                one.setblocking(True)
                one.sendall(part)
            await eventually("all of it has arrived", lambda: all(self.taken(one) for one in self.crowd))
            await pause(reactor, 0.2)
        return tracemalloc.get_traced_memory()[0]

    def taken(self, one: socket.socket) -> bool:
        """Whether the server's kernel has everything that was sent to it."""
        unread = struct.pack("i", 0)
        return struct.unpack("i", fcntl.ioctl(one, termios.TIOCOUTQ, unread))[0] == 0

    @asynchronous
    async def test_200_that_hold_the_largest_packet_cost_no_more_than_its_bytes(self) -> None:
        self.listen(policy=Policy(login_s=3.0))
        held = struct.pack(">IB", 34_996, 4) + bytes(34_000)
        self.assertLess(await self.cost(VERSION, held), 200 * PARTIAL_BYTES)
        await eventually("their time is up", lambda: self.server.connections == 0)
        gc.collect()
        self.assertLess(tracemalloc.get_traced_memory()[0], 20 * PARTIAL_BYTES)

    @asynchronous
    async def test_200_that_begin_a_packet_of_a_megabyte_are_cut_off_at_its_head(self) -> None:
        self.listen(limits=Limits())
        for _ in range(200):
            one = self.dial("127.0.0.1")
            one.setblocking(True)
            one.sendall(VERSION + struct.pack(">IB", 1 << 20, 4) + bytes(20_000))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        await eventually("all are gone", lambda: self.server.connections == 0)
        self.assertLess(tracemalloc.get_traced_memory()[1], 100 * PARTIAL_BYTES)
