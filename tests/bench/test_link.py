"""The link in user space has the rate and the delay that it says, of both kinds, and loses nothing that it need not."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.carriers import compiled
from bench.link import FAR_ADDRESS, enter, networks
from bench.measure import BenchError
from demo.machine import free_ports
from tests.peers import missing, require

RATE, DELAY_S = 2.5e6, 0.015


class LinkTests(SynchronousTestCase):
    """What is asked of both kinds."""

    def setUp(self) -> None:
        require("cc")
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.link, self.traffic = (compiled(name, self.folder) for name in ("link", "traffic"))

    def started(self, *command: str) -> int:
        """The id of a process that has said that it is ready, and ends with the test."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.addCleanup(process.stdout.close)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process.pid

    def lines(self, *command: str) -> list[list[float]]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return [[float(word) for word in line.split()] for line in done.stdout.splitlines()]

    def check(self, ping: tuple[str, ...], pull: tuple[str, ...], size: int, rate: float) -> None:
        """The quickest of some round trips takes the delay and little more; a pull the time that the rate says."""
        quickest = min(seconds for [seconds] in self.lines(*ping))
        self.assertGreater(quickest, 2 * DELAY_S)
        self.assertLess(quickest, 2 * DELAY_S + 0.003)
        [[seconds, count]] = self.lines(*pull)
        self.assertEqual(count, size)
        self.assertGreater(seconds, size / rate)
        self.assertLess(seconds, 1.1 * size / rate + 10 * DELAY_S)

    def test_a_path_of_packets(self) -> None:
        try:
            nsenter = enter()
        except BenchError as error:
            missing(str(error))
        path = self.started(self.link, "packets", str(RATE), str(DELAY_S), "250000")
        near, far = ((*network, self.traffic) for network in networks(nsenter, path))
        size = 5_000_000
        self.started(*far, "echo", f"{FAR_ADDRESS}:7001")
        self.started(*far, "serve", f"{FAR_ADDRESS}:7002", str(size))
        self.check(
            (*near, "ping", f"{FAR_ADDRESS}:7001", "20", "0"),
            (*near, "pull", f"{FAR_ADDRESS}:7002", "0"),
            size,
            RATE * 1448 / 1500,
        )

    def test_a_relay(self) -> None:
        size = 5_000_000
        servers = free_ports(2)
        self.started(self.traffic, "echo", str(servers[0]))
        self.started(self.traffic, "serve", str(servers[1]), str(size))
        ports = [str(self.relay(server)) for server in servers]
        self.check((self.traffic, "ping", ports[0], "20", "0"), (self.traffic, "pull", ports[1], "0"), size, RATE)

    def relay(self, server: int, queue: int = 1 << 26) -> int:
        """The port of a relay to `server`."""
        (port,) = free_ports(1)
        self.started(self.link, "relay", str(port), str(server), str(RATE), str(DELAY_S), str(queue))
        return port

    def test_a_relay_takes_what_its_queue_has_room_for_and_passes_on_all_of_it_and_the_end(self) -> None:
        data = os.urandom(1_000_000)
        with (
            listening() as (server, heard),
            socket.create_connection(("127.0.0.1", self.relay(server))) as near,
        ):
            began = time.monotonic()
            near.sendall(data)
            self.assertLess(time.monotonic() - began, 0.2, "it was taken although it has not come through")
            near.shutdown(socket.SHUT_WR)
            self.assertEqual(near.recv(32, socket.MSG_WAITALL), hashlib.sha256(data).digest())
            self.assertEqual(near.recv(1), b"")
        self.assertEqual(bytes(heard), data)


@contextmanager
def listening() -> Iterator[tuple[int, bytearray]]:
    """A port where one connection is heard to its end, and answered with the SHA-256 of it; and what was heard."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            far, _ = server.accept()
            with far:
                while data := far.recv(65536):
                    heard.extend(data)
                far.sendall(hashlib.sha256(heard).digest())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], heard
        thread.join(10)
