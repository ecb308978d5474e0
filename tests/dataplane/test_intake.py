"""What comes from HAProxy is taken line by line, and what is none is told of in its place."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.intake import LINE_BYTES, Intake
from avinet.dataplane.leaving import behind
from avinet.dataplane.records import Record, line
from avinet.wire.log import COLUMNS, SEQUENCE

TYPES = {each.key: "" if each.kind == "text" else 7 for each in COLUMNS if each is not SEQUENCE}


def made(**values: Any) -> bytes:
    """A line as HAProxy writes it, with these values."""
    return msgspec.json.encode(TYPES | values)


class IntakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.said: list[Any] = []
        self.batches: list[list[bytes]] = []
        self.records: list[Record] = []
        self.intake = Intake(self.take, lambda why, records: self.said.append((why, records)))
        self.protocol: Any = self.intake.buildProtocol(None)
        self.protocol.makeConnection(StringTransport())

    def take(self, records: Any, lines: Any) -> None:
        self.records += records
        self.batches.append(list(lines))
        self.said += lines

    def hear(self, *lines: bytes) -> None:
        self.protocol.dataReceived(b"".join(each + b"\n" for each in lines))

    def test_the_lines_of_one_read_are_one_batch_as_they_came(self) -> None:
        lines = [made(u=f"/{number}") for number in range(3)]
        self.hear(*lines)
        self.assertEqual(self.batches, [lines])
        self.assertEqual([each.path for each in self.records], ["/0", "/1", "/2"])

    @given(st.lists(st.integers(0, 2000)))
    def test_wherever_the_reads_are_cut(self, cuts: list[int]) -> None:
        self.begin()
        lines = [made(u=f"/{number}") for number in range(4)]
        data = b"".join(each + b"\n" for each in lines)
        places = [0, *sorted(min(each, len(data)) for each in cuts), len(data)]
        for begin, end in itertools.pairwise(places):
            self.protocol.dataReceived(data[begin:end])
        self.assertEqual(self.said, lines)
        self.assertEqual([each.path for each in self.records], ["/0", "/1", "/2", "/3"])

    @given(st.lists(st.booleans(), max_size=8), st.integers(0, 8), st.lists(st.integers(0, 500)))
    def test_what_came_is_found_in_a_ring_whatever_stands_there_twice(
        self, kinds: list[bool], came: int, cuts: list[int]
    ) -> None:
        """What a worker that leaves has told already is not told again, and nothing of the rest is passed over."""
        self.begin()
        ring = [made(u=f"/{at}") if kind else b"1 event dropped" for at, kind in enumerate(kinds)]
        data = b"".join(each + b"\n" for each in ring[:came])
        places = [0, *sorted(min(each, len(data)) for each in cuts), len(data)]
        for begin, end in itertools.pairwise(places):
            self.protocol.dataReceived(data[begin:end])
        at = behind(self.intake.worker(0).last, b"".join(each + b"\n" for each in ring))
        self.assertEqual(at, len(data))

    def test_what_is_remembered_of_a_worker_has_a_bound(self) -> None:
        for _ in range(100):
            self.hear(*[b"1 event dropped"] * 1000)
        last = self.intake.worker(0).last
        self.assertLessEqual(len(last), 2 * LINE_BYTES)
        self.assertEqual(set(last.splitlines()), {b"1 event dropped"})

    def test_a_plus_before_retries_is_taken_away_and_none_from_a_text(self) -> None:
        for text in ("", ',"r":+1'):
            self.begin()
            good = made(r=2, a=text)
            self.hear(good.replace(b'"r":2', b'"r":+2'))
            self.assertEqual(self.said, [good])
            self.assertEqual((self.records[0].retries, self.records[0].user_agent), (2, text))

    def test_what_is_no_record_is_told_of_between_those_that_are(self) -> None:
        good = [made(u=f"/{number}") for number in range(3)]
        for bad in (
            b"",
            b"nonsense",
            b"[]",
            b"null",
            made()[:-1],
            made() + made(),
            made(st="200"),
            made(st=1.5),
            made(u=None),
            made(a="x").replace(b'"x"', b'"\xff"'),
            made(a="x").replace(b'"x"', b'"\\ud800"'),
            msgspec.json.encode({key: value for key, value in TYPES.items() if key != "id"}),
        ):
            self.begin()
            self.hear(good[0], bad, bad, good[1])
            self.hear(good[2])
            self.assertEqual(self.said, [good[0], ("parse", 1), ("parse", 1), good[1], good[2]], bad)
            self.assertEqual(self.intake.bad, {"parse": 2, "long": 0, "dropped": 0})
            self.assertEqual(len(self.records), 3)

    def test_what_haproxy_says_of_itself_is_no_record_and_none_is_missing(self) -> None:
        good = made()
        self.hear(good, b"Proxy f-web stopped (cumulated conns: FE: 1, BE: 0).", good)
        self.assertEqual(self.said, [good, good])
        self.assertEqual(sum(self.intake.bad.values()), 0)

    def test_what_a_ring_had_no_room_for_is_counted_as_that(self) -> None:
        good = made()
        self.hear(good, b"1 event dropped", good, b"31519 events dropped", good)
        self.assertEqual(self.said, [good, ("dropped", 1), good, ("dropped", 31519), good])
        self.assertEqual(self.intake.bad, {"parse": 0, "long": 0, "dropped": 31520})
        for bad in (b"x1 event dropped", b"1 event dropped ", b"-1 events dropped", b"9" * 12 + b" events dropped"):
            self.begin()
            self.hear(bad)
            self.assertEqual(self.said, [("parse", 1)])

    def test_a_line_that_is_too_long_is_passed_over_and_not_kept(self) -> None:
        good, long = made(), made(a="x" * LINE_BYTES)
        for piece in (len(long) + 1, 1000):
            self.begin()
            data = good + b"\n" + long + b"\n" + good + b"\n"
            for begin in range(0, len(data), piece):
                self.protocol.dataReceived(data[begin : begin + piece])
            self.assertEqual(self.said, [good, ("parse", 1), good])
            self.assertEqual(self.intake.bad, {"parse": 0, "long": 1, "dropped": 0})
        self.begin()
        for _ in range(100):
            self.protocol.dataReceived(b"x" * 10_000)
        self.assertLessEqual(len(self.protocol._rest), LINE_BYTES)
        self.assertEqual(self.said, [("parse", 1)])

    def test_many_lines_in_one_read_are_not_too_long(self) -> None:
        lines = [made()] * (2 * LINE_BYTES // len(made()))
        self.hear(*lines)
        self.assertEqual(self.batches, [lines])

    def test_a_handshake_that_failed_is_no_record_and_none_is_missing(self) -> None:
        failed, refused, served = made(st=0, x="PR"), made(st=400, x="PR"), made(st=0, x="--")
        self.hear(served, failed, refused)
        self.hear(failed)
        self.assertEqual(self.batches, [[served, refused]])
        self.assertEqual(len(self.records), 2)

    def test_what_is_broken_off_is_missing(self) -> None:
        self.protocol.dataReceived(made() + b"\n" + made()[:40])
        self.protocol.connectionLost()
        self.assertEqual(self.said, [made(), ("parse", 1)])

    def test_a_record_that_is_written_here_is_a_line_with_every_key(self) -> None:
        record = msgspec.json.decode(made(u="/a"), type=Record)
        self.assertEqual(line(record), made(u="/a"))
