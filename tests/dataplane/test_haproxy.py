"""HAProxy does what a data plane must, and outlives who drives it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutput
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from avinet.aio import CANCELLED
from avinet.dataplane import haproxy
from avinet.dataplane.exchange import PAYLOAD_BYTES, exchange
from avinet.dataplane.haproxy import HAProxy
from avinet.dataplane.interface import Dataplane
from avinet.dataplane.key_files import own_name, pem
from avinet.dataplane.master import claim_ports, installed
from avinet.dataplane.render import RECORDS_SOCKET, RING_BYTES, key_file, render
from avinet.dataplane.runtime import WorkerState, dropped_logs, stat_lines
from avinet.errors import Invalid, LocalError, Unavailable
from avinet.telemetry.reports import add_up
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Config, Document, Pool, Server, VirtualService
from avinet.wire.log import KEPT_TEXT_BYTES
from avinet.wire.message import decode, encode
from avinet.wire.report import ServiceTraffic
from tests.dataplane.contract import CHECK, DataplaneContract, pool
from tests.dataplane.record_contract import RecordContract, pipelined, request, talk
from tests.dataplane.servers import ask
from tests.dataplane.tls_client import Open, ask_tls, context
from tests.dataplane.tls_contract import TLSContract
from tests.issuing import Issuer, rsa_key
from tests.issuing import pem as chain_pem
from tests.peers import missing
from tests.running import asynchronous, eventually, free_port


class HAProxyTests(RecordContract, TLSContract, DataplaneContract, TestCase):
    def make(self) -> Dataplane:
        # Longer than a socket's path may be: the sockets are reached all the same.
        self.folder = Path(self.mktemp()).absolute() / ("long" * 20)
        self.keys_of_all = self.folder.with_name("keys")
        self.keys = self.keys_of_all / own_name(self.folder)
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

    def another(self) -> HAProxy:
        """The driver of a service engine that has just started, on the same folder."""
        found = installed() or missing("HAProxy 2.6 or newer is not installed")
        return self.given(HAProxy(reactor, self.folder, self.keys_of_all, *found))

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

    # Records

    @asynchronous
    async def test_the_longest_line_that_a_client_can_cause_arrives(self) -> None:
        """HAProxy loses one that is as long as a buffer, and does not say so."""
        name = "n" * 63
        web = self.server(name)
        host = ".".join(["h" * 63] * 3) + ".example"
        self.certificates["shop"] = self.issuer.serve("shop.example", host)
        await self.plane.take_certificate("shop", self.certificates["shop"])
        port = free_port()
        service = msgspec.structs.replace(self.secured(port, "shop"), name=name, pool=name)
        await self.serve(Config(virtual_services=[service], pools=[pool(name, web)]), name)
        opened = await deferToThread(Open, port, host, context(self.issuer))
        self.addCleanup(opened.close)
        escaped = b"\x01"
        texts = [b"/" + b'"' * 1499 + b"?" + b"/" * 1500, escaped * 255, escaped * 2000, escaped * 2000]
        head = b"%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nReferer: %s\r\n\r\n" % (b"M" * 40, *texts)
        await deferToThread(opened.tls.sendall, head)
        await self.records(1)
        [line] = self.lines
        self.assertGreater(len(line), 14_000)
        self.assertLess(len(line) + 8 * 20, 16_384, "with numbers of any length")
        found = await self.record()
        self.assertEqual((found.method, found.host), ("M" * 32, "\1" * 255))
        self.assertEqual((len(found.path), len(found.query)), (1500, 1500))
        self.assertEqual((found.user_agent, found.referer), ("\1" * 500,) * 2)
        self.assertEqual((found.service, found.pool, found.server, found.sni), (name, name, name, host))

    @asynchronous
    async def test_whatever_a_client_sends_each_line_is_a_record(self) -> None:
        port = await self.serve_web()
        random = Random(7)
        values = [bytes(random.choices(range(256), k=random.randrange(1, 300))) for _ in range(100)]
        clean = [each.translate(None, b"\0\r\n") for each in values]
        opened = await deferToThread(socket.create_connection, ("127.0.0.1", port), 10)
        self.addCleanup(opened.close)
        for sent, each in enumerate(clean, 1):
            await deferToThread(opened.sendall, b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: x%sx\r\n\r\n" % each)
            await deferToThread(opened.recv, 65536)
            await eventually("its record is there", lambda sent=sent: len(self.lines) >= sent)
        for found, each in zip(await self.records(len(clean)), clean, strict=True):
            self.assertEqual(found.status, 200)
            self.assertEqual(
                found.user_agent.encode("ascii", "ignore"), b"x%sx" % each.decode("ascii", "ignore").encode()
            )

    @asynchronous
    async def test_a_connection_that_asks_for_nothing_has_no_record(self) -> None:
        port = await self.serve_web()
        with socket.create_connection(("127.0.0.1", port)):
            pass
        await talk(port, request())
        self.assertEqual((await self.record()).method, "GET")

    @asynchronous
    async def test_a_line_that_is_none_is_told_of_in_its_place_and_stops_nothing(self) -> None:
        port = await self.serve_web()
        missed: list[object] = []
        self.plane.missed = lambda why, records, *_: missed.append((why, records, len(self.lines)))
        await talk(port, request(b"/1"))
        await self.records(1)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(self.plane._master.sockets / RECORDS_SOCKET))
            other.sendall(b'{"t":1}\n')
            await eventually("it is told of", lambda: missed)
        await talk(port, request(b"/2"))
        self.assertEqual([each.path for each in await self.records(2)], ["/1", "/2"])
        self.assertEqual(missed, [("parse", 1, 1)])
        self.assertEqual((self.plane.lost_records(), self.plane.lost_records()), (1, 0))

    @asynchronous
    async def test_no_record_is_lost_between_two_drivers(self) -> None:
        port = await self.serve_web()
        missed: list[tuple[str, int | None]] = []
        many = 3000
        asking = deferToThread(pipelined, port, many, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        config = self.plane._config
        for part in range(1, 4):
            self.plane.missed = lambda why, records, *_: missed.append((why, records))
            await eventually("some are there", lambda part=part: len(self.lines) >= many * part // 6)  # type: ignore[misc]
            await self.plane.detach()
            self.plane = self.another()
            self.plane.lines = self.lines.extend
            await self.plane.start(config)
        await asking
        await talk(port, request(b"/last"))
        await eventually("the last one is there", lambda: b"/last" in self.lines[-1])
        self.assertEqual((len(self.lines), missed), (many + 1, []))

    @asynchronous
    async def test_what_its_ring_has_no_room_for_is_counted(self) -> None:
        port = await self.serve_web()
        missed: list[tuple[str, int | None]] = []
        self.plane.missed = lambda why, records, *_: missed.append((why, records))
        await talk(port, request(b"/first"))
        await self.records(1)
        readers = list(self.plane._intake.open)
        for each in readers:
            each.transport.pauseProducing()  # type: ignore[union-attr]
        text = b"x" * KEPT_TEXT_BYTES
        asking = b"GET /?%b HTTP/1.1\r\nHost: a\r\nUser-Agent: %b\r\nReferer: %b\r\n\r\n" % (text, text, text)
        many = RING_BYTES // len(text) // 5 * 2
        await deferToThread(pipelined, port, many, asking)
        for each in readers:
            each.transport.resumeProducing()  # type: ignore[union-attr]

        asked = 1 + many

        async def told() -> bool:
            """HAProxy says so with the next line that it has room for."""
            nonlocal asked
            await talk(port, request(b"/next"))
            asked += 1
            dropped = sum(records for _, records in missed)
            return dropped > 0 and len(self.lines) + dropped == asked

        await eventually("all are there, or told of", told)
        self.assertEqual({why for why, _ in missed}, {"dropped"})
        self.assertEqual(self.plane.lost_records(), asked - len(self.lines))

    def note_missing(self) -> list[tuple[Any, ...]]:
        """What is told to be missing from now on."""
        told: list[tuple[Any, ...]] = []
        self.plane.missed = lambda *missing: told.append(missing)
        return told

    @asynchronous
    async def test_what_comes_while_its_driver_is_away_is_all_there_when_the_next_one_is(self) -> None:
        """As long as there is room for it, which is 32 MiB in the ring."""
        port = await self.serve_web()
        config = self.plane._config
        await talk(port, request(b"/before"))
        await self.records(1)
        await self.plane.detach()
        for number in range(200):
            await talk(port, request(b"/%d" % number))
        self.plane = self.another()
        self.listen()
        told = self.note_missing()
        await self.plane.start(config)
        self.assertCountEqual([each.path for each in await self.records(200)], [f"/{number}" for number in range(200)])
        self.assertEqual(told, [])

    @asynchronous
    async def test_its_death_is_a_gap_from_the_last_record_until_it_serves_again(self) -> None:
        port = await self.serve_web()
        began = reactor.seconds()
        await talk(port, request(b"/first"))
        await self.records(1)
        told = self.note_missing()
        before = reactor.seconds()
        running = await self.plane._master.find()
        assert running is not None
        os.kill(running.workers[0], signal.SIGKILL)
        [(why, records, from_ms, to_ms)] = await eventually("it is told of", lambda: told)
        self.assertEqual((why, records), ("crash", None))
        self.assertTrue(began * 1000 - 1 <= from_ms <= before * 1000, (began, from_ms, before))
        self.assertTrue(before * 1000 - 1 <= to_ms <= reactor.seconds() * 1000, (before, to_ms))
        await talk(port, request(b"/second"))
        await self.records(2)
        self.assertEqual(len(told), 1)

    @asynchronous
    async def test_no_record_is_lost_by_reloads(self) -> None:
        port = await self.serve_web()
        asked = 0

        async def ask_on() -> None:
            nonlocal asked
            while not done:
                await talk(port, request(b"/%d" % asked))
                asked += 1

        done = False
        asking = [ensureDeferred(ask_on()) for _ in range(4)]
        for part in range(1, 6):
            await eventually("some are there", lambda part=part: len(self.lines) > 100 * part)  # type: ignore[misc]
            await self.plane._master.reload()
        done = True
        for each in asking:
            await each
        await eventually("all are there", lambda: len(self.lines) >= asked)
        self.assertEqual(len(self.lines), asked)

    async def request_that_lasts(self) -> tuple[int, Deferred[Any], Any]:
        """The port of a service, and a request to it that its server has not answered yet."""
        port = await self.serve_web()
        lasting = ensureDeferred(talk(port, request(b"/held")))
        await eventually("the server has it", lambda: self.web.answers.held)
        return port, lasting, await self.plane._master.find()

    @asynchronous
    async def test_a_request_that_outlasts_a_reload_has_its_record_and_its_worker_ends_then(self) -> None:
        port, lasting, before = await self.request_that_lasts()
        missed: list[tuple[Any, ...]] = []
        self.plane.missed = lambda *what: missed.append(what)
        await self.plane._master.reload()
        self.assertEqual((await self.plane._master.processes()).old, before.workers)
        self.web.answers.release()
        await lasting
        await talk(port, request(b"/after"))
        self.assertEqual({each.path for each in await self.records(2)}, {"/held", "/after"})

        async def gone() -> bool:
            return not (await self.plane._master.processes()).old

        await eventually("the worker has ended", gone)
        self.assertEqual(missed, [])

    @asynchronous
    async def test_what_a_leaving_worker_says_to_nobody_is_told_of(self) -> None:
        _, lasting, _ = await self.request_that_lasts()
        missed: list[tuple[Any, ...]] = []
        self.plane.missed = lambda *what: missed.append(what)
        await self.plane._master.reload()
        config = self.plane._config
        await self.plane.detach()
        self.assertEqual([each[:2] for each in missed], [("crash", None)])
        self.plane = self.another()
        self.plane.missed = lambda *what: missed.append(what)
        await self.plane.start(config)
        self.assertEqual([each[:2] for each in missed], [("crash", None)] * 2)
        self.web.answers.release()
        await lasting

    @asynchronous
    async def test_one_that_only_looked_whether_its_driver_is_there_while_that_ends_has_lost_nothing(self) -> None:
        port = await self.serve_web()
        await talk(port, request(b"/before"))
        await self.records(1)
        missed = self.note_missing()
        state, looking = self.plane._master.state, []

        async def late(worker: int) -> WorkerState:
            looking.append(worker)
            return await (Deferred() if len(looking) == 1 else state(worker))

        self.patch(self.plane._master, "state", late)
        await eventually("it looks whether its driver is there", lambda: looking)
        await self.plane.detach()
        self.assertEqual(len(looking), 2)
        self.assertEqual(missed, [])

    # TLS

    async def workers(self) -> tuple[int, ...]:
        running = await self.plane._master.find()
        assert running is not None
        return running.workers

    def loaded(self, said: str) -> int:
        """The serial number in an answer to `show ssl cert`."""
        return int(next(line.split()[1] for line in said.splitlines() if line.startswith("Serial:")), 16)

    @asynchronous
    async def test_a_certificate_is_exchanged_without_a_reload(self) -> None:
        port = await self.serve_tls()
        workers, after = await self.workers(), self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        self.assertEqual(await self.workers(), workers)
        self.assertEqual(self.loaded(await self.plane._master.stats("show ssl cert keys/shop.pem")), after.serial)
        self.assertEqual((self.keys / "shop.pem").read_text(), after.chain_pem + after.key_pem)
        await self.plane._master.reload()
        self.assertNotEqual(await self.workers(), workers)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)

    @asynchronous
    async def test_one_that_is_larger_than_a_command_is_read_by_a_reload(self) -> None:
        port = await self.serve_tls()
        workers = await self.workers()
        large = self.issuer.serve("shop.example", *(f"host-{each}.some.long.domain.example" for each in range(400)))
        self.assertGreater(len(large.chain_pem), 16384)
        await self.plane.take_certificate("shop", large)
        self.assertNotEqual(await self.workers(), workers)
        self.assertEqual(await self.serial(port, "shop.example"), large.serial)

    @asynchronous
    async def test_the_largest_that_fits_into_a_command_needs_no_reload(self) -> None:
        port = await self.serve_tls()
        workers = await self.workers()
        made = [
            self.issuer.serve("shop.example", *(f"host-{each:03}.domain.example" for each in range(count)))
            for count in range(350, 420, 5)
        ]
        fitting = max((each for each in made if len(pem(each)) <= PAYLOAD_BYTES), key=lambda each: len(pem(each)))
        self.assertTrue(PAYLOAD_BYTES - 500 < len(pem(fitting)) <= PAYLOAD_BYTES, len(pem(fitting)))
        await self.plane.take_certificate("shop", fitting)
        self.assertEqual(await self.workers(), workers)
        self.assertEqual(await self.serial(port, "shop.example"), fitting.serial)

    @asynchronous
    async def test_what_haproxy_does_not_take_is_said_in_its_words_and_the_old_one_is_served(self) -> None:
        port = await self.serve_tls()
        before, workers = self.certificates["shop"], await self.workers()
        for weak in (Issuer("Weak CA", key=rsa_key(1024)).serve("shop.example"), self.large_and_weak()):
            error = await self.assertFailure(ensureDeferred(self.plane.take_certificate("shop", weak)), Invalid)
            self.assertIn("chain certificate", str(error))
            self.assertNotIn("\n", str(error))
            self.assertEqual(await self.serial(port, "shop.example"), before.serial)
            self.assertEqual((self.keys / "shop.pem").read_text(), before.chain_pem + before.key_pem)
        self.assertEqual(await self.workers(), workers)
        after = self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)

    def large_and_weak(self) -> ServerCertificate:
        names = (f"host-{each}.some.long.domain.example" for each in range(400))
        return Issuer("Weak CA", key=rsa_key(1024)).serve("shop.example", *names)

    @asynchronous
    async def test_a_transaction_that_somebody_left_stands_in_nobodys_way(self) -> None:
        port = await self.serve_tls()
        other = pem(self.issuer.serve("api.example"))
        said = await self.plane._master.stats(f"set ssl cert keys/api.pem <<\n{other}")
        self.assertIn("Transaction created", said)
        after = self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)
        self.assertEqual(await self.serial(port, "api.example"), self.certificates["api"].serial)

    @asynchronous
    async def test_after_its_driver_died_in_an_exchange_what_the_next_one_has_is_served(self) -> None:
        port = await self.serve_tls()
        config, workers = self.plane._config, await self.workers()
        half = self.issuer.serve("shop.example")
        for committed in (True, False):
            (self.keys / "shop.pem").write_text(pem(half))
            if committed:
                await exchange(self.plane._master.stats, "keys/shop.pem", pem(half))
            await self.plane.detach()
            self.plane = self.another()
            await self.plane.start(config)
            self.assertEqual(await self.serial(port, "shop.example"), self.certificates["shop"].serial)
            self.assertEqual((self.keys / "shop.pem").read_text(), pem(self.certificates["shop"]))
        self.assertEqual(await self.workers(), workers)

    @asynchronous
    async def test_after_a_reboot_the_files_are_made_anew(self) -> None:
        port = await self.serve_tls()
        config = self.plane._config
        await self.plane.shut_down(0.0)
        self.assertEqual(list(self.keys.iterdir()), [])
        self.keys.rmdir()
        self.plane = self.another()
        await self.plane.start(config)
        await eventually("its server is up", lambda: self.up("a"))
        self.assertEqual(await self.serial(port, "shop.example"), self.certificates["shop"].serial)

    @asynchronous
    async def test_it_comes_back_with_the_certificate_that_it_had(self) -> None:
        port = await self.serve_tls()
        after = self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        running = await self.plane._master.find()
        assert running is not None
        os.kill(running.master, signal.SIGKILL)

        async def back() -> bool:
            now = await self.plane._master.find()
            return now is not None and now.master != running.master and bool(now.workers) and self.up("a")

        await eventually("HAProxy is back", back)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)

    @asynchronous
    async def test_while_it_is_gone_nothing_is_taken_that_it_would_not_start_with(self) -> None:
        port = await self.serve_tls()
        self.plane._tasks.stop()
        await self.plane._master.end_leftovers()
        weak, after = Issuer("Weak CA", key=rsa_key(1024)).serve("shop.example"), self.issuer.serve("shop.example")
        await self.assertFailure(ensureDeferred(self.plane.take_certificate("shop", weak)), Invalid)
        await self.plane.take_certificate("shop", after)
        await self.plane.apply(self.plane._config)
        await eventually("its server is up", lambda: self.up("a"))
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)

    @asynchronous
    async def test_keys_are_in_private_files_and_nowhere_else(self) -> None:
        await self.serve_tls()
        after = self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        secrets = [each.key_pem.splitlines()[2] for each in (*self.certificates.values(), after)]
        self.assertEqual(self.keys.stat().st_mode & 0o777, 0o700)
        self.assertEqual({each.stat().st_mode & 0o777 for each in self.keys.iterdir()}, {0o600})
        for path in self.folder.iterdir():
            if path.is_file():
                for secret in secrets:
                    self.assertNotIn(secret.encode(), path.read_bytes(), path)
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with contextlib.suppress(OSError):
                    shown = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
                    self.assertFalse(any(secret.encode() in shown for secret in secrets), place)

    @asynchronous
    async def test_no_key_stays_that_the_configuration_does_not_name(self) -> None:
        port = await self.serve_tls()
        refused = Config(
            virtual_services=[
                self.secured(port, "more"),
                msgspec.structs.replace(self.secured(free_port(), "shop"), name="twin"),
            ],
            pools=[pool("p", self.web)],
        )
        await self.plane.take_certificate("more", self.issuer.serve("more.example"))
        await self.plane.apply(Config(virtual_services=[self.secured(port, "shop")], pools=[pool("p", self.web)]))
        self.assertEqual([each.name for each in self.keys.iterdir() if each.suffix == ".pem"], ["shop.pem"])
        self.plane._master._program = "/bin/false"
        await self.assertFailure(ensureDeferred(self.plane.check(refused)), Invalid)
        self.assertEqual([each.name for each in self.keys.iterdir() if each.suffix == ".pem"], ["shop.pem"])

    @asynchronous
    async def test_of_two_keys_for_a_name_each_client_gets_the_one_that_it_knows(self) -> None:
        self.certificates |= {
            "rsa": self.issuer.serve("both.example", key=rsa_key()),
            "ec": self.issuer.serve("both.example"),
        }
        self.plane = self.another()
        port = await self.serve_tls("shop", "rsa", "ec")
        old = context(self.issuer, maximum_version=ssl.TLSVersion.TLSv1_2)
        old.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        self.assertEqual((await ask_tls(port, "both.example", old)).serial, self.certificates["rsa"].serial)
        self.assertEqual(await self.serial(port, "both.example"), self.certificates["ec"].serial)

    @asynchronous
    async def test_http_2_under_tls(self) -> None:
        port = await self.serve_tls()
        seen = await deferToThread(Open, port, "shop.example", context(self.issuer, protocols=["h2", "http/1.1"]))
        self.addCleanup(seen.close)
        self.assertEqual(seen.tls.selected_alpn_protocol(), "h2")
        curl = shutil.which("curl") or missing("curl is not installed")
        root = Path(self.mktemp())
        root.write_text(chain_pem(self.issuer.root))
        words = ["--silent", "--http2", "--cacert", str(root), "--resolve", f"shop.example:{port}:127.0.0.1"]
        said = await getProcessOutput(
            curl,
            [*words, "--write-out", " %{http_version} %{http_code}", f"https://shop.example:{port}/x?y"],
            os.environ,
        )
        self.assertEqual(said.split()[0], b"a")
        self.assertEqual(said.split()[-2:], [b"2", b"200"])
        found = await self.record()
        self.assertEqual((found.protocol, found.host, found.path), ("HTTP/2.0", "shop.example", "/x"))
        self.assertEqual(
            (found.query, found.sni, found.request_id), ("y", "shop.example", self.web.answers.request_ids[0][0])
        )


HOSTILE = st.text(st.sampled_from("a1-.:/*[] \"'\\\n\r\t\0{}#%$,;ä"), max_size=3)
GOOD = {"name": "w", "address": "10.0.0.1", "host": "a.example", "path": "/a", "check": "/", "certificate": "c"}
DIRECTIVES = ("lua-load", "external-check", "program", "setenv", "chroot", "user ", "include")


class RenderTests(SynchronousTestCase):
    """(H9)"""

    def test_no_value_becomes_a_directive(self) -> None:
        rendered = 0

        @settings(max_examples=500)
        @given(st.sampled_from(sorted(GOOD)), HOSTILE, st.integers(0, 10))
        def tried(field: str, hostile: str, at: int) -> None:
            nonlocal rendered
            rendered += self.is_taken(**{**GOOD, field: GOOD[field][:at] + hostile + GOOD[field][at:]})

        tried()
        self.assertGreater(rendered, 10, "some of it does no harm, and is taken")

    def is_taken(self, name: str, address: str, host: str, path: str, check: str, certificate: str) -> bool:
        """Whether it is a document; fails when what is made of it has any line that is not meant."""
        plain = {
            "name": "d",
            "virtual_services": [
                {
                    "name": name,
                    "address": address,
                    "port": 80,
                    "routes": [{"pool": "p", "host": host, "path": path}],
                    "tls": {"certificates": [certificate]},
                }
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
            return False
        text = render(Config(virtual_services=document.virtual_services, pools=document.pools))
        words = {line.split()[0] for line in text.splitlines() if line.strip()}
        self.assertTrue(words <= ALLOWED, words - ALLOWED)
        self.assertTrue(text.isascii())
        self.assertRegex(key_file(certificate), r"\Akeys/[a-z0-9-]+\.pem\Z")
        for each in DIRECTIVES:
            self.assertFalse(any(line.strip().startswith(each) for line in text.splitlines()))
        return True


ALLOWED = {
    "global", "description", "stats", "server-state-file", "log", "hard-stop-after", "ring", "format", "maxlen", "size", "timeout",
    "server", "defaults", "option", "retries", "load-server-state-from-file", "frontend", "mode", "bind",
    "log-format", "use_backend", "default_backend", "backend", "balance", "http-check", "http-reuse", "error-log-format", "http-request",
    "listen", "default-server", "tcp-request", "unique-id-format", "#",
}  # fmt: skip


def ticks(process: int) -> int:
    """The CPU time that a process has had, in ticks of the clock."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
