"""Pulling: every segment once, whole, as its manifest says, from the byte at which it was lost; nothing else is kept."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, pause
from avinet.errors import Conflict, LocalError, PeerError, TimedOut, Unavailable
from avinet.logs.archive.removals import noted
from avinet.logs.pull import incoming
from avinet.logs.pull.puller import Puller
from avinet.logs.pull.source import OutOfBudget
from avinet.logs.pull.turns import TURN_S, Turns
from avinet.rest.pieces import Pieces
from avinet.wire.pull import SegmentPage
from avinet.wire.segment import Manifest
from tests.logs.pulls import Engine, Here, Told


class PullCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.clock, tasks = Clock(), Tasks()
        self.addCleanup(tasks.stop)
        self.engine = Engine(self.folder / "spool", self.clock, tasks)
        self.addCleanup(self.engine.spooling.kill)
        self.here = Here(self.folder / "archive")
        self.told = Told()

    def pull(self, *, again: bool = False) -> Told:
        self.told = Told()
        self.successResultOf(self.here.pull(self.engine, self.told, again=again))
        return self.told

    def fails(self, kind: type[Exception], told: Told | None = None) -> str:
        self.told = told or Told()
        return str(self.failureResultOf(self.here.pull(self.engine, self.told), kind).value)


class PullTests(PullCase):
    def test_every_segment_is_in_the_archive_as_it_was_sealed(self) -> None:
        there = self.engine.sealed(5, 70, 3)
        told = self.pull()
        self.assertEqual((told.segments, told.stored, told.had, told.no), (3, 3, 0, []))
        self.assertEqual(told.bytes, sum(each.bytes for each in there))
        kept = {
            hashlib.sha256(each.read_bytes()).hexdigest() for each in self.folder.glob("archive/se-1/*/*/*.parquet")
        }
        self.assertEqual(kept, {each.sha256 for each in there})
        self.assertEqual(self.here.parts(), [])

    def test_what_is_safe_is_said_to_be(self) -> None:
        self.engine.sealed(5, 7)
        self.pull()
        self.assertEqual(self.engine.spooling.spool.acknowledged, 12)

    def test_what_is_in_the_archive_is_not_fetched_again(self) -> None:
        self.engine.sealed(5, 7)
        self.pull()
        self.engine.sealed(3)
        self.engine.opened.clear()
        told = self.pull()
        self.assertEqual((told.had, told.stored, [first for first, _ in self.engine.opened]), (2, 1, [13]))
        self.assertEqual(self.engine.spooling.spool.acknowledged, 15)

    def test_what_was_removed_is_not_fetched_but_again(self) -> None:
        """It stays in the spool until there is need of room, and is safe: it was here."""
        there = self.engine.sealed(5, 7)
        self.pull()
        self.here.archive.retain(there[1].bytes + 2000, 0)
        self.assertEqual(len(self.here.files()), 1)
        self.engine.sealed(3)
        self.engine.opened.clear()
        told = self.pull()
        self.assertEqual((told.was_here, told.had, told.stored), (1, 1, 1))
        self.assertEqual([first for first, _ in self.engine.opened], [13])
        self.engine.spooling.spool._through = 0
        self.pull()
        self.assertEqual(self.engine.spooling.spool.acknowledged, 15, "it is said once more, as all that was here")
        told = self.pull(again=True)
        self.assertEqual((told.was_here, told.had, told.stored), (0, 2, 1))
        self.assertEqual(self.pull().had, 3)
        self.assertEqual(self.here.archive.removals.of("se-1"), [], "it is here, and was not removed any more")

    def test_what_was_removed_of_another_generation_is_another(self) -> None:
        self.engine.sealed(5)
        self.pull()
        self.here.archive.retain(0, 0)
        self.here.archive.removals.note("se-1", [])
        other = [msgspec.structs.replace(each, generation=2) for each in self.engine.spooling.manifests]
        self.here.archive.removals._write("se-1", noted([], other))
        self.assertEqual(self.pull().stored, 1)

    def test_it_goes_on_at_the_byte(self) -> None:
        manifest = self.engine.sealed(60)[0]
        self.engine.breaks = [700, 300]
        for _ in range(2):
            self.fails(Unavailable)
        told = self.pull()
        self.assertEqual(self.engine.opened, [(1, 0), (1, 700), (1, 1000)])
        self.assertEqual((told.bytes, told.known, told.stored), (manifest.bytes - 1000, 1000, 1))

    def test_a_part_of_which_a_power_cut_has_taken_the_middle_is_fetched_anew(self) -> None:
        self.engine.sealed(60)
        self.engine.breaks = [700]
        self.fails(Unavailable)
        self.here.parts()[0].write_bytes(bytes(700))
        told = self.pull()
        self.assertEqual((self.engine.opened, told.stored, told.no), ([(1, 0), (1, 700), (1, 0)], 1, []))

    def test_a_part_that_is_whole_needs_nobody(self) -> None:
        manifest = self.engine.sealed(60)[0]
        whole = self.engine.file(manifest).read_bytes()
        self.engine.breaks = [700]
        self.fails(Unavailable)
        self.here.parts()[0].write_bytes(whole)
        told = self.pull()
        self.assertEqual((told.bytes, told.stored, len(self.engine.opened)), (0, 1, 1))

    def test_numbers_that_are_missing_are_told(self) -> None:
        there = self.engine.sealed(5, 7, 3)
        self.engine.page_of = lambda page: SegmentPage(items=[there[0], there[2]])
        self.assertEqual(self.pull().missing, [(6, 12)])

    def test_numbers_that_had_to_go_are_not_missing_in_silence_before_a_segment_tells_of_them(self) -> None:
        there = self.engine.sealed(5, 7, 3)
        spool = self.engine.spooling.spool
        spool._folder.drop_segment(0)
        told = self.pull()
        self.assertEqual((told.missing, told.stored), ([], 2))
        self.assertEqual(spool.gone, [(1, there[0].last)])

    def test_pages_are_all_gone_through(self) -> None:
        there = self.engine.sealed(5, 7, 3)
        pages = {0: (there[:1], 5), 5: (there[1:2], 12), 12: (there[2:], 0)}

        async def page(after: int) -> tuple[SegmentPage, int]:
            items, following = pages[after]
            return SegmentPage(items=items, next=following), 100

        self.engine.page = page  # type: ignore[method-assign]
        self.assertEqual(self.pull().stored, 3)


class BadPeerTests(PullCase):
    def refused(self, manifests: list[Manifest], words: str) -> None:
        """The second of three is refused, and the others are archived."""
        told = self.pull()
        self.assertEqual((len(told.no), told.stored), (1, 2), told.no)
        self.assertIn(words, told.no[0])
        self.assertNotIn("\n", told.no[0])
        self.assertEqual((len(self.here.files()), self.here.parts()), (2, []))
        self.assertEqual(self.engine.spooling.spool.acknowledged, 5)

    def test_one_that_was_tampered_with_is_refused_and_the_others_are_not(self) -> None:
        there = self.engine.sealed(5, 70, 3)
        file = self.engine.file(there[1])
        data = bytearray(file.read_bytes())
        data[1000] ^= 1
        file.write_bytes(data)
        self.refused(there, "SHA-256")

    def test_one_that_has_gone_meanwhile(self) -> None:
        there = self.engine.sealed(5, 70, 3)
        self.engine.file(there[1]).unlink()
        self.refused(there, "had to go")

    def test_another_length_or_hash_than_the_manifest_s(self) -> None:
        there = self.engine.sealed(5, 70, 3)
        for wrong, words in (({"bytes": there[1].bytes - 1}, "bytes in place of"), ({"sha256": "0" * 64}, "ETag")):
            lie = msgspec.structs.replace(there[1], **wrong)
            self.engine.page_of = lambda page, lie=lie: SegmentPage(items=[page.items[0], lie, page.items[2]])  # type: ignore[misc]
            told = self.pull()
            self.assertEqual(len(told.no), 1)
            self.assertIn(words, told.no[0])

    def test_other_rows_than_the_manifest_s(self) -> None:
        there = self.engine.sealed(5)
        lie = msgspec.structs.replace(there[0], last=6, rows=6, services={"shop": 6})
        self.engine.page_of = lambda page: SegmentPage(items=[lie])

        async def anyway(manifest: Manifest, at: int) -> Pieces:
            return await Engine.open(self.engine, there[0], at)

        self.engine.open = anyway  # type: ignore[method-assign]
        self.assertIn("has 5 rows, and its manifest says 6", self.pull().no[0])
        self.assertEqual((self.here.files(), self.here.parts()), ([], []))

    def test_more_than_was_asked_for(self) -> None:
        there = self.engine.sealed(5)
        for wrong in (
            {"status": 204},
            {"status": 206, "headers": {"etag": f'"{there[0].sha256}"', "content-range": "bytes 1-2/3"}},
            {"length": None},
        ):

            def odd(pieces: Pieces, wrong: dict[str, Any] = wrong) -> Pieces:
                pieces.__dict__.update(wrong)
                return pieces

            self.engine.pieces_of = odd
            self.assertEqual((len(self.pull().no), self.here.parts(), self.told.bytes), (1, [], 0))

    def test_a_list_that_lies_is_the_end_of_it_and_what_was_fetched_stays(self) -> None:
        there = self.engine.sealed(5, 7)
        self.pull()
        lie = msgspec.structs.replace(there[1], generation=4)
        self.engine.page_of = lambda page: SegmentPage(items=[page.items[0], lie])
        self.assertIn("generation 4", self.fails(PeerError))
        self.assertEqual(len(self.here.files()), 2)

    def test_what_is_listed_after_the_first_look_is_left_to_the_next_pull(self) -> None:
        """So a pull ends, however fast a service engine is."""
        there = self.engine.sealed(5, 7)
        pages = [SegmentPage(items=there[:1]), SegmentPage(items=there)]
        self.engine.page_of = lambda page: pages.pop(0)
        told = self.pull()
        self.assertEqual((told.segments, told.stored), (1, 1))

    def test_other_records_of_the_same_numbers_are_refused(self) -> None:
        there = self.engine.sealed(5)
        self.pull()
        other = msgspec.structs.replace(there[0], sha256="0" * 64)
        self.engine.page_of = lambda page: SegmentPage(items=[other])
        self.assertIn("other records", self.pull().no[0])

    def test_one_that_stalls_is_given_up_and_gone_on_with(self) -> None:
        manifest = self.engine.sealed(60)[0]
        pump: list[Any] = []

        def stuck(pieces: Pieces) -> Pieces:
            pump.append(pieces)
            pieces._whole, pieces._arrived, pieces._ended = False, [b"".join(pieces._arrived)[:100]], None
            pieces.transport = pieces.transport or _Nothing()
            pieces.connectionMade()
            return pieces

        self.engine.pieces_of = stuck
        pulling = self.here.pull(self.engine, self.told)
        self.clock.advance(29)
        self.assertNoResult(pulling)
        self.clock.advance(1)
        self.assertIn("has sent nothing for 30 s", str(self.failureResultOf(pulling, TimedOut).value))
        self.engine.pieces_of = lambda pieces: pieces
        self.assertEqual(self.pull().bytes, manifest.bytes - 100)

    def test_an_acknowledgement_that_is_refused_is_told_and_harms_nothing(self) -> None:
        self.engine.sealed(5)
        self.engine.acknowledging = [Conflict("another node owns this service engine now")]
        told = self.pull()
        self.assertEqual((told.stored, len(told.problems)), (1, 1))


class _Nothing:
    def stopProducing(self) -> None:
        """Nothing is read."""


class _Slow:
    """What comes a few bytes at a time."""

    BYTES = 100

    def __init__(self, clock: Clock, pieces: Pieces) -> None:
        self.status, self.headers, self.length = pieces.status, pieces.headers, pieces.length
        self._clock, self._pieces, self._left = clock, pieces, b""

    async def take(self) -> list[bytes]:
        await pause(self._clock, 20)
        self._left = self._left or b"".join(await self._pieces.take())
        taken, self._left = self._left[: self.BYTES], self._left[self.BYTES :]
        return [taken] if taken else []

    def abort(self) -> None:
        self._pieces.abort()


def _failing(*_: Any) -> None:
    raise LocalError("no such luck")


def open_parts() -> list[str]:
    """The parts that this process has open."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{each}"))
    return [each for each in found if ".part" in each]


class BoundTests(PullCase):
    def test_no_more_is_fetched_than_the_budget_has(self) -> None:
        there = self.engine.sealed(5, 70, 3)
        told = Told(budget=there[0].bytes + there[1].bytes)
        self.fails(OutOfBudget, told)
        self.assertEqual((told.stored, told.bytes, told.budget), (2, there[0].bytes + there[1].bytes, 0))

    def test_where_there_is_no_room_nothing_is_begun(self) -> None:
        self.engine.sealed(5)
        self.here = Here(self.folder / "archive", spare_bytes=2**60)
        self.assertIn("there is no room", self.fails(LocalError))
        self.assertEqual(self.engine.opened, [])

    def test_a_disk_that_is_full_is_told_and_is_not_kept_full(self) -> None:
        """Nothing that was there is harmed (E11)."""
        self.engine.sealed(60)

        def full(*_: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.patch(os, "pwritev", full)
        self.assertIn("No space left on device; free some space", self.fails(LocalError))
        self.assertEqual(self.here.parts(), [])

    def test_half_a_write_goes_on(self) -> None:
        self.engine.sealed(60)
        whole = os.pwritev
        self.patch(os, "pwritev", lambda to, pieces, at: whole(to, [pieces[0][:10]], at))
        self.assertEqual((self.pull().stored, self.told.no), (1, []))

    def test_whoever_is_cancelled_waits_for_the_thread_that_is_at_the_file(self) -> None:
        self.engine.sealed(60)
        waiting: list[tuple[Deferred[Any], Any]] = []

        def later(work: Any) -> Deferred[Any]:
            if work.__class__.__name__ != "partial":  # which a write is
                return self.done(work)
            done: Deferred[Any] = Deferred()
            waiting.append((done, work))
            return done

        self.here.puller = Puller(self.here.archive, self.here.incoming, later)
        pulling = self.here.pull(self.engine, self.told)
        pulling.cancel()
        self.assertNoResult(pulling)
        done, work = waiting[0]
        done.callback(work())
        self.failureResultOf(pulling, CancelledError)
        self.assertEqual(len(self.here.parts()), 1)

    def test_whoever_is_cancelled_leaves_no_file_open(self) -> None:
        self.engine.sealed(60)
        waiting: list[tuple[Deferred[Any], Any]] = []

        def later(work: Any) -> Deferred[Any]:
            if "_begun" not in getattr(work, "__qualname__", ""):
                return self.done(work)
            done: Deferred[Any] = Deferred()
            waiting.append((done, work))
            return done

        self.here.puller = Puller(self.here.archive, self.here.incoming, later)
        pulling = self.here.pull(self.engine, self.told)
        pulling.cancel()
        done, work = waiting[0]
        done.callback(work())
        self.failureResultOf(pulling, CancelledError)
        self.assertEqual((len(self.here.parts()), open_parts()), (1, []))

    def test_a_disk_that_fails_leaves_no_file_open(self) -> None:
        self.engine.sealed(5, 7)
        self.patch(self.here.archive, "add", _failing)
        self.assertIn("no such luck", self.fails(LocalError))
        self.assertEqual(open_parts(), [])

    def test_what_others_fill_is_seen_while_it_comes(self) -> None:
        self.engine.sealed(60)
        self.here = Here(self.folder / "archive", spare_bytes=1000)
        self.patch(incoming, "SYNC_BYTES", 1)
        free = [2**40, 999]
        usage = incoming.shutil.disk_usage
        self.patch(incoming.shutil, "disk_usage", lambda path: usage(path)._replace(free=free.pop(0)))
        self.assertIn("there is no room", self.fails(LocalError))
        self.assertEqual((self.here.parts(), open_parts()), ([], []))

    def test_one_that_is_slow_lets_others_in_and_goes_on_at_the_byte(self) -> None:
        there = self.engine.sealed(60)
        tasks = Tasks()
        self.addCleanup(tasks.stop)
        other = Engine(self.folder / "other", self.clock, tasks)
        other.engine = other.spooling.spool._engine = "se-2"
        self.addCleanup(other.spooling.kill)
        other.sealed(5)
        self.engine.pieces_of = lambda pieces: _Slow(self.clock, pieces)  # type: ignore[assignment, return-value]
        slow, quick = Told(), Told()
        slow.turns = quick.turns = Turns(1, self.clock.seconds)
        first, second = self.here.pull(self.engine, slow), self.here.pull(other, quick)
        self.clock.advance(TURN_S - 20)
        self.assertNoResult(second)
        self.clock.advance(20)
        self.successResultOf(second)
        self.assertEqual(quick.stored, 1)
        for _ in range(1000):
            self.clock.advance(20)
        self.successResultOf(first)
        self.assertEqual((slow.stored, slow.bytes), (1, there[0].bytes))
        self.assertEqual([at for _, at in self.engine.opened], [0, 2 * _Slow.BYTES])

    def done(self, work: Any) -> Deferred[Any]:
        from tests.logs.spooling import at_once

        return at_once(work)  # type: ignore[return-value]

    def test_few_parts_of_a_service_engine_are_kept_whatever_it_begins(self) -> None:
        folder = self.folder / "archive" / incoming.FOLDER
        folder.mkdir(mode=0o700)
        for number in range(9):
            for engine in ("se-1", "se-10"):
                part = folder / f"{engine}.3.{number}-{number}.{'0' * 16}.part"
                part.write_bytes(b"x")
                os.utime(part, (0, number))
        self.engine.sealed(5)
        self.pull()
        left = [each.name for each in self.here.parts()]
        self.assertEqual([each[:8] for each in left if each.startswith("se-1.")], ["se-1.3.7", "se-1.3.8"])
        self.assertEqual(len([each for each in left if each.startswith("se-10.")]), 9)

    def test_parts_that_nobody_wants_are_removed_in_the_end(self) -> None:
        self.engine.sealed(60)
        self.engine.breaks = [700]
        self.fails(Unavailable)
        part = self.here.parts()[0]
        other = part.with_name("notes.part")
        other.write_bytes(b"x")
        now = part.stat().st_mtime
        self.here.incoming.sweep(now + incoming.KEPT_S - 1)
        self.assertTrue(part.exists())
        self.here.incoming.sweep(now + incoming.KEPT_S + 1)
        self.assertEqual((part.exists(), other.exists()), (False, True))

    def test_one_that_is_gone_on_with_after_long_is_not_removed_meanwhile(self) -> None:
        manifest = self.engine.sealed(60)[0]
        self.engine.breaks = [700]
        self.fails(Unavailable)
        part = self.here.parts()[0]
        now = part.stat().st_mtime
        os.utime(part, (0, now - 2 * incoming.KEPT_S))
        opened = self.engine.open

        async def open_(manifest: Manifest, at: int) -> Pieces:
            self.here.incoming.sweep(now)
            return await opened(manifest, at)

        self.engine.open = open_  # type: ignore[method-assign]
        told = self.pull()
        self.assertEqual((told.stored, told.no, told.bytes), (1, [], manifest.bytes - 700))
