"""The spool on real files: what it takes is sealed once, in order, or told of as a gap."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import Unavailable
from avinet.logs.spool.naming import CLEAN, MANIFEST, PARQUET, open_name, sealed_name
from avinet.logs.spool.settings import SpoolSettings
from avinet.wire.log import TEXT_BYTES
from avinet.wire.segment import read_manifest
from tests.logs.spooling import START_S, Spooling, T, at_once, line, lines


class SpoolCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())

    def spooling(self, **more: Any) -> Spooling:
        made = Spooling(self.folder, **more)
        self.addCleanup(made.kill)
        return made


class SealingTests(SpoolCase):
    def test_what_was_taken_is_sealed_in_its_order_with_its_numbers(self) -> None:
        at = self.spooling()
        at.spool.append(lines(range(1, 4)))
        at.spool.append(lines(range(4, 6)))
        self.successResultOf(at.seal_now())
        self.assertEqual(at.rows(), [(n, f"/{n}") for n in range(1, 6)])

    def test_the_manifest_vouches_for_the_file(self) -> None:
        at = self.spooling()
        at.spool.append([line(1), line(2, s="other")])
        self.successResultOf(at.seal_now())
        (manifest,) = at.manifests
        data = at.spool.parquet(manifest).read_bytes()
        self.assertEqual((manifest.bytes, manifest.sha256), (len(data), hashlib.sha256(data).hexdigest()))
        self.assertEqual((manifest.engine, manifest.generation), ("se-1", 3))
        self.assertEqual((manifest.from_ms, manifest.to_ms), (T + 1, T + 2))
        self.assertEqual(manifest.services, {"shop": 1, "other": 1})
        self.assertEqual(read_manifest((self.folder / sealed_name((1, 2), MANIFEST)).read_bytes()), manifest)

    def test_it_is_sealed_when_it_is_large_and_when_it_is_old(self) -> None:
        at = self.spooling(settings=SpoolSettings(segment_rows=10, segment_age_s=20))
        at.spool.append(lines(range(1, 11)))
        at.later(2)
        self.assertEqual([each.rows for each in at.manifests], [10])
        at.spool.append(lines([11]))
        at.later(19)
        self.assertEqual(len(at.manifests), 1)
        at.later(4)
        self.assertEqual([each.rows for each in at.manifests], [10, 1])

    def test_nothing_is_sealed_when_there_is_nothing(self) -> None:
        at = self.spooling()
        self.successResultOf(at.seal_now())
        at.later(1000)
        self.assertEqual(at.manifests, [])

    def test_what_is_taken_while_it_is_sealed_is_in_the_next_one(self) -> None:
        at = self.spooling()
        at.sealer.held = Deferred()
        at.spool.append(lines([1]))
        first = at.seal_now()
        at.spool.append(lines([2]))
        second = at.seal_now()
        self.assertNoResult(first)
        at.sealer.held.callback(None)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual([(each.first, each.last) for each in at.manifests], [(1, 1), (2, 2)])

    def test_a_sealer_that_fails_is_asked_again_and_told_of_once(self) -> None:
        at = self.spooling()
        at.sealer.broken = "no such luck"
        at.spool.append(lines([1]))
        sealed = at.seal_now()
        at.later(20)
        self.assertNoResult(sealed)
        at.sealer.broken = ""
        at.later(60)
        self.successResultOf(sealed)
        self.assertEqual(at.rows(), [(1, "/1")])
        self.assertGreater(len(at.sealer.orders), 3)

    def test_who_waits_in_vain_is_told_so_in_time(self) -> None:
        at = self.spooling(settings=SpoolSettings(seal_s=5))
        at.sealer.held = Deferred()
        at.spool.append(lines([1]))
        sealed = at.seal_now()
        at.later(6)
        self.failureResultOf(sealed, Unavailable)

    def test_nothing_is_taken_as_sealed_by_one_that_was_stopped(self) -> None:
        at = self.spooling()
        at.stop()
        self.failureResultOf(at.seal_now(), Unavailable)


class UnfitTests(SpoolCase):
    def test_lines_that_are_no_records_are_a_gap_and_have_no_number(self) -> None:
        at = self.spooling()
        at.spool.append([line(1), b"rubbish", b"[]", line(2), b'{"t":"soon"}', line(3)])
        self.successResultOf(at.seal_now())
        at.spool.append([line(4)])
        self.successResultOf(at.seal_now())
        self.assertEqual(at.rows(), [(1, "/1"), (2, "/2"), (3, "/3"), (4, "/4")])
        self.assertEqual([(gap.after, gap.records, gap.reason) for gap in at.gaps], [(1, 2, "parse"), (2, 1, "parse")])
        self.assertEqual(at.spool.lost["parse"], 3)

    def test_a_value_that_is_not_fit_is_absent(self) -> None:
        at = self.spooling()
        at.spool.append(
            [
                line(1, st="ok", o=7, a=12),
                line(2, o="much", more={"x": 1}),
                b'{"t":%d}' % T,
                line(3, u="é" * TEXT_BYTES),
            ]
        )
        self.successResultOf(at.seal_now())
        found = at.rows("status", "bytes_out", "user_agent", "total_ms", "strlen(path)")
        self.assertEqual(
            found, [(-1, 7, "", -1, 2), (200, 0, "", -1, 2), (-1, 0, "", -1, 0), (200, 0, "", -1, TEXT_BYTES)]
        )
        self.assertEqual(at.gaps, [])

    def test_a_long_line_is_cut_and_the_others_stay_as_they_are(self) -> None:
        at = self.spooling()
        at.spool.append([line(1), b"[" + b"1," * TEXT_BYTES + b"1]", line(2, u="x" * 3 * TEXT_BYTES), line(3, o=5)])
        self.successResultOf(at.seal_now())
        found = at.rows("seq", "strlen(path)", "bytes_out")
        self.assertEqual(found, [(1, 2, 0), (2, TEXT_BYTES, 0), (3, 2, 5)])
        self.assertEqual([(gap.after, gap.records, gap.reason) for gap in at.gaps], [(1, 1, "parse")])

    def test_a_file_without_any_record_is_told_of_with_the_next_one(self) -> None:
        at = self.spooling()
        at.spool.append([b"rubbish", b""])
        self.successResultOf(at.seal_now())
        self.assertEqual(at.manifests, [])
        at.spool.append([line(1)])
        self.successResultOf(at.seal_now())
        self.assertEqual(at.rows(), [(1, "/1")])
        self.assertEqual([(gap.after, gap.records, gap.reason) for gap in at.gaps], [(0, 2, "parse")])

    def test_a_line_with_an_end_in_it_is_one_line(self) -> None:
        at = self.spooling()
        at.spool.append([b'{"t":1,\n"u":"/a"}', line(2)])
        self.successResultOf(at.seal_now())
        self.assertEqual(at.rows(), [(1, "/a"), (2, "/2")])


class GapTests(SpoolCase):
    def test_a_gap_is_behind_what_was_taken_before_it(self) -> None:
        at = self.spooling()
        at.spool.append(lines([1, 2]))
        at.spool.gap("dropped", 5, T + 1, T + 9)
        at.spool.append(lines([3]))
        at.later()
        at.spool.gap("crash", None)
        self.successResultOf(at.seal_now())
        self.assertEqual(
            [(gap.after, gap.records, gap.reason) for gap in at.gaps], [(2, 5, "dropped"), (3, None, "crash")]
        )
        self.assertEqual((at.gaps[0].from_ms, at.gaps[0].to_ms), (T + 1, T + 9))

    def test_what_does_not_fit_into_the_buffer_is_a_gap(self) -> None:
        at = self.spooling(settings=SpoolSettings(buffer_mib=1), start=False)
        large = [line(n, a="x" * 1000) for n in range(2000)]
        at.spool.append(large)
        at.start()
        self.successResultOf(at.seal_now())
        rows = at.manifests[0].rows
        (gap,) = at.gaps
        self.assertEqual((gap.after, gap.records, gap.reason), (rows, 2000 - rows, "full"))
        self.assertEqual(at.spool.lost["full"], 2000 - rows)

    def test_gaps_without_records_wait_for_the_next_one(self) -> None:
        at = self.spooling()
        at.spool.gap("dropped", 5)
        at.later(1000)
        at.kill()
        again = self.spooling()
        again.spool.append(lines([1]))
        self.successResultOf(again.seal_now())
        self.assertEqual([(gap.after, gap.records) for gap in again.gaps if gap.reason == "dropped"], [(0, 5)])


class RestartTests(SpoolCase):
    def test_after_an_orderly_end_nothing_is_missing_and_numbers_go_on(self) -> None:
        at = self.spooling()
        at.spool.append(lines([1, 2]))
        at.stop()
        again = self.spooling()
        again.spool.append(lines([3]))
        self.successResultOf(again.seal_now())
        self.assertEqual(again.rows(), [(1, "/1"), (2, "/2"), (3, "/3")])
        self.assertEqual(again.gaps, [])

    def test_a_crash_is_told_of_between_the_last_record_and_the_start(self) -> None:
        at = self.spooling()
        at.spool.append(lines([1, 2]))
        at.later()
        at.kill()
        with (self.folder / open_name(1)).open("ab") as file:
            file.write(line(3)[:20])
        at.clock.advance(100)
        again = self.spooling(clock=at.clock)
        again.spool.append(lines([4]))
        self.successResultOf(again.seal_now())
        self.assertEqual(again.rows(), [(1, "/1"), (2, "/2"), (3, "/4")])
        (gap,) = again.gaps
        self.assertEqual((gap.after, gap.records, gap.reason), (2, None, "crash"))
        self.assertEqual((gap.from_ms, gap.to_ms), (T + 2, T + int(at.clock.seconds() * 1000)))

    def test_the_first_start_of_all_is_no_crash(self) -> None:
        at = self.spooling()
        at.spool.append(lines([1]))
        self.successResultOf(at.seal_now())
        self.assertEqual(at.gaps, [])

    def test_a_crash_with_nothing_open_is_told_of_with_the_next_record(self) -> None:
        at = self.spooling()
        at.spool.append(lines([1]))
        self.successResultOf(at.seal_now())
        at.later()
        at.kill()
        again = self.spooling(clock=at.clock)
        again.spool.append(lines([2]))
        self.successResultOf(again.seal_now())
        self.assertEqual([(gap.after, gap.reason, gap.from_ms) for gap in again.gaps], [(1, "crash", T + 1)])

    def test_a_number_is_not_used_again_when_all_segments_are_gone(self) -> None:
        at = self.spooling(settings=SpoolSettings(cap_age_s=60))
        at.spool.append(lines([1, 2]))
        self.successResultOf(at.seal_now())
        at.spool.acknowledge(2)
        at.later(70)
        self.assertEqual(at.manifests, [])
        at.stop()
        again = self.spooling()
        again.spool.append(lines([3]))
        self.successResultOf(again.seal_now())
        self.assertEqual(again.rows(), [(3, "/3")])

    def test_a_crash_between_manifest_and_new_names_is_made_good(self) -> None:
        at = self.spooling()
        at.spool.append([line(1), b"rubbish", line(2)])
        with mock.patch("avinet.logs.spool.folder.rename_open", side_effect=OSError(errno.EIO, "no")):
            sealed = at.seal_now()
            at.spool.append(lines([3]))
            at.later(0.5)
            self.assertTrue((self.folder / sealed_name((1, 2), MANIFEST)).exists())
            self.assertTrue((self.folder / open_name(4)).exists())
            at.later()
            at.kill()
        sealed.addErrback(lambda _: None)
        again = self.spooling(clock=at.clock)
        again.spool.append(lines([4]))
        self.successResultOf(again.seal_now())
        self.assertEqual(again.rows(), [(1, "/1"), (2, "/2"), (3, "/3"), (4, "/4")])

    def test_a_segment_whose_file_is_gone_is_told_of(self) -> None:
        at = self.spooling()
        at.spool.append(lines([1, 2]))
        self.successResultOf(at.seal_now())
        at.stop()
        (self.folder / sealed_name((1, 2), PARQUET)).unlink()
        again = self.spooling()
        again.spool.append(lines([3]))
        self.successResultOf(again.seal_now())
        self.assertEqual(again.rows(), [(3, "/3")])
        self.assertEqual([(gap.after, gap.records, gap.reason) for gap in again.gaps], [(0, 2, "cap")])

    def test_the_mark_of_an_orderly_end_is_for_one_start(self) -> None:
        self.spooling().stop()
        self.assertTrue((self.folder / CLEAN).exists())
        self.spooling()
        self.assertFalse((self.folder / CLEAN).exists())


class RoomTests(SpoolCase):
    def fill(self, at: Spooling, numbers: range) -> None:
        """Segments of one record each that are hard to compress: 400 kB each."""
        for number in numbers:
            at.spool.append(
                [
                    line(number, **{key: os.urandom(1000).hex() for key in ("f", "a", "u", "q", "h", "n")})
                    for _ in range(64)
                ]
            )
            self.successResultOf(at.seal_now())

    def test_what_was_not_pulled_is_a_gap_when_it_has_to_go(self) -> None:
        at = self.spooling(settings=SpoolSettings(cap_mib=1))
        self.fill(at, range(8))
        at.later(2)
        left = at.manifests
        self.assertGreater(left[0].first, 1)
        self.assertLessEqual(at.spool.size, 1 << 20)
        at.spool.append(lines([9]))
        self.successResultOf(at.seal_now())
        (gap,) = at.gaps
        self.assertEqual((gap.after, gap.records, gap.reason), (0, left[0].first - 1, "cap"))
        self.assertEqual(at.spool.lost["cap"], left[0].first - 1)

    def test_what_was_pulled_goes_without_a_gap(self) -> None:
        at = self.spooling(settings=SpoolSettings(cap_mib=1))
        self.fill(at, range(2))
        at.spool.acknowledge(at.manifests[-1].last)
        self.fill(at, range(2))
        at.later(2)
        self.fill(at, range(1))
        self.assertEqual(at.gaps, [])
        self.assertEqual(at.spool.lost["cap"], 0)

    def test_nobody_can_acknowledge_what_there_is_not(self) -> None:
        at = self.spooling()
        at.spool.append(lines([1]))
        self.successResultOf(at.seal_now())
        at.spool.acknowledge(2**60)
        at.later(2)
        at.stop()
        again = self.spooling()
        again.spool.append(lines([2]))
        self.successResultOf(again.seal_now())
        self.assertEqual(again.rows(), [(1, "/1"), (2, "/2")])

    def test_what_cannot_be_sealed_goes_when_there_is_no_room_left(self) -> None:
        at = self.spooling(settings=SpoolSettings(cap_mib=1, segment_rows=100))
        at.sealer.broken = "no such luck"
        for number in range(6):
            at.spool.append([line(number, a="x" * 3000)] * 100)
            at.later(1.25)
        self.assertLessEqual(at.spool.size, 1 << 20)
        at.sealer.broken = ""
        at.later(100)
        at.spool.append(lines([7]))
        self.successResultOf(at.seal_now())
        lost = sum(gap.records or 0 for gap in at.gaps if gap.reason == "cap")
        self.assertEqual(lost, at.spool.lost["cap"])
        self.assertEqual(lost + sum(each.rows for each in at.manifests), 601)
        self.assertEqual(at.manifests[0].first, lost + 1)

    def test_it_does_not_grow_beyond_its_room_while_the_oldest_is_being_sealed(self) -> None:
        at = self.spooling(settings=SpoolSettings(cap_mib=1, segment_rows=100, buffer_mib=1))
        at.sealer.held = Deferred()
        for number in range(16):
            at.spool.append([line(number, a="x" * 3000)] * 100)
            at.later(1.25)
        self.assertLessEqual(at.spool.size, 2 << 20)
        self.assertGreater(at.spool.lost["full"], 0)
        at.sealer.held.callback(None)
        at.later(10)
        self.assertLessEqual(at.spool.size, 1 << 20)
        at.spool.append(lines([99]))
        self.successResultOf(at.seal_now())
        lost = sum(gap.records or 0 for gap in at.gaps)
        self.assertEqual(lost, at.spool.lost["full"] + at.spool.lost["cap"])
        self.assertEqual(lost + sum(each.rows for each in at.manifests), 1601)

    def test_what_cannot_be_removed_is_counted_once_and_when_it_is_gone(self) -> None:
        at = self.spooling(settings=SpoolSettings(cap_age_s=60))
        for number in (1, 2):
            at.spool.append(lines([number]))
            self.successResultOf(at.seal_now())
        with mock.patch("avinet.logs.spool.folder.SpoolFolder._remove_segment", side_effect=OSError(errno.EIO, "no")):
            at.later(70)
        self.assertEqual((len(at.manifests), at.spool.lost["cap"]), (2, 0))
        at.later(2)
        self.assertEqual((at.manifests, at.spool.lost["cap"]), ([], 2))

    def test_nothing_is_sealed_that_is_just_being_removed(self) -> None:
        at = self.spooling(settings=SpoolSettings(cap_mib=1, segment_rows=100))
        at.sealer.broken = "no such luck"
        at.spool.append([line(1, a="x" * 3000)] * 300)
        at.later(1.25)
        held: list[Callable[[], None]] = []

        def later(work: Callable[[], Any]) -> Any:
            if "_drop" not in work.__qualname__:
                return at_once(work)
            done: Deferred[Any] = Deferred()
            held.append(lambda: done.callback(work()))
            return done

        self.patch(at.spool._disk, "_in_thread", later)
        at.spool.append([line(2, a="x" * 3000)] * 100)
        at.later(1)
        self.assertEqual(len(held), 1)
        orders = len(at.sealer.orders)
        at.later(100)
        self.assertEqual(len(at.sealer.orders), orders)
        at.sealer.broken = ""
        held.pop()()
        at.later(100)
        at.spool.append(lines([3]))
        self.successResultOf(at.seal_now())
        lost = sum(gap.records or 0 for gap in at.gaps if gap.reason == "cap")
        self.assertEqual((lost, lost + sum(each.rows for each in at.manifests)), (300, 401))

    def test_whatever_the_clock_of_the_data_plane_says_a_segment_stays_as_long(self) -> None:
        """Before 1970 was over, or in the year 3000."""
        at = self.spooling(settings=SpoolSettings(cap_age_s=60))
        for number, time in ((1, 5), (2, 32_503_680_000_000)):
            at.spool.append([line(number, t=time)])
            self.successResultOf(at.seal_now())
        at.later(50)
        self.assertEqual(len(at.manifests), 2)
        at.later(15)
        self.assertEqual((at.manifests, at.spool.lost["cap"]), ([], 2))

    def test_a_clock_that_is_set_makes_nothing_old_and_nothing_new(self) -> None:
        """Here or there, also when the process is started again."""
        for set_s in (10 * 365 * 86400.0, -START_S):
            at = self.spooling(settings=SpoolSettings(cap_age_s=60))
            at.spool.append(lines([1]))
            self.successResultOf(at.seal_now())
            at.later(30)
            at.set_s += set_s
            at.later(20)
            self.assertEqual(len(at.manifests), 1)
            at.kill()
            at = self.spooling(settings=SpoolSettings(cap_age_s=60), clock=at.clock, set_s=at.set_s)
            at.later(5)
            self.assertEqual(len(at.manifests), 1)
            at.later(10)
            self.assertEqual(at.manifests, [])
            at.kill()

    def test_a_crash_after_a_removal_was_told_does_not_tell_it_twice(self) -> None:
        at = self.spooling(settings=SpoolSettings(cap_age_s=60))
        at.spool.append(lines([1, 2]))
        self.successResultOf(at.seal_now())
        with mock.patch("avinet.logs.spool.folder.SpoolFolder._remove_segment", side_effect=OSError(errno.EIO, "no")):
            at.later(70)
            at.kill()
        again = self.spooling(clock=at.clock)
        self.assertEqual(again.manifests, [])
        again.spool.append(lines([3]))
        self.successResultOf(again.seal_now())
        caps = [(gap.after, gap.records) for gap in again.gaps if gap.reason == "cap"]
        self.assertEqual(caps, [(0, 2)])


class FullDiskTests(SpoolCase):
    """Calls of the operating system fail for a while, as on a full disk or a broken one."""

    def outage(self, at: Spooling, *calls: str) -> None:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch.multiple("os", **{call: mock.Mock(side_effect=full) for call in calls}):
            at.spool.append([line(n, a="x" * 8000) for n in range(10, 300)])
            at.later(5)

    def recovers(self, *calls: str) -> None:
        at = self.spooling(settings=SpoolSettings(buffer_mib=1))
        at.spool.append(lines([1, 2]))
        at.later()
        self.outage(at, *calls)
        at.later(3)
        at.spool.append(lines([3]))
        at.later(90)
        self.successResultOf(at.seal_now())
        rows = sum(each.rows for each in at.manifests)
        lost = sum(gap.records or 0 for gap in at.gaps)
        self.assertEqual(rows + lost, 2 + 290 + 1)
        self.assertEqual({gap.reason for gap in at.gaps}, {"full"})
        self.assertEqual([seq for seq, _ in at.rows()], list(range(1, rows + 1)))
        self.assertEqual(at.rows()[-1][1], "/3")

    def test_a_write_that_fails(self) -> None:
        self.recovers("pwrite")

    def test_a_sync_that_fails(self) -> None:
        self.recovers("fdatasync")

    def test_nothing_that_can_be_done(self) -> None:
        self.recovers("pwrite", "fdatasync", "ftruncate", "fsync", "rename", "open", "unlink")

    def test_what_nodes_have_makes_room_and_is_no_gap(self) -> None:
        at = self.spooling(settings=SpoolSettings(buffer_mib=1))
        for number in (1, 2):
            at.spool.append(lines([number]))
            self.successResultOf(at.seal_now())
        at.spool.acknowledge(1)
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch("avinet.logs.spool.openfile.OpenFile.append", side_effect=full):
            at.spool.append(lines([3]))
            at.later(5)
        self.assertEqual([each.first for each in at.manifests], [2])
        at.later(3)
        self.successResultOf(at.seal_now())
        self.assertEqual(at.gaps, [])
        self.assertEqual(at.rows(), [(2, "/2"), (3, "/3")])

    def test_it_fails_from_the_start(self) -> None:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch("avinet.logs.spool.openfile.os.open", side_effect=full):
            at = self.spooling()
            at.spool.append(lines([1]))
            at.later(3)
        at.later(3)
        self.successResultOf(at.seal_now())
        self.assertEqual(at.rows(), [(1, "/1")])

    def test_sealing_that_fails_at_any_step_is_done_later(self) -> None:
        for call in ("fsync", "rename", "open", "unlink"):
            with self.subTest(call):
                self.folder = Path(self.mktemp())
                at = self.spooling(settings=SpoolSettings(segment_rows=2))
                at.spool.append(lines([1, 2]))
                real = getattr(os, call)
                for number in range(1, 8):
                    calls = 0

                    def fails(*args: Any, real: Any = real, number: int = number, **more: Any) -> Any:
                        nonlocal calls
                        calls += 1
                        if calls == number:
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                        return real(*args, **more)

                    with mock.patch.object(os, call, fails):
                        at.later(4)
                    at.later(80)
                    at.spool.append(lines([1, 2]))
                at.later(80)
                self.successResultOf(at.seal_now())
                self.assertEqual([seq for seq, _ in at.rows()], list(range(1, 17)))
                self.assertEqual(at.gaps, [])
