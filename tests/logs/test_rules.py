"""The rules of the spool without its disk: names, what a start makes of them, losses, the buffer, the cap."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.spool.lines import IN_LINES, LONGEST_MS, absent, mended, record
from avinet.logs.spool.losses import LIMIT, Loss, loss_of, read, settled, shrunk, written
from avinet.logs.spool.naming import GAPS, LINES, MANIFEST, PARQUET, found, next_number, open_name, plan, sealed_name
from avinet.logs.spool.pending import Pending
from avinet.logs.spool.room import chosen, surplus
from avinet.wire.log import TEXT_BYTES
from avinet.wire.segment import Gap, Manifest

REASONS = st.sampled_from(["parse", "dropped", "full", "cap", "crash"])
LOSS = st.builds(
    lambda at, after, records, reason: Loss(
        at=at if after is None else 0, after=after, records=records, reason=reason, from_ms=1, to_ms=2
    ),
    st.integers(0, 20),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(0, 9),
    REASONS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def segment(first: int, last: int, size: int = 100, from_ms: int = 0, to_ms: int = 0) -> Manifest:
    rows = last - first + 1
    return Manifest(
        schema=1, engine="se-1", generation=1, first=first, last=last, rows=rows, from_ms=from_ms, to_ms=to_ms,
        services={"shop": rows}, bytes=size, sha256="0" * 64,
    )  # fmt: skip


class NamingTests(SynchronousTestCase):
    def test_names_are_in_the_order_of_their_numbers(self) -> None:
        numbers = [1, 9, 10, 99, 10**19]
        self.assertEqual(sorted(map(open_name, numbers)), [open_name(n) for n in numbers])

    def test_names_of_others_stand_for_nothing(self) -> None:
        names = ["open-1.jsonl", open_name(1) + "x", "../" + open_name(1), sealed_name((1, 2), ".txt"), "lock", ""]
        self.assertEqual(found(names), found([]))

    def test_a_parquet_file_without_its_manifest_goes_and_its_lines_are_sealed_again(self) -> None:
        steps = plan(found([open_name(1), sealed_name((1, 5), PARQUET)]))
        self.assertEqual((steps.remove, steps.seal, steps.segments), ([sealed_name((1, 5), PARQUET)], [1], []))

    def test_lines_whose_segment_has_its_manifest_go(self) -> None:
        both = [sealed_name((1, 5), PARQUET), sealed_name((1, 5), MANIFEST)]
        steps = plan(found([open_name(1), open_name(1, GAPS), open_name(6), *both]))
        self.assertEqual(steps.segments, [(1, 5)])
        self.assertEqual(set(steps.remove), {open_name(1), open_name(1, GAPS)})
        self.assertEqual(steps.seal, [6])

    def test_a_manifest_alone_is_damage_and_removes_no_lines(self) -> None:
        steps = plan(found([open_name(1), sealed_name((1, 5), MANIFEST)]))
        self.assertEqual((steps.damaged, steps.seal, steps.remove), ([(1, 5)], [1], []))

    def test_gaps_without_lines_go_to_the_lines_behind_them_or_are_told_of(self) -> None:
        steps = plan(found([open_name(91, GAPS), open_name(101)]))
        self.assertEqual(steps.rename, [(open_name(91, GAPS), open_name(101, GAPS))])
        steps = plan(found([open_name(91, GAPS), open_name(101), open_name(101, GAPS)]))
        self.assertEqual((steps.rename, steps.stray), ([], [open_name(91, GAPS)]))

    @given(
        st.sets(st.tuples(st.integers(1, 30), st.sampled_from([LINES, GAPS]))),
        st.sets(st.tuples(st.integers(1, 30), st.integers(0, 9), st.sampled_from([PARQUET, MANIFEST]))),
    )
    def test_no_lines_go_unless_their_segment_is_whole(
        self, opened: set[tuple[int, str]], sealed: set[tuple[int, int, str]]
    ) -> None:
        names = {open_name(*each) for each in opened}
        names |= {sealed_name((first, first + more), suffix) for first, more, suffix in sealed}
        steps = plan(found(names))
        whole = {first for first, _ in steps.segments}
        for first, suffix in opened:
            if suffix == LINES:
                self.assertEqual(open_name(first) in steps.remove, first in whole)
                self.assertEqual(first in steps.seal, first not in whole)
        for span in steps.segments:
            self.assertFalse({sealed_name(span, PARQUET), sealed_name(span, MANIFEST)} & set(steps.remove))

    @given(
        st.lists(st.tuples(st.integers(1, 99), st.integers(0, 9))),
        st.dictionaries(st.integers(1, 99), st.integers(0, 9)),
    )
    def test_the_next_number_is_behind_all_that_there_are(
        self, pairs: list[tuple[int, int]], opened: dict[int, int]
    ) -> None:
        spans = [(first, first + more) for first, more in pairs]
        number = next_number(spans, opened, 7)
        used = {7} | {last for _, last in spans} | {n for f, count in opened.items() for n in range(f, f + count)}
        self.assertGreater(number, max(used))


class LossTests(SynchronousTestCase):
    @given(st.lists(LOSS, max_size=60), st.integers(5, 12))
    def test_shrinking_forgets_no_record(self, losses: list[Loss], limit: int) -> None:
        less = shrunk(losses, limit)
        self.assertLessEqual(len(less), 2 * limit)
        for reason in {each.reason for each in losses}:
            before = [each.records for each in losses if each.reason == reason]
            after = [each.records for each in less if each.reason == reason]
            if None in before:
                self.assertIn(None, after)
            else:
                self.assertEqual(sum(filter(None, after)), sum(filter(None, before)))

    @given(st.lists(LOSS, max_size=20), st.integers(0, 40))
    def test_half_a_last_line_costs_the_last_one_alone(self, losses: list[Loss], cut: int) -> None:
        self.assertEqual(read(written(losses)), losses)
        data = written(losses)
        whole = read(data[: len(data) - cut]) if cut else read(data)
        self.assertEqual(whole, losses[: len(whole)])

    @given(st.integers(1, 50), st.lists(st.booleans(), max_size=30), st.data())
    def test_a_loss_is_behind_the_records_that_came_before_it(
        self, first: int, fit: list[bool], data: st.DataObject
    ) -> None:
        at = data.draw(st.integers(0, len(fit)))
        unfit = [place for place, good in enumerate(fit) if not good]
        (gap,) = settled([Loss(at=at, records=1, reason="full", from_ms=0, to_ms=0)], first, unfit)
        self.assertEqual(gap.after, first - 1 + sum(fit[:at]))

    def test_one_with_its_own_place_keeps_it(self) -> None:
        gap = Gap(after=3, records=4, reason="cap", from_ms=5, to_ms=6)
        self.assertEqual(settled([loss_of(gap)], 100, [0, 1, 2]), [gap])


class PendingTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.lists(st.binary(max_size=12), max_size=6), st.booleans(), st.booleans()), max_size=20))
    def test_all_is_written_in_order_or_counted_and_the_bound_holds(
        self, steps: list[tuple[list[bytes], bool, bool]]
    ) -> None:
        pending = Pending(40)
        given_, lost, out = [], 0, []
        for lines, take, fail in steps:
            left = pending.append(lines, 5)
            given_ += lines[: len(lines) - left]
            lost += left
            self.assertLessEqual(pending.held, 40)
            if take:
                batch = pending.take()
                if fail:
                    pending.put_back(batch)
                else:
                    out += batch.lines
                    pending.written(sum(map(len, batch.lines)) + len(batch.lines))
                    lost -= sum(each.records or 0 for each in batch.losses)
        batch = pending.take()
        self.assertEqual(out + batch.lines, given_)
        self.assertEqual(lost, sum(each.records or 0 for each in batch.losses))

    def test_losses_stay_where_they_were_when_nothing_could_be_written(self) -> None:
        pending = Pending(100)
        pending.append([b"a", b"b"], 1)
        pending.lose(Loss(records=3, reason="dropped", from_ms=1, to_ms=1))
        batch = pending.take()
        pending.append([b"c"], 2)
        pending.lose(Loss(records=4, reason="dropped", from_ms=2, to_ms=2))
        pending.put_back(batch)
        batch = pending.take()
        self.assertEqual(batch.lines, [b"a", b"b", b"c"])
        self.assertEqual([(each.at, each.records) for each in batch.losses], [(2, 3), (3, 4)])

    def test_losses_are_bounded_and_counted(self) -> None:
        pending = Pending(10**6)
        for number in range(3 * LIMIT):
            pending.append([b"x"], number)
            pending.lose(Loss(records=1, reason="dropped", from_ms=number, to_ms=number))
        losses = pending.take().losses
        self.assertLessEqual(len(losses), LIMIT)
        self.assertEqual(sum(each.records or 0 for each in losses), 3 * LIMIT)


class RoomTests(SynchronousTestCase):
    @given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 300), st.integers(0, 300))
    def test_the_fewest_go_and_the_oldest_first(self, sizes: list[int], more: int, cap: int) -> None:
        segments = [segment(n + 1, n + 1, size, to_ms=10) for n, size in enumerate(sizes)]
        total = sum(sizes) + more
        count = surplus(segments, total, cap, lambda _: False)
        left = total - sum(sizes[:count])
        self.assertTrue(left <= cap or count == len(sizes))
        self.assertTrue(count == 0 or left + sizes[count - 1] > cap)

    def test_what_is_too_old_goes(self) -> None:
        segments = [segment(1, 1), segment(2, 2), segment(3, 3)]
        self.assertEqual(surplus(segments, 0, 100, lambda each: each.first <= 2), 2)

    def test_segments_are_found_by_number_and_time(self) -> None:
        one, two = segment(1, 10, from_ms=0, to_ms=9), segment(11, 20, from_ms=8, to_ms=15)
        self.assertEqual(chosen([one, two], 10, None, None), [two])
        self.assertEqual(chosen([one, two], 9, None, None), [one, two])
        self.assertEqual(chosen([one, two], 0, 10, None), [two])
        self.assertEqual(chosen([one, two], 0, None, 8), [one])


class LineTests(SynchronousTestCase):
    def test_what_is_not_fit_becomes_absent(self) -> None:
        said = {"t": 5, "s": "shop", "st": "200", "p": 7, "o": 2**70, "tr": None, "u": "/", "more": [1], "ta": 3.0}
        found_ = record(msgspec.json.encode(said))
        assert found_ is not None
        self.assertEqual(
            (found_.t, found_.s, found_.st, found_.p, found_.o, found_.tr, found_.u, found_.ta),
            (5, "shop", -1, "", 0, -1, "/", 3),
        )

    def test_what_has_no_time_is_no_record(self) -> None:
        for line in (b"", b"{", b"[]", b"1", b"{}", b'{"t":"5"}', b'{"t":0}', b'{"t":-1}', b'{"t":9007199254740992}'):
            self.assertIsNone(record(line), line)

    def test_a_text_is_cut_in_whole_characters(self) -> None:
        found_ = record(msgspec.json.encode({"t": 1, "u": "x" + "é" * TEXT_BYTES}))
        assert found_ is not None
        self.assertEqual(found_.u, "x" + "é" * (TEXT_BYTES // 2 - 1))

    def test_bytes_that_are_no_utf8_are_replaced(self) -> None:
        found_ = record(b'{"t":1,"a":"caf\xe9"}')
        assert found_ is not None
        self.assertEqual(found_.a, "caf�")

    @given(st.dictionaries(st.sampled_from([c.key for c in IN_LINES] + ["x"]), JSON, max_size=8))
    def test_any_object_with_a_time_is_a_record_of_the_right_types(self, said: dict[str, object]) -> None:
        line = msgspec.json.encode({**said, "t": 77})
        found_ = record(line)
        assert found_ is not None
        self.assertEqual(found_.t, 77)
        for column in IN_LINES:
            value = getattr(found_, column.key)
            self.assertIs(type(value), str if column.kind == "text" else int)
            if column.key not in said and column.key != "t":
                self.assertEqual(value, absent(column))

    @given(st.lists(st.binary(max_size=30) | st.integers(1, LONGEST_MS - 1).map(lambda t: b'{"t":%d}' % t)))
    def test_every_line_is_a_record_or_told_apart(self, lines: list[bytes]) -> None:
        unfit: list[int] = []
        out = list(mended(lines, unfit))
        self.assertEqual(len(out) + len(unfit), len(lines))
        self.assertEqual(unfit, [n for n, line in enumerate(lines) if record(line) is None])


class CountingTests(SynchronousTestCase):
    def test_no_key_of_a_line_stands_for_two_columns(self) -> None:
        self.assertEqual(max(Counter(column.key for column in IN_LINES).values()), 1)
