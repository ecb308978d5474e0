"""HAProxy does what a data plane must, and outlives who drives it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from avinet.aio import CANCELLED
from avinet.dataplane.haproxy import HAProxy
from avinet.dataplane.interface import Dataplane
from avinet.dataplane.master import installed
from avinet.dataplane.render import render
from avinet.errors import Invalid, Unavailable
from avinet.wire.config import Config, Document
from avinet.wire.message import decode, encode
from tests.dataplane.contract import DataplaneContract, pool
from tests.dataplane.servers import ask
from tests.peers import missing
from tests.running import asynchronous, eventually, free_port


class HAProxyTests(DataplaneContract, TestCase):
    def make(self) -> Dataplane:
        # Longer than a socket's path may be: the sockets are reached all the same.
        self.folder = Path(self.mktemp()).absolute() / ("long" * 20)
        return self.another()

    @asynchronous
    async def test_it_outlives_its_driver_and_is_found_again(self) -> None:
        a, port = self.server("a"), free_port()
        config = Config(virtual_services=[self.service(port)], pools=[pool("p", a)])
        await self.serve(config, "a")
        before = await self.plane._master.find()
        await self.plane.detach()
        self.assertEqual(await self.names(port, 1), ["a"])
        self.plane = self.another()
        await self.plane.start(config)
        after = await self.plane._master.find()
        self.assertEqual(after, before)
        await ask(port)

        async def counted() -> bool:
            return any(each.requests for each in await self.plane.traffic())

        await eventually("records arrive at the new driver", counted)

    @asynchronous
    async def test_what_changed_meanwhile_is_applied_when_it_is_found(self) -> None:
        a, port, second = self.server("a"), free_port(), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        await self.plane.detach()
        self.plane = self.another()
        await self.plane.start(Config(virtual_services=[self.service(second)], pools=[pool("p", a)]))
        self.assertEqual(await self.names(second, 1), ["a"])

    @asynchronous
    async def test_what_was_written_and_never_read_is_not_taken_for_what_runs(self) -> None:
        a, port, second = self.server("a"), free_port(), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        changed = Config(virtual_services=[self.service(second)], pools=[pool("p", a)])
        await self.plane._master.write(render(changed))  # and here its driver was killed
        await self.plane.detach()
        self.plane = self.another()
        await self.plane.start(changed)
        self.assertEqual(await self.names(second, 1), ["a"])

    @asynchronous
    async def test_a_change_is_made_though_haproxy_is_gone(self) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        running = await self.plane._master.find()
        assert running is not None
        os.kill(running.workers[0], signal.SIGKILL)
        os.kill(running.master, signal.SIGKILL)
        port = free_port()
        await self.plane.apply(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]))
        await eventually("its server is up", lambda: self.up("a"))
        self.assertEqual(await self.names(port, 1), ["a"])

    @asynchronous
    async def test_what_stands_still_when_its_driver_comes_is_started_again(self) -> None:
        a, port = self.server("a"), free_port()
        config = Config(virtual_services=[self.service(port)], pools=[pool("p", a)])
        await self.serve(config, "a")
        running = await self.plane._master.find()
        assert running is not None
        await self.plane.detach()
        os.kill(running.master, signal.SIGSTOP)
        self.plane = self.another()
        await self.plane.start(config)
        self.assertEqual(await self.names(port, 1), ["a"])
        now = await self.plane._master.find()
        assert now is not None
        self.assertNotEqual(now.master, running.master)

    def another(self) -> HAProxy:
        """The driver of a service engine that has just started, on the same folder."""
        return HAProxy(reactor, self.folder, {}, *(installed() or missing("HAProxy 2.6 or newer is not installed")))

    async def killed(self, worker: bool) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        running = await self.plane._master.find()
        assert running is not None
        os.kill(running.workers[0] if worker else running.master, signal.SIGKILL)

        async def back() -> bool:
            now = await self.plane._master.find()
            return now is not None and now.master != running.master and bool(now.workers) and self.up("a")

        await eventually("HAProxy is back", back)
        self.assertEqual(await self.names(port, 2), ["a", "a"])

    @asynchronous
    async def test_it_comes_back_when_its_master_is_killed(self) -> None:
        await self.killed(worker=False)

    @asynchronous
    async def test_it_comes_back_when_its_worker_is_killed(self) -> None:
        await self.killed(worker=True)

    @asynchronous
    async def test_its_end_leaves_no_process_however_long_a_connection_lasts(self) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port, mode="tcp")], pools=[pool("p", a)]), "a")
        running = await self.plane._master.find()
        assert running is not None
        with socket.create_connection(("127.0.0.1", port)):
            await self.plane.shut_down(0.2)
            self.assertEqual(
                [each for each in (running.master, *running.workers) if Path(f"/proc/{each}").exists()], []
            )

    @asynchronous
    async def test_one_that_was_started_and_does_not_answer_yet_is_ended_too(self) -> None:
        await self.plane.check(Config())
        await self.plane._master.write(render(Config()))
        launching = ensureDeferred(self.plane._master.launch())
        child = self.plane._master._child
        launching.addErrback(lambda failure: failure.trap(*CANCELLED))
        launching.cancel()
        await launching
        await self.plane.shut_down(0.0)
        self.assertFalse(Path(f"/proc/{child.pid}").exists())

    @asynchronous
    async def test_one_that_is_killed_while_it_starts_says_nothing_against_its_configuration(self) -> None:
        await self.plane.check(Config())
        await self.plane._master.write(render(Config()))
        launching = ensureDeferred(self.plane._master.launch())
        os.kill(self.plane._master._child.pid, signal.SIGKILL)
        error = await self.assertFailure(launching, Unavailable)
        self.assertIn("by signal 9", str(error))

    @asynchronous
    async def test_what_haproxy_refuses_is_said_in_a_line(self) -> None:
        await self.plane.start(Config())
        error = await self.assertFailure(ensureDeferred(self.plane._master.check("nonsense\n")), Invalid)
        self.assertIn("nonsense", str(error))
        self.assertNotIn("\n", str(error))


HOSTILE = st.text(st.sampled_from("a1-.:/*[] \"'\\\n\r\t\0{}#%$,;ä"), max_size=12)
DIRECTIVES = ("lua-load", "external-check", "program", "setenv", "chroot", "user ", "include")


class RenderTests(SynchronousTestCase):
    """(H9)"""

    @settings(max_examples=300)
    @given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    def test_no_value_becomes_a_directive(self, name: str, address: str, host: str, path: str, check: str) -> None:
        plain = {
            "name": "d",
            "virtual_services": [
                {"name": name, "address": address, "port": 80, "routes": [{"pool": "p", "host": host, "path": path}]}
            ],
            "pools": [
                {
                    "name": "p",
                    "servers": [{"name": "s", "address": address, "port": 1}],
                    "health_check": {"kind": "http", "path": check},
                }
            ],
        }
        try:
            document = decode(encode(plain), Document, limit_bytes=10**6)
        except Invalid:
            return
        text = render(Config(virtual_services=document.virtual_services, pools=document.pools))
        words = {line.split()[0] for line in text.splitlines() if line.strip()}
        self.assertTrue(words <= ALLOWED, words - ALLOWED)
        self.assertTrue(text.isascii())
        for each in DIRECTIVES:
            self.assertFalse(any(line.strip().startswith(each) for line in text.splitlines()))


ALLOWED = {
    "global", "description", "stats", "server-state-file", "log", "hard-stop-after", "ring", "format", "maxlen", "size", "timeout",
    "server", "defaults", "option", "retries", "load-server-state-from-file", "frontend", "mode", "bind",
    "log-format", "use_backend", "default_backend", "backend", "balance", "http-check", "http-reuse",
}  # fmt: skip
