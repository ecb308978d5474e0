"""The SQLite store: the contract, and what only a file can suffer."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from avinet.errors import LocalError, Unavailable
from avinet.store.interface import Compacted, Outcome, Put, Transaction
from avinet.store.sqlite import SQLiteStore
from tests.running import asynchronous, eventually
from tests.store.contract import StoreContract, put


class ThreadsAndClock(Clock):
    """The reactor's threads, and a clock that the test moves."""

    def callFromThread(self, *args: Any) -> None:
        reactor.callFromThread(*args)


class SQLiteStoreTests(StoreContract, TestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.clock = ThreadsAndClock()
        self.store = SQLiteStore(self.clock, self.path)
        self.addCleanup(lambda: ensureDeferred(self.store.close()))

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def reopen(self) -> None:
        await self.store.close()
        self.store = SQLiteStore(self.clock, self.path)

    @asynchronous
    async def test_it_is_all_there_after_a_restart(self) -> None:
        outcome = await self.store.transact(put(b"a", b"1"))
        lease = await self.store.grant(10)
        await self.store.transact(put(b"l", b"", lease=lease))
        await self.reopen()
        entry = (await self.store.read([b"a"])).entries[b"a"]
        self.assertEqual((entry.value, entry.revision), (b"1", outcome.revision))
        await self.store.keep_alive(lease)

    @asynchronous
    async def test_the_file_is_private(self) -> None:
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    @asynchronous
    async def test_each_commit_waits_for_the_disk(self) -> None:
        run = self.store._tables._connection.execute
        settings = [run(f"PRAGMA {each}").fetchone()[0] for each in ("journal_mode", "synchronous")]
        self.assertEqual(settings, ["wal", 2])

    @asynchronous
    async def test_a_newer_format_is_refused_and_left_alone(self) -> None:
        await self.store.close()
        with sqlite3.connect(self.path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        error = self.assertRaises(LocalError, SQLiteStore, self.clock, self.path)
        self.assertIn("has format 99", str(error))

    @asynchronous
    async def test_a_file_that_is_no_store_is_refused(self) -> None:
        other = Path(self.mktemp())
        other.write_bytes(b"not a database" * 100)
        self.assertRaises(LocalError, SQLiteStore, self.clock, other)

    @asynchronous
    async def test_a_database_of_someone_else_is_refused_and_left_alone(self) -> None:
        other = Path(self.mktemp())
        with sqlite3.connect(other) as connection:
            connection.execute("CREATE TABLE theirs (id)")
        connection.close()
        before = other.read_bytes()
        error = self.assertRaises(LocalError, SQLiteStore, self.clock, other)
        self.assertIn("no store of avinet's", str(error))
        self.assertEqual(other.read_bytes(), before)

    @asynchronous
    async def test_a_store_that_others_could_read_is_private_again(self) -> None:
        self.path.chmod(0o644)
        await self.reopen()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    @asynchronous
    async def test_leases_go_on_after_a_restart(self) -> None:
        lease = await self.store.grant(10)
        await self.store.transact(put(b"l", b"", lease=lease))
        await self.reopen()
        self.clock.advance(11)
        await eventually("the key is gone", lambda: self.gone(b"l"))

    async def gone(self, key: bytes) -> bool:
        return await self.value(key) is None

    @asynchronous
    async def test_closing_while_a_lease_is_granted_leaves_no_timer(self) -> None:
        granting = ensureDeferred(self.store.grant(10))
        await self.store.close()
        await granting
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @asynchronous
    async def test_after_closing_it_answers_at_once_that_it_is_closed(self) -> None:
        await self.store.close()
        await self.assertFailure(ensureDeferred(self.store.read([b"a"])), Unavailable)

    @asynchronous
    async def test_a_full_disk_loses_nothing_and_passes(self) -> None:
        written = await self.store.transact(put(b"a", b"1"))
        wal = Path(f"{self.path}-wal")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + 100_000, before[1]))
        try:
            large = [ensureDeferred(self.store.transact(put(b"b%d" % each, bytes(300_000)))) for each in range(3)]
            for writing in large:
                error = await self.assertFailure(writing, Unavailable)
                self.assertIn("cannot be written", str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        self.assertEqual([await self.value(key) for key in (b"a", b"b0")], [b"1", None])
        self.assertEqual(await self.store.transact(put(b"b0", b"2")), Outcome(True, written.revision + 1))

    @asynchronous
    async def test_one_job_that_fails_does_not_fail_its_neighbours(self) -> None:
        broken = Transaction((), (Put(b"x", None),))  # type: ignore[arg-type]
        first = ensureDeferred(self.store.transact(put(b"a", b"1")))
        failing = self.store._ask(lambda: self.store._tables.transact(broken))
        last = ensureDeferred(self.store.transact(put(b"b", b"2")))
        await self.assertFailure(failing, AttributeError, TypeError, Unavailable)
        self.assertEqual({outcome.succeeded for outcome in await gatherResults([first, last])}, {True})
        self.assertEqual([await self.value(key) for key in (b"a", b"b", b"x")], [b"1", b"2", None])

    @asynchronous
    async def test_history_is_trimmed_by_itself(self) -> None:
        self.patch(sys.modules["avinet.store.tables"], "KEPT_REVISIONS", 10)
        for each in range(50):
            await self.store.transact(put(b"%d" % each, b""))
        await self.store.close()
        with sqlite3.connect(self.path) as connection:
            kept = connection.execute("SELECT count(*) FROM history").fetchone()[0]
        connection.close()
        self.assertTrue(10 <= kept <= 30, kept)

    @asynchronous
    async def test_large_values_are_kept_in_history_up_to_a_size(self) -> None:
        self.patch(sys.modules["avinet.store.tables"], "KEPT_BYTES", 100_000)
        for each in range(50):
            await self.store.transact(put(b"a", bytes(9_000 + each)))
        last = (await self.store.read([b"a"])).revision
        sizes: list[int] = []
        watch = self.store.watch(b"", last - 10, lambda events: sizes.extend(len(e.entry.value) for e in events))
        self.addCleanup(watch.stop)
        await eventually("the newest changes are there", lambda: sizes)
        self.assertEqual(sizes, [9_000 + each for each in range(40, 50)])
        old = self.store.watch(b"", last - 30, lambda events: None)
        await self.assertFailure(old.failed, Compacted)


WRITER = """
import sys
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from avinet.store.interface import Put, Transaction
from avinet.store.sqlite import SQLiteStore

async def write():
    store = SQLiteStore(reactor, Path(sys.argv[1]))
    for each in range(100000):
        await store.transact(Transaction((), (Put(b"%d" % each, b"x" * 100),)))
        print(each, flush=True)

reactor.callWhenRunning(lambda: ensureDeferred(write()))
reactor.run()
"""


class KillTests(TestCase):
    @asynchronous
    async def test_a_killed_writer_loses_nothing_that_was_acknowledged(self) -> None:
        for lines in (1, 7, 40):
            path = Path(self.mktemp())
            with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                for _ in range(lines):
                    writer.stdout.readline()
                writer.send_signal(signal.SIGKILL)
                said = lines + len(writer.stdout.readlines())
            store = SQLiteStore(reactor, path)
            entries = (await store.range(b"", limit=100_000)).entries
            await store.close()
            self.assertTrue(said <= len(entries) <= said + 1, (said, len(entries)))
