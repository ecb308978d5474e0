"""Exports to collectors on real sockets, over real TLS: the right one is found, a wrong one is told nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.dataplane.records import line
from avinet.errors import LocalError
from avinet.logs.export.destinations import Around, destination
from avinet.logs.export.exporter import Exporter
from avinet.logs.export.settings import Export
from tests.logs.export.collectors import Files, OtlpCollector, SyslogCollector
from tests.logs.test_significant import record
from tests.running import asynchronous, eventually

START_S = 1_800_000_000.0


class Case(TestCase):
    @override
    def setUp(self) -> None:
        self.files = Files(Path(self.mktemp()).absolute())
        self.tasks = Tasks()

    def export(self, kind: str, **settings: Any) -> Exporter:
        given = Export(name="out", kind=kind, **{"retry_cap_s": 1.0, **settings})  # type: ignore[arg-type]
        around = Around(lambda: "se-1", "edge-1", lambda: START_S)
        to = destination(reactor, given, self.files.folder, around)
        exporter = Exporter(reactor, given, to, reactor.seconds, lambda: 0.1, self.tasks)
        exporter.start()
        self.addCleanup(self.ended, to)
        return exporter

    def ended(self, to: Any) -> Any:
        self.tasks.stop()
        return ensureDeferred(to.close())

    def take(self, exporter: Exporter, *paths: str, **values: Any) -> list[bytes]:
        lines = [line(record(path=each, time=1_800_000_000_000, **values)) for each in paths]
        exporter.take(lines)
        return lines


class SyslogTests(Case):
    def syslog(self, collector: SyslogCollector, **rest: Any) -> Exporter:
        given = {"ca": "ca.pem", "server_name": "collector.example", **rest}
        return self.export("syslog", address=f"127.0.0.1:{collector.port}", **given)

    @asynchronous
    async def test_records_arrive_as_messages_in_their_order(self) -> None:
        collector = SyslogCollector(self, self.files.context())
        exporter = self.syslog(collector, facility=3, enterprise=99)
        lines = self.take(exporter, *(f'/{number}?"]\\' for number in range(500)), status=503)
        await eventually("they are there", lambda: len(collector.messages) >= 500 or collector.errors)
        self.assertEqual((collector.errors, [each.text for each in collector.messages]), ([], lines))
        first = collector.messages[0]
        self.assertEqual((first.facility, first.severity, first.element), (3, 3, "avinet@99"))
        self.assertEqual((first.host, first.data), ("edge-1", {"se": "se-1", "service": "web"}))
        await eventually("they are counted", lambda: exporter.state.sent == 500)

    @asynchronous
    async def test_a_collector_that_asks_who_is_there_is_told(self) -> None:
        collector = SyslogCollector(self, self.files.context(asks=True))
        without = self.syslog(collector)
        self.take(without, "/unknown")
        await eventually("it is turned away", lambda: without.state.problem or without.state.unknown)
        known = self.syslog(collector, certificate="client.pem", key="client.key")
        self.take(known, "/known")
        await eventually("it is there", lambda: collector.messages)
        self.assertEqual({json.loads(each.text)["u"] for each in collector.messages}, {"/known"})

    @asynchronous
    async def test_a_wrong_one_is_told_nothing(self) -> None:
        other = Files(self.files.folder / "other")
        for context, rest, why in (
            (other.context(), {}, "not signed by"),
            (self.files.context(), {"server_name": "elsewhere.example"}, "for another name"),
        ):
            collector = SyslogCollector(self, context)
            exporter = self.syslog(collector, **rest)
            self.take(exporter, "/secret")
            await eventually("it is refused", lambda why=why, exporter=exporter: why in exporter.state.problem)  # type: ignore[misc]
            self.assertEqual((collector.messages, exporter.state.sent), ([], 0))

    @asynchronous
    async def test_it_is_found_again_and_what_may_be_missing_is_told(self) -> None:
        collector = SyslogCollector(self, self.files.context())
        exporter = self.syslog(collector)
        self.take(exporter, "/1")
        await eventually("it is there", lambda: len(collector.messages) == 1 and exporter.state.sent == 1)
        collector.cut()
        collector.stop()
        self.take(exporter, "/2")
        await eventually("it is seen to be gone", lambda: exporter.state.problem)
        again = SyslogCollector(self, self.files.context(), collector.port)
        self.take(exporter, "/3")
        await eventually("they are there", lambda: len(again.messages) >= 4)
        requests = [json.loads(each.text)["u"] for each in again.messages if each.kind == "request"]
        self.assertEqual(requests, ["/1", "/2", "/3"])
        gaps = [each.data["reason"] for each in again.messages if each.kind == "gap"]
        self.assertEqual((gaps, exporter.state.unknown, exporter.state.problem), (["connection"], 1, ""))

    @asynchronous
    async def test_one_that_does_not_read_fills_what_is_bounded_and_the_rest_is_counted(self) -> None:
        collector = SyslogCollector(self, self.files.context())
        exporter = self.syslog(collector, buffer_mib=1, timeout_s=60)
        collector.reading.clear()
        sent = 0

        def more() -> bool:
            nonlocal sent
            sent += len(self.take(exporter, *["/" + "x" * 2000] * 100))
            return bool(exporter.state.lost.get("full", 0))

        await eventually("it is full", more)
        self.assertLessEqual(exporter.state.waiting_bytes, 1024 * 1024)
        collector.reading.set()
        await eventually("it has all that there was room for", lambda: not exporter.state.waiting_bytes)
        lost = exporter.state.lost["full"]

        def told() -> int:
            return sum(json.loads(each.text)["records"] for each in collector.messages if each.kind == "gap")

        def came() -> int:
            return sum(each.kind == "request" for each in collector.messages)

        await eventually("each came, or is told to be missing", lambda: came() + told() >= sent)
        self.assertEqual((came(), told(), collector.errors), (sent - lost, lost, []))


class OtlpTests(Case):
    def otlp(self, collector: OtlpCollector, **rest: Any) -> Exporter:
        return self.export("otlp", url=f"http://127.0.0.1:{collector.port}", **rest)

    @asynchronous
    async def test_records_arrive_in_the_shape_of_the_standard(self) -> None:
        collector = OtlpCollector(self)
        (self.files.folder / "headers").write_text("Authorization: Bearer abc\nx-scope: web\n")
        exporter = self.otlp(collector, headers="headers")
        self.take(exporter, "/1", "/2", status=500, method="GET")
        await eventually("they are there", lambda: exporter.state.sent == 2)
        [(path, headers, _)] = collector.requests
        self.assertEqual((path, headers["content-type"]), ("/v1/logs", "application/json"))
        self.assertEqual((headers["authorization"], headers["x-scope"]), ("Bearer abc", "web"))
        self.assertEqual([each["body"]["stringValue"] for each in collector.logs], ["GET /1 500", "GET /2 500"])
        self.assertEqual({each["timeUnixNano"] for each in collector.logs}, {"1800000000000000000"})

    @asynchronous
    async def test_over_tls_the_collector_is_verified(self) -> None:
        collector = OtlpCollector(self, self.files.context(asks=True))
        rest = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
        url = f"https://127.0.0.1:{collector.port}/otlp/"
        right = self.export("otlp", url=url, server_name="collector.example", **rest)
        self.take(right, "/1")
        await eventually("it is there", lambda: right.state.sent == 1)
        self.assertEqual(collector.requests[0][0], "/otlp/v1/logs")
        wrong = self.export("otlp", url=url, server_name="elsewhere.example", **rest)
        self.take(wrong, "/2")
        await eventually("it is refused", lambda: wrong.state.problem)
        self.assertEqual((len(collector.requests), wrong.state.sent), (1, 0))

    @asynchronous
    async def test_what_is_to_come_later_comes_later_and_what_is_refused_is_counted(self) -> None:
        collector = OtlpCollector(self)
        collector.answers = [
            (503, {"retry-after": "1"}, b""),
            (429, {}, b""),
            (502, {}, b""),
            (200, {}, b'{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"too old"}}'),
            (400, {}, b"no"),
        ]
        exporter = self.otlp(collector)
        self.take(exporter, "/1", "/2")
        await eventually("it was taken", lambda: exporter.state.sent == 1)
        self.assertEqual(exporter.state.lost, {"refused": 1})
        self.assertIn("too old", exporter.state.problem)
        self.take(exporter, "/3")
        await eventually("it was refused", lambda: exporter.state.lost["refused"] == 2)
        await eventually("what is missing is told", lambda: collector.logs[-1]["eventName"] == "avinet.gap")
        bodies = [body for _, _, body in collector.requests]
        tried = [len(body["resourceLogs"][0]["scopeLogs"][0]["logRecords"]) for body in bodies[:4]]
        self.assertEqual(tried, [2, 2, 2, 2], "the same batch until it was taken")

    @asynchronous
    async def test_a_line_that_is_no_record_does_not_end_it(self) -> None:
        collector = OtlpCollector(self)
        exporter = self.otlp(collector)
        exporter.take([b"nonsense"])
        await eventually("it is refused", lambda: exporter.state.lost)
        self.take(exporter, "/1")
        await eventually("the next one is taken", lambda: exporter.state.sent == 1)
        self.assertEqual(exporter.state.lost, {"refused": 1})


class SettingsTests(Case):
    def refused(self, kind: str, **rest: Any) -> str:
        given = Export(name="out", kind=kind, **rest)  # type: ignore[arg-type]
        around = Around(lambda: "se-1", "edge-1", lambda: START_S)
        error = self.assertRaises(LocalError, destination, reactor, given, self.files.folder, around)
        self.assertTrue(str(error).startswith("export out: "), error)
        return str(error)

    def test_what_cannot_be_is_said_at_the_start(self) -> None:
        folder = self.files.folder
        (folder / "bad-headers").write_text("Authorization: Bearer SECRET\nHost: x\n")
        (folder / "split").write_text("X-A: SECRET\x0bB: c\n")
        syslog, otlp = {"address": "127.0.0.1:6514"}, {"url": "https://collector.example"}
        for kind, rest, said in (
            ("syslog", {}, "host:port"),
            ("syslog", {"address": "127.0.0.1:0", "ca": "ca.pem"}, "no valid port"),
            ("syslog", syslog, "there is no ca"),
            ("syslog", {**syslog, **otlp}, "syslog has no url"),
            ("syslog", {**syslog, "ca": "none.pem"}, "none.pem"),
            ("syslog", {**syslog, "ca": "client.key"}, "no certificate"),
            ("syslog", {**syslog, "ca": "ca.pem", "key": "client.key"}, "belong together"),
            ("syslog", {**syslog, "ca": "ca.pem", "certificate": "ca.pem", "key": "client.key"}, "no private key for"),
            ("otlp", {}, "is no URL"),
            ("otlp", {"url": "http://collector.example"}, "not encrypted"),
            ("otlp", {"url": "http://127.0.0.1.example"}, "not encrypted"),
            ("otlp", {"url": "ftp://collector.example"}, "is no URL"),
            ("otlp", {"url": "https://a:b@collector.example"}, "is no URL"),
            ("otlp", {"url": "https://collector.example:99999"}, "no valid port"),
            ("otlp", otlp, "there is no ca"),
            ("otlp", {**otlp, **syslog}, "otlp has no address"),
            ("otlp", {"url": "http://127.0.0.1", "headers": "bad-headers"}, "line 2"),
            ("otlp", {"url": "http://127.0.0.1", "headers": "split"}, "line "),
        ):
            text = self.refused(kind, **rest)
            self.assertIn(said, text)
            self.assertNotIn("SECRET", text)
            self.assertNotIn("\n", text)
