"""The ground floor: ids, units, back-off, files, settings, tasks and deadlines."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import News, Slots, Tasks, as_deferred, cancellable, in_turn, pause, to_the_end, within
from avinet.backoff import Backoff
from avinet.errors import Invalid, LocalError, TimedOut
from avinet.files import (
    FolderLock,
    cannot,
    check_owner,
    files_missing,
    is_in_memory,
    private_folder,
    read_limited,
    sweep,
    work_folder,
    write_atomic,
)
from avinet.ids import parse_id, random_name
from avinet.settings import Settings, load, parse
from avinet.units import format_bytes, format_seconds, parse_bytes, parse_seconds


class IdTests(SynchronousTestCase):
    def test_ids_are_names_that_are_safe_everywhere(self) -> None:
        for good in ("a", "se-1", "0", "x" * 63):
            self.assertEqual(parse_id(good), good)
        for bad in ("", "-a", "A", "a_b", "a.b", "a/b", "a\n", "x" * 64, "ä", "../a"):
            self.assertRaises(Invalid, parse_id, bad)

    def test_random_names_are_ids(self) -> None:
        self.assertEqual(len(parse_id(random_name(os.urandom, 12))), 12)


class UnitTests(SynchronousTestCase):
    def test_sizes_and_durations_are_read_as_people_write_them(self) -> None:
        self.assertEqual(parse_bytes("64 KiB"), 65536)
        self.assertEqual(parse_bytes("2GB"), 2 * 10**9)
        self.assertEqual(parse_seconds("500ms"), 0.5)
        self.assertEqual(parse_seconds("7d"), parse_seconds("1w"))
        self.assertEqual(parse_seconds("1y"), 365 * 86400)
        for bad in ("", "x", "1 furlong", "-1s", "1e9"):
            self.assertRaises(Invalid, parse_seconds, bad)

    def test_and_shown_so(self) -> None:
        shown = [format_bytes(100), format_bytes(1536), format_bytes(5 * 2**40)]
        self.assertEqual(shown, ["100 B", "1.5 KiB", "5.0 TiB"])
        self.assertEqual([format_seconds(each) for each in (0.25, 60, 11100)], ["250ms", "1m", "3h 5m"])


class BackoffTests(SynchronousTestCase):
    @given(st.integers(0, 10_000), st.floats(0, 0.999), st.floats(0, 100))
    def test_no_wait_is_longer_than_the_cap_or_earlier_than_the_peer_said(
        self, attempt: int, chance: float, retry_after_s: float
    ) -> None:
        delay_s = Backoff(0.5, 30).delay_s(attempt, lambda: chance, retry_after_s)
        self.assertTrue(retry_after_s <= delay_s <= retry_after_s + 30)

    def test_the_ceiling_doubles_from_the_first_to_the_cap(self) -> None:
        waits = [Backoff(1, 10).delay_s(attempt, lambda: 1.0) for attempt in range(6)]
        self.assertEqual(waits, [1, 2, 4, 8, 10, 10])


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = private_folder(Path(self.mktemp()))

    def test_what_was_killed_leaves_nothing_aside_for_long(self) -> None:
        below = private_folder(self.folder / "trust")
        for left in (self.folder / ".receipt.json.4711.new", below / ".key.1.new"):
            left.write_bytes(b"half")
        (private_folder(self.folder / ".trust.12.new") / "key").write_bytes(b"half")
        others = {self.folder / "receipt.json", self.folder / ".x.new", below / "a.1.new"}
        for other in others:
            other.write_bytes(b"whole")
        sweep(self.folder)
        self.assertEqual({each for each in self.folder.rglob("*") if each.is_file()}, others)
        self.assertFalse((self.folder / ".trust.12.new").exists())

    def test_a_folder_for_work_is_gone_afterwards_and_what_others_left_too(self) -> None:
        (private_folder(self.folder / ".work-left1234") / "secret").write_bytes(b"s")
        with work_folder(self.folder, ".work-") as here, work_folder(self.folder, ".work-") as there:
            self.assertEqual(here.stat().st_mode & 0o777, 0o700)
            self.assertEqual({here, there}, set(self.folder.iterdir()))
        self.assertEqual(list(self.folder.iterdir()), [])
        with self.assertRaises(LocalError), work_folder(self.folder / "nowhere", ".work-"):
            self.fail("there is no such folder")

    def test_a_folder_for_work_is_held_though_others_sweep_before_it_is_locked(self) -> None:
        """Its maker is overtaken between making it and locking it: by one that has it, and by one that has removed it."""
        made: list[Path] = []
        descriptors: list[int] = []
        make = tempfile.mkdtemp

        def overtaken(prefix: str, dir: Path) -> str:
            path = Path(make(prefix=prefix, dir=dir))
            made.append(path)
            if len(made) == 1:
                path.rmdir()
            elif len(made) == 2:
                descriptors.append(os.open(path, os.O_RDONLY))
                fcntl.flock(descriptors[0], fcntl.LOCK_EX)
            return str(path)

        self.patch(tempfile, "mkdtemp", overtaken)
        with work_folder(self.folder, ".work-") as here:
            self.assertEqual(here, made[-1])
            self.assertTrue(here.is_dir())
            with work_folder(self.folder, ".work-"):
                self.assertTrue(here.is_dir(), "it is locked")
        os.close(descriptors[0])

    def test_what_only_begins_like_a_folder_for_work_is_left_alone(self) -> None:
        kept = {private_folder(self.folder / name) for name in (".work-of-mine", ".work-", ".work-abcdefgh.old")}
        with work_folder(self.folder, ".work-"):
            self.assertLess(kept, set(self.folder.iterdir()))
        self.assertEqual(kept, set(self.folder.iterdir()))

    def test_a_file_is_replaced_whole_and_private(self) -> None:
        path = self.folder / "key"
        write_atomic(path, b"one")
        write_atomic(path, b"two")
        self.assertEqual(path.read_bytes(), b"two")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(os.listdir(self.folder), ["key"])

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self) -> None:
        path = self.folder / "key"
        write_atomic(path, b"one")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
        try:
            error = self.assertRaises(LocalError, write_atomic, path, b"three")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        self.assertIn(str(path), str(error))
        self.assertEqual(os.listdir(self.folder), ["key"])
        self.assertEqual(path.read_bytes(), b"one")

    def test_a_full_disk_is_said_with_what_to_do(self) -> None:
        error = cannot("write", Path("/x"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self.assertEqual(str(error), "cannot write /x: No space left on device; free some space on that file system")

    def test_a_large_file_is_not_read(self) -> None:
        write_atomic(self.folder / "big", bytes(11))
        self.assertRaises(LocalError, read_limited, self.folder / "big", 10)

    def test_one_process_holds_a_state_folder(self) -> None:
        script = (
            "import sys; from pathlib import Path; from avinet.files import FolderLock;"
            "FolderLock(Path(sys.argv[1])).acquire(); print('held', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(self.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            self.assertEqual(other.stdout.readline(), b"held\n")
            lock = FolderLock(self.folder)
            error = self.assertRaises(LocalError, lock.acquire)
            self.assertIn(f"in use by process {other.pid}", str(error))
            other.kill()
            other.wait()
            lock.acquire()
            lock.release()

    def test_a_folder_is_in_memory_or_it_is_not(self) -> None:
        with TemporaryDirectory(dir="/dev/shm") as folder:
            self.assertTrue(is_in_memory(Path(folder)))
        self.assertFalse(is_in_memory(Path("/proc")))
        self.assertFalse(is_in_memory(self.folder / "missing"))


class Inner(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    interval_s: float = 1.0


class Outer(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = "x"
    inner: Inner = Inner()


class OwnerTests(SynchronousTestCase):
    def test_a_folder_of_another_user_is_refused_with_the_line_that_does_it(self) -> None:
        folder = private_folder(Path(self.mktemp()).absolute())
        check_owner(folder)
        name = pwd.getpwuid(os.geteuid()).pw_name
        with mock.patch.object(os, "geteuid", return_value=os.geteuid() + 1):
            said = str(self.assertRaises(LocalError, check_owner, folder))
        self.assertIn(f"belongs to the user {name}; run it as that one: runuser -u {name} --", said)
        self.assertRaises(LocalError, check_owner, folder / "none")


class OpenFilesTests(SynchronousTestCase):
    def test_what_is_more_than_the_limit_is_missing(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertEqual([files_missing(limit + more) for more in (-1, 0, 7)], [0, 0, 7])


class SettingsTests(SynchronousTestCase):
    def test_defaults_and_tables(self) -> None:
        self.assertEqual(parse("", Outer, "t"), Outer())
        self.assertEqual(parse("[inner]\ninterval_s = 2", Outer, "t").inner.interval_s, 2)

    def test_what_is_wrong_is_said_in_a_line(self) -> None:
        for text, words in (
            ("[inner]\nintervall_s = 2", ["intervall_s", "did you mean 'interval_s'?"]),
            ("name = 3", ["Expected `str`", "$.name"]),
            ("name = ", ["t is no TOML", "Invalid value"]),
        ):
            said = str(self.assertRaises(LocalError, parse, text, Outer, "t"))
            self.assertNotIn("\n", said)
            for word in words:
                self.assertIn(word, said)

    def test_a_file_that_is_missing_or_no_text(self) -> None:
        path = Path(self.mktemp())
        self.assertIn(str(path), str(self.assertRaises(LocalError, load, path, Outer)))
        path.write_bytes(b"\xff")
        self.assertIn("UTF-8", str(self.assertRaises(LocalError, load, path, Outer)))


class AsyncTests(SynchronousTestCase):
    def test_a_wait_has_a_deadline(self) -> None:
        clock = Clock()
        cancelled: list[object] = []
        waiting = as_deferred(within(clock, 5, Deferred(cancelled.append), "the peer"))
        clock.advance(4.9)
        self.assertNoResult(waiting)
        clock.advance(0.1)
        error = self.failureResultOf(waiting, TimedOut).value
        self.assertEqual(str(error), "the peer gave no answer within 5 s")
        self.assertEqual(len(cancelled), 1)

    def test_a_deadline_leaves_no_timer(self) -> None:
        clock = Clock()
        done: Deferred[int] = Deferred()
        waiting = as_deferred(within(clock, 5, done, "the peer"))
        done.callback(7)
        self.assertEqual(self.successResultOf(waiting), 7)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_what_is_cancelled_has_ended_whatever_it_makes_of_that(self) -> None:
        async def stubborn() -> str:
            try:
                await Deferred()
            except CancelledError as error:
                raise ZeroDivisionError from error
            return ""

        waiting = cancellable(stubborn())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        clock = Clock()
        late = as_deferred(within(clock, 5, cancellable(stubborn()), "the peer"))
        clock.advance(5)
        self.failureResultOf(late, TimedOut)
        done: Deferred[int] = Deferred()
        waiting = cancellable(done)
        done.callback(7)
        self.assertEqual(self.successResultOf(waiting), 7)

    def test_what_goes_on_to_its_end_is_waited_for_by_whoever_is_cancelled(self) -> None:
        cancelled: list[object] = []
        work: Deferred[int] = Deferred(cancelled.append)
        waiting = as_deferred(to_the_end(work))
        for _ in range(2):
            waiting.cancel()
        self.assertNoResult(waiting)
        work.callback(7)
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(cancelled, [])
        work = Deferred()
        waiting = as_deferred(to_the_end(work))
        work.callback(7)
        self.assertEqual(self.successResultOf(waiting), 7)
        failing: Deferred[int] = Deferred()
        waiting = as_deferred(to_the_end(failing))
        failing.errback(Invalid("it failed"))
        self.failureResultOf(waiting, Invalid)
        failing = Deferred()
        waiting = as_deferred(to_the_end(failing))
        waiting.cancel()
        failing.errback(Invalid("it failed"))
        self.failureResultOf(waiting, CancelledError)

    def test_what_goes_wrong_at_the_end_keeps_nothing_else_from_ending(self) -> None:
        ended: list[str] = []
        slow: Deferred[None] = Deferred()

        async def awaits() -> None:
            await slow
            ended.append("slow")

        def fault() -> None:
            raise RuntimeError("a fault")

        async def problem() -> None:
            raise LocalError("the disk is full")

        done = as_deferred(in_turn(fault, awaits, problem, lambda: ended.append("last")))
        self.assertEqual(ended, [])
        slow.callback(None)
        self.successResultOf(done)
        self.assertEqual(ended, ["slow", "last"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_task_that_fails_is_logged_once(self) -> None:
        tasks = Tasks()

        async def fail() -> None:
            raise ZeroDivisionError

        self.successResultOf(tasks.spawn(fail(), "dividing"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(tasks), 0)

    def test_stopping_cancels_what_runs_and_what_comes(self) -> None:
        clock, tasks = Clock(), Tasks()
        ended = tasks.spawn(pause(clock, 10), "waiting")
        tasks.stop()
        self.successResultOf(ended)
        self.successResultOf(tasks.spawn(pause(clock, 10), "waiting"))
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_the_end_waits_for_what_each_does_when_it_is_cancelled(self) -> None:
        tasks, goodbye = Tasks(), [Deferred[None](), Deferred[None]()]

        async def polite(goodbye: Deferred[None]) -> None:
            try:
                await Deferred()
            except CancelledError:
                await goodbye

        for each in goodbye:
            tasks.spawn(polite(each), "waiting")
        ending = as_deferred(tasks.end())
        for each in goodbye:
            self.assertNoResult(ending)
            each.callback(None)
        self.successResultOf(ending)
        self.assertEqual(len(tasks), 0)
        self.successResultOf(as_deferred(tasks.end()))

    def test_a_task_that_is_stopped_while_it_connects_is_no_fault(self) -> None:
        reactor, tasks = MemoryReactorClock(), Tasks()

        async def connect(endpoint: Any) -> None:
            await endpoint.connect(Factory())

        ended = [
            tasks.spawn(connect(endpoint), "connecting")
            for endpoint in (UNIXClientEndpoint(reactor, "/a/socket"), TCP4ClientEndpoint(reactor, "192.0.2.1", 80))
        ]
        tasks.stop()
        for each in ended:
            self.successResultOf(each)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_deadline_passes_while_connecting(self) -> None:
        reactor = MemoryReactorClock()
        endpoint = UNIXClientEndpoint(reactor, "/a/socket", timeout=30)
        connecting = as_deferred(within(reactor, 5, endpoint.connect(Factory()), "the peer"))
        reactor.advance(5)
        self.failureResultOf(connecting, TimedOut)


class NewsTests(SynchronousTestCase):
    def test_a_reason_is_new_once_until_it_goes_well(self) -> None:
        news = News()
        said = [news.fresh(reason) for reason in ("", "full", "full", "away", "full", "", "full")]
        self.assertEqual(said, [False, True, False, True, True, False, True])


class SlotsTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.slots = Slots(2)
        self.inside: dict[int, Deferred[None]] = {}
        self.done: list[int] = []

    async def work(self, number: int, *, at_once: bool = False) -> None:
        async with self.slots:
            if not at_once:
                self.inside[number] = Deferred()
                await self.inside[number]
            self.done.append(number)

    def come(self, number: int, **how: bool) -> Deferred[None]:
        return as_deferred(self.work(number, **how))

    def test_so_many_at_once_and_the_others_as_they_came(self) -> None:
        working = [self.come(number) for number in range(4)]
        self.assertEqual(list(self.inside), [0, 1])
        self.inside[1].callback(None)
        self.assertEqual(list(self.inside), [0, 1, 2])
        self.inside[0].errback(Invalid("it fails, and its slot is free all the same"))
        self.failureResultOf(working[0], Invalid)
        self.assertEqual(list(self.inside), [0, 1, 2, 3])

    def test_who_gives_up_waiting_takes_nobodys_turn(self) -> None:
        working = [self.come(number) for number in range(4)]
        working[2].cancel()
        self.failureResultOf(working[2], CancelledError)
        working[0].cancel()
        self.failureResultOf(working[0], CancelledError)
        self.assertEqual(list(self.inside), [0, 1, 3])

    def test_thousands_that_are_done_at_once_take_no_more_of_the_stack_than_one(self) -> None:
        for number in range(2):
            self.come(number)
        for number in range(2, 5000):
            self.come(number, at_once=True)
        self.inside[0].callback(None)
        self.assertEqual(self.done, [0, *range(2, 5000)])

    def test_nobody_is_passed_by_one_who_comes_while_others_are_called(self) -> None:
        self.come(0)
        self.come(1)

        async def brings_another() -> None:
            async with self.slots:
                self.come(3, at_once=True)
            self.done.append(-1)

        as_deferred(brings_another())
        self.come(2, at_once=True)
        self.inside[0].callback(None)
        self.assertEqual(self.done, [0, -1, 2, 3])
