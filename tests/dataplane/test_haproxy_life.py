"""HAProxy outlives who drives it, comes back when it was killed, and ends when it is to."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger, formatEvent

from avinet.aio import CANCELLED
from avinet.dataplane import haproxy
from avinet.dataplane.master import claim_ports
from avinet.dataplane.render import render
from avinet.dataplane.runtime import dropped_logs, stat_lines
from avinet.errors import Invalid, LocalError, Unavailable
from avinet.telemetry.reports import add_up
from avinet.wire.config import Config, Pool, Server, VirtualService
from avinet.wire.report import ServiceTraffic
from tests.dataplane.haproxies import HAProxyCase
from tests.dataplane.planes import CHECK, pool
from tests.dataplane.servers import ask
from tests.running import asynchronous, eventually, free_port


class LifeTests(HAProxyCase):
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
        self.assertEqual([each.new_connections for each in await self.plane.traffic()], [])
        await ask(port)
        told: list[ServiceTraffic] = []

        async def counted() -> bool:
            nonlocal told
            told = add_up(told, await self.plane.traffic())
            return any(each.requests for each in told)

        await eventually("records arrive at the new driver", counted)
        self.assertEqual([each.new_connections for each in told], [1], "those of before were told by the one before")

    @asynchronous
    async def test_without_its_driver_it_rests(self) -> None:
        """It has nowhere to bring its records: that costs it nothing, and it finds the next one that is there."""
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        master = self.plane._master
        [worker] = (await master.find()).workers
        await self.plane._intake.close(reactor)
        await self.plane._port.stopListening()
        await ask(port)

        async def up_s() -> int:
            info = await master.stats("show info")
            return next(int(line.split()[1]) for line in info.splitlines() if line.startswith("Uptime_sec:"))

        async def later() -> bool:
            return await up_s() >= begun + 3

        begun, before = await up_s(), ticks(worker)
        await eventually("three seconds have gone by", later)
        self.assertLess(ticks(worker) - before, 0.1 * 3 * os.sysconf("SC_CLK_TCK"))

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
    async def test_a_server_that_moved_while_haproxy_was_gone_is_found_at_its_new_port(self) -> None:
        a, b, port = self.server("a"), self.server("b"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        more = VirtualService(name="more", address="127.0.0.1", port=free_port(), pool="p")
        await self.plane.apply(Config(virtual_services=[self.service(port), more], pools=[pool("p", a)]))
        running = await self.plane._master.find()
        assert running is not None
        os.kill(running.workers[0], signal.SIGKILL)
        os.kill(running.master, signal.SIGKILL)
        moved = Pool(name="p", servers=[Server(name="a", address="127.0.0.1", port=b.port)], health_check=CHECK)
        await self.plane.apply(Config(virtual_services=[self.service(port)], pools=[moved]))
        self.assertEqual(await self.names(port, 2), ["b", "b"])

    @asynchronous
    async def test_a_port_that_is_about_to_be_free_is_waited_for(self) -> None:
        a = self.server("a")
        claims = 0
        with socket.create_server(("127.0.0.1", 0)) as dying:

            def claim(services: Sequence[VirtualService]) -> None:
                nonlocal claims
                claims += 1
                if claims == 3:
                    dying.close()
                claim_ports(services)

            self.patch(haproxy, "claim_ports", claim)
            port = dying.getsockname()[1]
            await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        self.assertEqual((claims, await self.names(port, 1)), (3, ["a"]))

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

    async def comes_back(self, hindered: Callable[[], None], freed: Callable[[], None]) -> None:
        """It is started again once it can be, however long something stood in the way."""
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        tried = []
        self.patch(self.plane, "log", Logger(observer=lambda event: tried.append(formatEvent(event))))
        hindered()
        await self.plane._master.end_leftovers()
        await eventually("it was tried in vain", lambda: any("does not start again" in each for each in tried))
        freed()

        async def back() -> bool:
            return await self.plane._master.find() is not None and self.up("a")

        await eventually("HAProxy is back", back, timeout_s=40)
        self.assertEqual(await self.names(port, 1), ["a"])

    @asynchronous
    async def test_it_comes_back_though_its_binary_was_away(self) -> None:
        master, program = self.plane._master, self.plane._master._program
        await self.comes_back(
            lambda: setattr(master, "_program", "/nowhere/haproxy"), lambda: setattr(master, "_program", program)
        )

    @asynchronous
    async def test_it_comes_back_though_its_files_could_not_be_written(self) -> None:
        log = self.folder / "haproxy.log"

        def hindered() -> None:
            log.unlink()
            log.mkdir()

        await self.comes_back(hindered, log.rmdir)

    @asynchronous
    async def test_what_hinders_its_start_is_said_in_a_line(self) -> None:
        await self.plane.check(Config())
        self.plane._master._program = "/nowhere/haproxy"
        error = await self.assertFailure(ensureDeferred(self.plane._master.launch()), LocalError)
        self.assertIn(f"cannot start /nowhere/haproxy in {self.folder}: No such file", str(error))

    @asynchronous
    async def test_a_fault_while_it_is_watched_does_not_end_the_watch(self) -> None:
        a, b, port = self.server("a"), self.server("b"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a, b)]), "a", "b")
        faults: list[Exception] = []

        def fault() -> None:
            raise ZeroDivisionError

        self.plane.changed = fault
        await b.stop()
        await eventually("there was a fault", lambda: faults.extend(self.flushLoggedErrors()) or faults)
        self.plane.changed = lambda: None
        await self.plane._master.end_leftovers()

        async def back() -> bool:
            return await self.plane._master.find() is not None

        await eventually("HAProxy is back", back)

    @asynchronous
    async def test_half_an_answer_is_none(self) -> None:
        """A worker that dies while it answers closes the connection in the middle of a line, or between two."""
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        for command, meaning in (("show stat", stat_lines), ("show info", dropped_logs)):
            whole = await self.plane._master.stats(command)
            meaning(whole)
            for length in range(len(whole)):
                self.assertRaises(Unavailable, meaning, whole[:length])
        self.plane._tasks.stop()
        before, whole = self.plane.health(), await self.plane._master.stats("show stat")

        async def half(command: str) -> str:
            return whole[: len(whole) // 2]

        self.patch(self.plane._master, "stats", half)
        await self.plane.traffic()
        self.assertEqual(self.plane.health(), before)

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


def ticks(process: int) -> int:
    """The CPU time that a process has had, in ticks of the clock."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
