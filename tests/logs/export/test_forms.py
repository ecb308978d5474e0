"""What a collector is sent is what its standards say, whatever is in the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet import __version__
from avinet.dataplane.records import line
from avinet.logs.export.batch import RECORDS, Batch, Notice, Waiting
from avinet.logs.export.glance import glance
from avinet.logs.export.otlp_json import NAMES, body, rejected
from avinet.logs.export.rfc5424 import Sender
from avinet.wire.log import COLUMNS
from tests.logs.export.syslog_message import parsed, unframed
from tests.logs.test_significant import record

NOW_MS = 1_800_000_000_123
GAP = Notice("full", 7, NOW_MS - 500, NOW_MS)
UNKNOWN = Notice("crash", None, NOW_MS - 500, NOW_MS)
REQUEST = Path(__file__).with_name("request.json")
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def sender(**rest: Any) -> Sender:
    return Sender(**{"host": "edge-1.example", "engine": lambda: "se-1", "facility": 16, "enterprise": 32473, **rest})


class GlanceTests(SynchronousTestCase):
    @given(TEXTS, TEXTS, st.integers(-1, 599), st.integers(1, 2**48))
    def test_a_look_finds_what_a_decoder_does(self, path: str, agent: str, status: int, time_ms: int) -> None:
        found = record(path=path + '","st":1,"', user_agent=agent + '"st":2,', status=status, time=time_ms)
        self.assertEqual(glance(line(found)), (time_ms, "web", status))

    def test_what_is_no_record_is_nothing(self) -> None:
        for bad in (b"", b"{}", b'{"s":"web"}', b"\xff"):
            self.assertEqual(glance(bad), (0, "", 0))


class SyslogTests(SynchronousTestCase):
    def test_a_record_is_a_message_with_its_json(self) -> None:
        found = line(record(status=503, time=NOW_MS, path='/"]\\'))
        message = parsed(sender().record(found))
        self.assertEqual((message.facility, message.severity, message.time), (16, 3, "2027-01-15T08:00:00.123Z"))
        self.assertEqual((message.host, message.app, message.kind), ("edge-1.example", "avinet", "request"))
        self.assertEqual((message.element, message.data), ("avinet@32473", {"se": "se-1", "service": "web"}))
        self.assertEqual(message.text, found)

    def test_the_severity_is_that_of_the_status(self) -> None:
        said = [parsed(sender().record(line(record(status=each)))).severity for each in (0, 200, 404, -1, 500)]
        self.assertEqual(said, [6, 6, 5, 5, 3])

    def test_what_is_missing_is_a_message_too(self) -> None:
        message = parsed(sender().notice(GAP))
        self.assertEqual((message.severity, message.kind, message.data), (4, "gap", {"se": "se-1", "reason": "full"}))
        self.assertEqual(
            json.loads(message.text), {"gap": "full", "records": 7, "from_ms": NOW_MS - 500, "to_ms": NOW_MS}
        )
        self.assertNotIn("records", json.loads(parsed(sender().notice(UNKNOWN)).text))

    @given(
        st.lists(st.builds(record, path=TEXTS, user_agent=TEXTS, time=st.integers(0, 2**53)), max_size=5), TEXTS, TEXTS
    )
    def test_whatever_is_in_them_each_is_one_message(self, records: list[Any], host: str, engine: str) -> None:
        batch = Batch([GAP], [line(each) for each in records])
        of = sender(host=host, engine=lambda: engine)
        messages, rest = unframed(b"".join(of.frames(batch)))
        self.assertEqual((len(messages), rest), (len(records) + 1, b""))
        self.assertEqual([each.text for each in messages[1:]], batch.lines)
        self.assertEqual({each.data["se"] for each in messages}, {engine})

    def test_a_time_that_is_none_is_a_dash(self) -> None:
        self.assertEqual(parsed(sender().record(line(record(time=2**60)))).time, "-")


class OtlpTests(SynchronousTestCase):
    def logs(self, batch: Batch) -> list[dict[str, Any]]:
        [of] = json.loads(body(batch, "se-1", "edge-1", NOW_MS))["resourceLogs"]
        resource = self.attributes(of["resource"])
        self.assertEqual(resource, {"service.name": "avinet", "service.instance.id": "se-1", "host.name": "edge-1"})
        [scope] = of["scopeLogs"]
        self.assertEqual(scope["scope"]["name"], "avinet.request-logs")
        found: list[dict[str, Any]] = scope["logRecords"]
        return found

    def attributes(self, of: dict[str, Any]) -> dict[str, Any]:
        """Attributes by their names; numbers are texts, as 64 bits are in JSON."""
        found = {}
        for each in of["attributes"]:
            self.assertEqual(set(each), {"key", "value"})
            [(kind, value)] = each["value"].items()
            self.assertIsInstance(value, str)
            found[each["key"]] = int(value) if kind == "intValue" else value
            self.assertIn(kind, ("intValue", "stringValue"))
        self.assertEqual(len(found), len(of["attributes"]), "no name twice")
        return found

    def test_a_record_is_a_log_with_its_columns(self) -> None:
        whole = record(
            status=503, time=NOW_MS, method="GET", path="/a", query="b", host="shop.example", protocol="HTTP/2.0",
            client="192.0.2.7", client_port=4711, user_agent="x", termination="SC", total_ms=12,
        )  # fmt: skip
        [log] = self.logs(Batch([], [line(whole)]))
        self.assertEqual((log["timeUnixNano"], log["observedTimeUnixNano"]), (f"{NOW_MS}000000",) * 2)
        self.assertEqual((log["severityNumber"], log["severityText"]), (17, "ERROR"))
        self.assertEqual((log["eventName"], log["body"]), ("avinet.request", {"stringValue": "GET /a 503"}))
        said = self.attributes(log)
        self.assertEqual(said["http.response.status_code"], 503)
        self.assertEqual((said["url.path"], said["url.query"], said["server.address"]), ("/a", "b", "shop.example"))
        self.assertEqual((said["network.protocol.name"], said["network.protocol.version"]), ("http", "2"))
        self.assertEqual((said["client.address"], said["client.port"]), ("192.0.2.7", 4711))
        self.assertEqual(
            (said["avinet.service"], said["avinet.termination"], said["avinet.total_ms"]), ("web", "SC", 12)
        )

    def test_the_text_of_a_request_is_always_the_same(self) -> None:
        one = record(
            status=404,
            time=NOW_MS,
            method="GET",
            path='/"\\\n\x01ä',
            host="shop.example",
            protocol="HTTP/1.1",
            retries=2,
        )
        two = record(service="db", status=0, time=0, method="", path="", host="", protocol="")
        said = body(Batch([GAP], [line(one), line(two)]), "se-1", 'edge"1', NOW_MS).decode()
        self.assertEqual(said.replace(__version__, "VERSION"), REQUEST.read_text())

    def test_what_is_missing_is_a_log_too(self) -> None:
        known, unknown = self.logs(Batch([GAP, UNKNOWN], []))
        self.assertEqual((known["eventName"], known["severityText"]), ("avinet.gap", "WARN"))
        self.assertEqual(known["body"], {"stringValue": "7 records are missing: full"})
        said = self.attributes(known)
        self.assertEqual((said["avinet.gap.reason"], said["avinet.gap.records"]), ("full", 7))
        self.assertNotIn("avinet.gap.records", self.attributes(unknown))

    @given(TEXTS, st.integers(-1, 599), st.sampled_from(["", "HTTP/1.1", "x"]))
    def test_whatever_is_in_one_its_attributes_have_names(self, text: str, status: int, protocol: str) -> None:
        [log] = self.logs(Batch([], [line(record(path=text, host=text, status=status, protocol=protocol))]))
        self.attributes(log)

    def test_each_name_is_of_a_column(self) -> None:
        self.assertEqual(set(NAMES) - {each.name for each in COLUMNS}, set())

    def test_what_was_not_taken_is_said_by_the_answer(self) -> None:
        for answer, said in (
            (b"", (0, "")),
            (b"{}", (0, "")),
            (b'{"partialSuccess":{}}', (0, "")),
            (b'{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"no"}}', (3, "no")),
            (b'{"partialSuccess":{"rejectedLogRecords":3}}', (3, "")),
            (b'{"partialSuccess":{"rejectedLogRecords":-3}}', (0, "")),
            (b'{"partialSuccess":{"rejectedLogRecords":"x"}}', (0, "")),
            (b"nonsense", (0, "")),
        ):
            self.assertEqual(rejected(answer), said, answer)


class WaitingTests(SynchronousTestCase):
    def test_what_there_is_no_room_for_is_counted_and_told_with_the_next_batch(self) -> None:
        waiting = Waiting(100)
        self.assertEqual(waiting.append([b"x" * 40] * 4, 1000), 2)
        self.assertEqual(waiting.append([b"x" * 40], 2000), 1)
        batch = waiting.next(1000)
        self.assertEqual((len(batch.lines), batch.notices), (2, [Notice("full", 3, 1000, 2000)]))
        self.assertEqual(waiting.append([b"x" * 40], 3000), 1, "what is under way has its place still")
        waiting.done(batch)
        self.assertEqual((waiting.append([b"x" * 40], 4000), dict(waiting.lost), waiting.held), (0, {"full": 4}, 40))

    def test_what_is_unknown_does_not_become_known_with_what_is(self) -> None:
        waiting = Waiting(100)
        for each in (UNKNOWN, GAP, UNKNOWN, Notice("crash", 2, 1, 2)):
            waiting.lose(each)
        self.assertEqual((dict(waiting.lost), waiting.unknown), ({"full": 7, "crash": 2}, 2))
        said = {(each.reason, each.records) for each in waiting.next(1).notices}
        self.assertEqual(said, {("crash", None), ("full", 7), ("crash", 2)})

    def test_a_batch_has_its_bounds_and_one_line_at_least(self) -> None:
        waiting = Waiting(10**6)
        waiting.append([b"x" * 300, *[b"y" * 10] * (RECORDS + 100)], 0)
        self.assertEqual([len(waiting.next(200).lines) for _ in range(2)], [1, 20])
        self.assertEqual(len(waiting.next(10**6).lines), RECORDS)
