"""The archive: what a query needs is found, and what is changed, damaged or removed is seen."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Conflict, Invalid, LocalError, TooLarge
from avinet.logs.archive import archive, hours, removals
from avinet.logs.archive.archive import KEPT_BYTES, Archive, Chosen
from avinet.logs.archive.missing import told
from avinet.wire.query import Gaps, LogQuery, Totals
from avinet.wire.query import Measure as Counted
from avinet.wire.segment import Gap, manifest_bytes, read_manifest
from tests.logs.naive import Record, record, write_segment
from tests.logs.segments import HOUR_MS, manifest_of, put

LATER_NS = 10**12
COUNT = Totals(measures=[Counted(of="requests")])


def some(first: int, *times: int, engine: str = "se-1", service: str = "web") -> list[Record]:
    """Records from number `first` on, one at each of `times`."""
    return [record(seq=first + n, time=time, engine=engine, service=service) for n, time in enumerate(times)]


def names(chosen: Chosen) -> list[str]:
    """The files of what was chosen."""
    return sorted(str(each.path) for each in chosen.segments)


class ArchiveCase(SynchronousTestCase):
    kept_bytes = KEPT_BYTES

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute() / "archive"
        self.folder.mkdir(parents=True)
        self.ahead_ns = LATER_NS
        self.archive = self.another()

    def another(self) -> Archive:
        """An archive over the same folder, to which all that is there is old."""
        return Archive(self.folder, self.now_ns, kept_bytes=self.kept_bytes)

    def now_ns(self) -> int:
        return max(each.stat().st_mtime_ns for each in self.everything()) + self.ahead_ns

    def everything(self) -> list[Path]:
        return [self.folder, *self.folder.rglob("*")]

    def asked(self, since_ms: int = 0, until_ms: int = 400 * HOUR_MS, **fields: Any) -> LogQuery:
        return LogQuery(since_ms=since_ms, until_ms=until_ms, **{"get": COUNT, **fields})

    def files(self, **fields: Any) -> list[str]:
        return names(self.archive.choose(self.asked(**fields)))


class ArchiveTests(ArchiveCase):
    def test_a_segment_lies_by_engine_day_and_hour_of_its_first_record(self) -> None:
        path = put(self.archive, some(7, 30 * HOUR_MS + 5, 31 * HOUR_MS))
        name = "se-1/1970-01-02/06/1-00000000000000000007-00000000000000000008"
        self.assertEqual(path, self.folder / f"{name}.parquet")
        self.assertEqual(read_manifest((self.folder / f"{name}.json").read_bytes()).rows, 2)
        self.assertEqual(path.parent.stat().st_mode & 0o777, 0o700)

    def test_files_are_chosen_by_time(self) -> None:
        one, two = put(self.archive, some(1, 1000, 2000)), put(self.archive, some(3, 2001, 9 * HOUR_MS))
        self.assertEqual(self.files(), [str(one), str(two)])
        self.assertEqual(self.files(since_ms=2001), [str(two)])
        self.assertEqual(self.files(since_ms=2000), [str(one), str(two)])
        self.assertEqual(self.files(until_ms=2001), [str(one)])
        self.assertEqual(self.files(until_ms=1000), [])
        self.assertEqual(self.files(since_ms=9 * HOUR_MS), [str(two)])
        self.assertEqual(self.files(since_ms=9 * HOUR_MS + 1), [])

    def test_files_are_chosen_by_engine_and_service(self) -> None:
        web = put(self.archive, some(1, 1000))
        shop = put(self.archive, some(2, 1000, service="shop"))
        other = put(self.archive, some(1, 1000, engine="se-2"))
        self.assertEqual(self.files(engines=["se-2"]), [str(other)])
        self.assertEqual(self.files(services=["shop"]), [str(shop)])
        self.assertEqual(self.files(engines=["se-1"], services=["web", "nix"]), [str(web)])
        self.assertEqual(self.files(services=["nix"]), [])

    def test_services_that_a_manifest_does_not_list_may_be_in_its_segment(self) -> None:
        path = put(self.archive, some(1, 1000, service=""))
        self.assertEqual(self.files(services=["shop"]), [str(path)])

    def test_engines_without_anything_in_the_range_are_told(self) -> None:
        put(self.archive, some(1, 1000))
        put(self.archive, some(1, 5000, engine="se-2"))
        self.assertEqual(self.archive.choose(self.asked(until_ms=2000)).nothing_of, ["se-2"])
        chosen = self.archive.choose(self.asked(engines=["se-9", "se-1"], services=["nix"]))
        self.assertEqual((chosen.nothing_of, names(chosen)), (["se-9"], []))

    def test_gaps_in_the_range_are_told_wherever_they_are_written(self) -> None:
        early = Gap(after=0, records=None, reason="crash", from_ms=100, to_ms=1000)
        late = Gap(after=2, records=5, reason="full", from_ms=9000, to_ms=9500)
        put(self.archive, some(1, 50_000), [early, late])
        self.assertEqual(self.archive.choose(self.asked(until_ms=5000, get=Gaps())).gaps, [told("se-1", 1, early)])
        self.assertEqual(self.archive.choose(self.asked(since_ms=1001)).gaps, [told("se-1", 1, late)])
        self.assertEqual(len(self.archive.choose(self.asked()).gaps), 2)
        self.assertEqual(self.archive.choose(self.asked(engines=["se-2"])).gaps, [])

    def test_numbers_that_no_segment_has_are_told_for_the_time_between_their_neighbours(self) -> None:
        for first, hour in ((1, 1), (3, 1), (9, 5), (11, 7)):
            put(self.archive, some(first, hour * HOUR_MS + first, hour * HOUR_MS + first + 1))
        for since, until, told_of in ((0, 1, 0), (3, 4, 4), (1, 2, 4), (5, 6, 4), (6, 7, 0), (8, 9, 0), (0, 99, 4)):
            found = self.archive.choose(self.asked(since_ms=since * HOUR_MS, until_ms=until * HOUR_MS)).gaps
            self.assertEqual(sum(each.records or 0 for each in found), told_of, (since, until))

    def test_what_comes_and_goes_is_seen(self) -> None:
        one = put(self.archive, some(1, 1000))
        self.assertEqual(self.files(), [str(one)])
        two = put(self.archive, some(2, 1500))
        self.assertEqual(self.files(), [str(one), str(two)])
        one.with_suffix(".json").unlink()
        self.assertEqual(self.files(), [str(two)])

    def test_a_folder_that_has_just_changed_is_read_again(self) -> None:
        self.ahead_ns = 0
        one = put(self.archive, some(1, 1000))
        self.files()
        before = one.parent.stat()
        two = put(self.archive, some(2, 1500))
        os.utime(one.parent, ns=(before.st_atime_ns, before.st_mtime_ns))  # both within one tick of its clock
        self.assertEqual(self.files(), [str(one), str(two)])

    def test_what_cannot_be_read_is_counted_where_it_lies(self) -> None:
        cut, none, odd = (put(self.archive, some(number, 1000)) for number in (1, 2, 3))
        cut.write_bytes(cut.read_bytes()[:-1])
        none.unlink()
        odd.with_suffix(".json").write_bytes(b"{}")
        good = put(self.archive, some(4, 1000))
        chosen = self.archive.choose(self.asked())
        self.assertEqual((names(chosen), chosen.damaged), ([str(good)], 3))
        self.assertEqual(self.archive.choose(self.asked(since_ms=5 * HOUR_MS)).damaged, 0)

    def test_a_manifest_in_the_wrong_place_is_no_segment(self) -> None:
        path = put(self.archive, some(1, 1000))
        for name in ("se-2/1970-01-01/00/1-1-1", "se-1/1970-01-01/00/1-1-2", "se-1/1970-01-01/00/2-1-1"):
            to = self.folder / name
            to.parent.mkdir(parents=True, exist_ok=True)
            for kind in (".json", ".parquet"):
                to.with_suffix(kind).write_bytes(path.with_suffix(kind).read_bytes())
        chosen = self.archive.choose(self.asked())
        self.assertEqual((names(chosen), chosen.damaged), ([str(path)], 3))

    def test_links_lead_nowhere(self) -> None:
        path = put(self.archive, some(1, 1000))
        outside = self.folder.parent / "outside"
        self.folder.rename(outside)
        (self.folder / "se-1" / "1970-01-01" / "00").mkdir(parents=True)
        for kind in (".json", ".parquet"):
            to = self.folder / path.relative_to(self.folder).with_suffix(kind)
            to.symlink_to(outside / path.relative_to(self.folder).with_suffix(kind))
        (self.folder / "se-2").symlink_to(outside / "se-1")
        (self.folder / "se-1" / "1970-01-02").symlink_to(outside / "se-1" / "1970-01-01")
        chosen = self.archive.choose(self.asked())
        self.assertEqual((names(chosen), chosen.damaged), ([], 1))

    def test_other_names_are_not_looked_at(self) -> None:
        path = put(self.archive, some(1, 1000))
        for name in ("notes.json", ".1-1-1.json.77.new", "1-1-1.json~", "1-1.json", "../x.json", "../../1-2-2.json"):
            (path.parent / name).write_bytes(b"{}")
        self.assertEqual(self.archive.choose(self.asked()).damaged, 0)
        self.assertRaises(Invalid, self.archive.choose, self.asked(engines=["../se-1"]))

    def test_the_same_segment_once_more_changes_nothing(self) -> None:
        path = put(self.archive, some(1, 1000))
        self.assertEqual(put(self.archive, some(1, 1000)), path)
        self.assertEqual(self.files(), [str(path)])
        self.assertFalse((self.folder.parent / "aside.parquet").exists())

    def test_another_segment_of_the_same_numbers_is_refused(self) -> None:
        path = put(self.archive, some(1, 1000))
        before = path.read_bytes()
        self.assertRaises(Conflict, put, self.archive, some(1, 2000))
        self.assertEqual(path.read_bytes(), before)

    def test_a_service_engine_that_was_imaged_anew_counts_from_one_again(self) -> None:
        paths = [put(self.archive, some(1, 1000), generation=generation) for generation in (1, 2)]
        self.assertEqual(self.files(), sorted(map(str, paths)))

    def test_what_is_there_is_known_by_its_manifest(self) -> None:
        path = put(self.archive, some(1, 1000))
        there = read_manifest(path.with_suffix(".json").read_bytes())
        self.assertTrue(self.archive.has(there))
        self.assertFalse(self.archive.has(msgspec.structs.replace(there, generation=2)))
        self.assertRaises(Conflict, self.archive.has, msgspec.structs.replace(there, sha256="0" * 64))
        path.write_bytes(b"half")
        self.assertFalse(self.archive.has(there))
        put(self.archive, some(1, 1000))
        self.assertTrue(self.archive.has(there), "a whole one takes the place of one that was damaged")
        path.with_suffix(".json").write_bytes(b"{}")
        self.assertFalse(self.archive.has(there))
        put(self.archive, some(1, 1000))
        self.assertTrue(self.archive.has(there))
        self.assertRaises(Invalid, self.archive.has, msgspec.structs.replace(there, from_ms=2**53 - 1, to_ms=2**53 - 1))

    def test_a_segment_that_is_not_whole_is_refused(self) -> None:
        aside = Path(write_segment(self.folder.parent / "aside.parquet", found := some(1, 1000)))
        said = manifest_bytes(manifest_of(aside, found))
        aside.write_bytes(aside.read_bytes()[:-1])
        self.assertRaises(Invalid, self.archive.add, aside, said)
        self.assertRaises(Invalid, self.archive.add, aside, b"{}")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_what_a_crash_left_without_its_manifest_is_replaced(self) -> None:
        path = put(self.archive, some(1, 1000))
        whole = path.read_bytes()
        path.with_suffix(".json").unlink()
        path.write_bytes(b"half")
        put(self.archive, some(1, 1000))
        self.assertEqual((self.files(), path.read_bytes()), ([str(path)], whole))

    def test_a_folder_that_is_a_pattern_is_refused(self) -> None:
        self.assertRaises(LocalError, Archive, Path("/var/lib/[a]"))

    def test_retention_removes_by_age_then_the_oldest_by_bytes(self) -> None:
        paths = [self.came(put(self.archive, some(n, n * HOUR_MS)), n * HOUR_MS) for n in range(1, 6)]
        takes = [path.stat().st_size + path.with_suffix(".json").stat().st_size for path in paths]
        gone = self.archive.retain(sum(takes), 2 * HOUR_MS)
        self.assertEqual([each.path for each in gone], paths[:1])
        self.assertEqual(self.archive.retain(sum(takes[1:]), 0), [])
        gone = self.archive.retain(sum(takes[3:]), 0)
        self.assertEqual([each.path for each in gone], paths[1:3])
        self.assertEqual(self.files(), [str(each) for each in paths[3:]])
        self.assertEqual(sorted(each.name for each in (self.folder / "se-1" / "1970-01-01").iterdir()), ["04", "05"])
        self.archive.retain(0, 0)
        self.assertEqual([each.name for each in self.everything()], ["archive", "se-1", removals.NAME])

    def test_who_has_most_pushes_out_its_own(self) -> None:
        """Not the records of others, though these are older."""
        others = [self.came(put(self.archive, some(1, HOUR_MS, engine=f"se-{number}")), HOUR_MS) for number in (2, 3)]
        flood = [put(self.archive, some(n, (10 + n) * HOUR_MS)) for n in range(1, 9)]
        takes = [path.stat().st_size + path.with_suffix(".json").stat().st_size for path in [*others, *flood]]
        gone = self.archive.retain(sum(takes[:2]) + sum(takes[-3:]), 0)
        self.assertEqual([each.path for each in gone], flood[:5])
        gone = self.archive.retain(sum(takes[:2]) + takes[-1], 0)
        self.assertEqual([each.path for each in gone], flood[5:7])
        self.assertEqual(self.archive.retain(sum(takes[:2]) + takes[-1], 0), [])
        self.assertEqual([each.path for each in self.archive.retain(2**40, 2 * HOUR_MS)], others)

    def test_whatever_the_clock_of_a_service_engine_says_a_segment_grows_old_from_when_it_came(self) -> None:
        """In 1970, in the year 3000, and in between."""
        paths = [
            self.came(put(self.archive, some(1, time, engine=engine)), 2 * HOUR_MS)
            for engine, time in (("se-1", 5), ("se-2", 40_000_000 * HOUR_MS), ("se-3", 2 * HOUR_MS - 1))
        ]
        self.assertEqual(self.archive.retain(2**40, 2 * HOUR_MS), [])
        self.assertEqual([each.path for each in self.archive.retain(2**40, 2 * HOUR_MS + 1)], paths)

    def test_where_there_is_no_room_the_first_numbers_go_whatever_the_time_in_them(self) -> None:
        """A clock may have been set, and what was pulled first may be the latest."""
        paths = [put(self.archive, some(n, time * HOUR_MS)) for n, time in ((3, 1), (2, 900), (1, 5))]
        takes = [path.stat().st_size + path.with_suffix(".json").stat().st_size for path in paths]
        self.assertEqual([each.path for each in self.archive.retain(takes[0], 0)], [paths[2], paths[1]])

    def came(self, path: Path, at_ms: int) -> Path:
        """`path`, a segment that came then."""
        os.utime(path.with_suffix(".json"), ns=(0, at_ms * 1_000_000))
        return path

    def test_retention_leaves_what_gets_its_manifest_just_now(self) -> None:
        """All of it may have come long ago, before the node was started again."""
        self.ahead_ns = 10**9
        path = put(self.archive, some(1, 1000))
        self.archive.retain(2**40, 0)
        whole, found = self.folder / "whole.part", some(2, 2000)
        write_segment(whole, found)
        os.utime(whole, ns=(0, 0))
        write = archive.write_atomic

        def meanwhile(*given: Any) -> None:
            self.archive.retain(2**40, 0)
            write(*given)

        self.patch(archive, "write_atomic", meanwhile)
        self.assertTrue(self.archive.add(whole, manifest_bytes(manifest_of(whole, found))).exists())
        self.assertTrue(path.exists())

    def test_whoever_only_looks_after_it_keeps_little_in_memory(self) -> None:
        """However long the manifests of a service engine are."""
        paths = [put(self.archive, some(n, n * HOUR_MS)) for n in range(1, 21)]
        for path in paths:
            data = path.with_suffix(".json")
            found = read_manifest(data.read_bytes())
            many = {f"{found.first}-{number}": 0 for number in range(1000)}
            data.write_bytes(manifest_bytes(msgspec.structs.replace(found, services=found.services | many)))
        lean = Archive(self.folder, details=False)
        tracemalloc.start()
        try:
            self.assertEqual(lean.retain(2**40, 0), [])
            self.assertLess(tracemalloc.get_traced_memory()[0], 20 * 10_000)
        finally:
            tracemalloc.stop()
        self.assertEqual([each.path for each in lean.retain(0, 0)], paths)

    def test_what_was_removed_is_told_apart_from_what_was_never_here(self) -> None:
        for first in (1, 2, 5):
            self.came(put(self.archive, some(first, first * HOUR_MS)), first * HOUR_MS)
        self.archive.retain(2**40, 3 * HOUR_MS)
        found = [(each.after, each.records, each.reason) for each in self.another().choose(self.asked()).gaps]
        self.assertEqual(found, [(0, 2, "removed"), (2, 2, "not-here")])
        self.assertEqual(self.archive.choose(self.asked(since_ms=6 * HOUR_MS)).gaps, [])
        self.archive.retain(0, 0)
        found = [(each.after, each.records, each.reason) for each in self.archive.choose(self.asked()).gaps]
        self.assertIn((4, 1, "removed"), found, "also when nothing behind it is here")
        put(self.archive, some(2, 2 * HOUR_MS))
        found = [(each.after, each.reason) for each in self.archive.choose(self.asked()).gaps]
        self.assertNotIn((1, "removed"), found)

    def test_on_a_full_disk_they_go_before_it_is_written_that_they_were_here(self) -> None:
        path = put(self.archive, some(1, 1000))
        write = removals.write_atomic

        def full(to: Path, data: bytes) -> None:
            if path.exists():
                raise LocalError("No space left on device")
            write(to, data)

        self.patch(removals, "write_atomic", full)
        self.archive.retain(0, 0)
        self.assertEqual([each.first for each in self.archive.removals.of("se-1")], [1])

    def test_it_is_written_that_they_were_here_before_they_go(self) -> None:
        path = put(self.archive, some(1, 1000))

        def kill(*_: Any) -> None:
            raise LocalError("killed")

        self.patch(self.archive, "_remove", kill)
        self.assertRaises(LocalError, self.archive.retain, 0, 0)
        self.assertTrue(path.exists())
        self.assertEqual([each.first for each in self.archive.removals.of("se-1")], [1])

    def test_retention_takes_the_manifest_first(self) -> None:
        path = put(self.archive, some(1, 1000))
        removed: list[str] = []
        unlink = Path.unlink

        def noted(self: Path, missing_ok: bool = False) -> None:
            removed.append(self.suffix)
            unlink(self, missing_ok)

        self.patch(Path, "unlink", noted)
        self.archive.retain(0, 0)
        self.assertEqual(removed, [".json", ".parquet"])
        self.assertFalse(path.exists())

    def test_retention_takes_what_a_crash_left_and_nothing_that_is_just_coming(self) -> None:
        path = put(self.archive, some(1, 1000))
        stray, other = path.with_name("1-5-6.parquet"), path.with_name("notes.parquet")
        stray.write_bytes(b"half")
        other.write_bytes(b"x")
        self.ahead_ns = 10**9
        self.archive.retain(10**9, 0)
        self.assertTrue(stray.exists())
        self.ahead_ns = 3601 * 10**9
        self.archive.retain(10**9, 0)
        self.assertEqual([stray.exists(), other.exists(), path.exists()], [False, True, True])


class ForgetfulTests(ArchiveTests):
    """All of it holds where there is no room to remember anything."""

    kept_bytes = 0


class HalfForgetfulTests(ArchiveTests):
    """Or room for what two hours come to, or for one with its segments."""

    kept_bytes = 7000


class RememberedTests(ArchiveCase):
    def remembers(self, kept_bytes: int) -> None:
        """From now on, in so much memory; what is read is noted."""
        self.kept_bytes = kept_bytes
        self.archive = self.another()
        self.reads: list[Path] = []
        read = hours.read_limited

        def noted(path: Path, limit_bytes: int) -> bytes:
            self.reads.append(path)
            return read(path, limit_bytes)

        self.patch(hours, "read_limited", noted)

    def test_a_manifest_is_read_once(self) -> None:
        path = put(self.archive, some(1, 1000))
        self.assertEqual(self.files(), [str(path)])
        manifest = path.with_suffix(".json")
        manifest.write_bytes(b"x" * manifest.stat().st_size)  # in place, as nobody does
        self.assertEqual(self.files(), [str(path)])
        self.archive = self.another()
        self.assertEqual(self.files(), [])

    def laid(self, many: int, services: int = 5) -> list[Path]:
        """So many hours of a segment each, whose manifests have gaps and so many services; some numbers are missing."""
        paths = []
        for n in range(1, many + 1):
            gaps = [
                Gap(after=3 * n - 1, records=n, reason="full", from_ms=n * HOUR_MS, to_ms=(n + n % 3) * HOUR_MS),
                Gap(after=3 * n - 2, records=1, reason="cap", from_ms=n * HOUR_MS, to_ms=n * HOUR_MS),
            ]
            path = put(self.archive, some(3 * n, n * HOUR_MS, n * HOUR_MS + 5), gaps[: 1 + n % 2])
            found = read_manifest(path.with_suffix(".json").read_bytes())
            more = {f"{n}-{number}": 0 for number in range(services - 1)}
            path.with_suffix(".json").write_bytes(
                manifest_bytes(msgspec.structs.replace(found, services=found.services | more))
            )
            paths.append(path)
        return paths

    def hour(self, first: int, many: int = 1) -> Chosen:
        """What is chosen for these hours."""
        return self.archive.choose(self.asked(since_ms=first * HOUR_MS, until_ms=(first + many) * HOUR_MS))

    def test_an_archive_that_has_no_room_in_memory_is_answered_all_the_same(self) -> None:
        self.laid(20)
        ranges = [(first, many) for many in (1, 4, 20) for first in range(21)]
        wanted = [self.hour(*each) for each in ranges]
        for kept_bytes in (0, 5000, 20_000, 40_000, 50_000):
            self.remembers(kept_bytes)
            self.assertEqual([self.hour(*each) for each in ranges], wanted, kept_bytes)
            self.assertLessEqual(self.archive._hours.bytes, kept_bytes)

    def test_memory_is_bounded_whatever_is_in_manifests(self) -> None:
        self.laid(30, services=1000)
        self.remembers(1_000_000)
        tracemalloc.start()
        try:
            self.hour(0, 40)
            self.assertLess(tracemalloc.get_traced_memory()[0], 1_000_000)
            whole = 1000 * hours._ENTRY_BYTES
            self.assertGreater(self.archive._hours.bytes, 3 * whole, "it is made use of")
        finally:
            tracemalloc.stop()

    def test_what_was_needed_last_is_not_read_again(self) -> None:
        self.laid(20)
        self.remembers(20 * 4000)
        for _ in range(2):
            self.hour(0, 40)
        self.assertGreater(len(self.reads), 20)
        for first in (3, 9):
            self.hour(first)
        self.reads.clear()
        for first in (3, 9, 3):
            self.hour(first)
        self.assertEqual(self.reads, [])

    def test_a_query_about_too_much_is_refused(self) -> None:
        self.patch(archive, "MOST", 20)
        self.laid(20)
        refused = self.assertRaises(TooLarge, self.hour, 0, 40)
        self.assertIn("ask for a shorter time", str(refused))
        self.assertEqual(len(self.hour(1, 3).segments), 3)
