"""Pulling: every segment once, whole, as its manifest says, from the byte at which it was lost; nothing else is kept."""

from __future__ import annotations

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

from avinet.aio import Tasks
from avinet.errors import Conflict, LocalError, PeerError, TimedOut, Unavailable
from avinet.logs import incoming
from avinet.logs.puller import OutOfBudget, Puller
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

    def pull(self) -> Told:
        self.told = Told()
        self.successResultOf(self.here.pull(self.engine, self.told))
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

    def test_pages_are_all_gone_through(self) -> None:
        there = self.engine.sealed(5, 7, 3)
        pages = {0: (there[:1], 5), 5: (there[1:2], 12), 12: (there[2:], 0)}

        async def page(after: int) -> SegmentPage:
            items, following = pages[after]
            return SegmentPage(items=items, next=following)

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

    def done(self, work: Any) -> Deferred[Any]:
        from tests.logs.spooling import at_once

        return at_once(work)  # type: ignore[return-value]

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
