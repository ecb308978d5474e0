"""A pipe between descriptors and a socket: full duplex, half-closed either way round, and never stuck."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from random import Random

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.cli.splice import splice

DATA = Random(3).randbytes(10 * 1024 * 1024)
PATIENCE_S = 30.0


class SpliceTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.link, self.far = socket.socketpair()
        self.source, self.stdin = os.pipe()
        self.stdout, self.sink = os.pipe()
        self.addCleanup(self.link.close)
        self.addCleanup(self.far.close)
        self.far.settimeout(PATIENCE_S)
        self.splicing = self.run_beside(lambda: splice(self.link, self.source, self.sink))

    def run_beside(self, call: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        return thread

    def ended(self, thread: threading.Thread) -> None:
        thread.join(PATIENCE_S)
        self.assertFalse(thread.is_alive())

    def say(self, data: bytes) -> None:
        with os.fdopen(self.stdin, "wb") as stdin:
            stdin.write(data)

    def heard(self) -> bytes:
        with os.fdopen(self.stdout, "rb") as stdout:
            return stdout.read()

    def all_from(self, end: socket.socket) -> bytes:
        with end.makefile("rb") as file:
            return file.read()

    def test_both_directions_flow_at_once_when_nothing_is_read_before_all_is_sent(self) -> None:
        """A far side that sends all it has before it reads anything does not stop the pipe."""
        received: list[bytes] = []

        def far() -> None:
            self.far.sendall(DATA[::-1])
            self.far.shutdown(socket.SHUT_WR)
            received.append(self.all_from(self.far))

        talking, saying = self.run_beside(far), self.run_beside(lambda: self.say(DATA))
        self.assertTrue(self.heard() == DATA[::-1])
        for thread in (saying, talking, self.splicing):
            self.ended(thread)
        self.assertTrue(received == [DATA])

    def test_the_answer_comes_after_the_end_of_the_question(self) -> None:
        saying = self.run_beside(lambda: self.say(b"question"))
        self.assertEqual(self.all_from(self.far), b"question")
        self.far.sendall(b"answer")
        self.far.close()
        self.assertEqual(self.heard(), b"answer")
        self.ended(saying)
        self.ended(self.splicing)

    def test_what_is_said_after_the_far_side_has_ended_its_half_still_arrives(self) -> None:
        self.far.shutdown(socket.SHUT_WR)
        self.assertEqual(self.heard(), b"")
        saying = self.run_beside(lambda: self.say(DATA))
        self.assertTrue(self.all_from(self.far) == DATA)
        self.ended(saying)
        self.ended(self.splicing)

    def test_a_far_side_that_is_gone_ends_it_though_the_source_is_open(self) -> None:
        self.far.close()
        self.ended(self.splicing)
        self.assertEqual(self.heard(), b"")
        os.close(self.stdin)
