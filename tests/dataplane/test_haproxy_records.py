"""What HAProxy says of requests comes, whatever is reloaded or restarted, or is told of as missing."""

from __future__ import annotations

import os
import signal
import socket
from random import Random
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import deferToThread

from avinet.dataplane.render import RECORDS_SOCKET, RING_BYTES
from avinet.dataplane.runtime import WorkerState
from avinet.wire.config import Config
from avinet.wire.log import KEPT_TEXT_BYTES
from tests.dataplane.clients import pipelined, request, talk
from tests.dataplane.haproxies import HAProxyCase
from tests.dataplane.planes import pool
from tests.dataplane.tls_client import Open, context
from tests.running import asynchronous, eventually, free_port


class RecordTests(HAProxyCase):
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

    async def left_while_it_serves(self) -> tuple[Config, Deferred[Any], int]:
        """The service engine has ended, while a worker that leaves has a request still."""
        _, lasting, before = await self.request_that_lasts()
        missed = self.note_missing()
        await self.plane._master.reload()
        config = self.plane._config
        await self.plane.detach()
        self.assertEqual([each[:2] for each in missed], [("crash", None)])
        [worker] = before.workers
        return config, lasting, worker

    async def end_of(self, lasting: Deferred[Any]) -> float:
        """When the request has ended, in milliseconds."""
        self.web.answers.release()
        await lasting
        return reactor.seconds() * 1000

    def in_a_gap(self, missed: list[tuple[Any, ...]], ended_ms: float) -> bool:
        return any(why == "crash" and from_ms <= ended_ms <= to_ms + 1 for why, _, from_ms, to_ms in missed)

    @asynchronous
    async def test_what_a_leaving_worker_says_when_the_next_service_engine_is_there_is_told_of(self) -> None:
        config, lasting, _ = await self.left_while_it_serves()
        self.plane = self.another()
        missed = self.note_missing()
        await self.plane.start(config)
        self.assertEqual([each[:2] for each in missed], [("crash", None)], "what it has said until now")
        ended_ms = await self.end_of(lasting)
        await eventually("it is told of", lambda: self.in_a_gap(missed, ended_ms))

    @asynchronous
    async def test_what_a_leaving_worker_has_said_to_nobody_is_told_of_by_the_next_service_engine(self) -> None:
        config, lasting, worker = await self.left_while_it_serves()
        ended_ms = await self.end_of(lasting)
        await eventually("it is gone", lambda: not self.plane._master.lives(worker))
        for told in (1, 0):
            self.plane = self.another()
            missed = self.note_missing()
            await self.plane.start(config)
            self.assertEqual((len(missed), self.in_a_gap(missed, ended_ms)), (told, bool(told)))
            await self.plane.detach()

    @asynchronous
    async def test_what_a_leaving_worker_says_to_nobody_is_told_of_by_whoever_sees_its_end(self) -> None:
        config, lasting, worker = await self.left_while_it_serves()
        self.plane = self.another()
        await self.plane.start(config)
        missed = self.note_missing()
        await self.plane.detach()
        self.assertEqual(len(missed), 1)
        ended_ms = await self.end_of(lasting)
        await eventually("it is gone", lambda: not self.plane._master.lives(worker))
        self.plane = self.another()
        missed = self.note_missing()
        await self.plane.start(config)
        self.assertTrue(self.in_a_gap(missed, ended_ms))

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
