"""A mirror shows what the store has, whatever becomes of the watch."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.errors import Unavailable
from avinet.store.interface import Delete, Entry, Put, Transaction
from avinet.store.mirror import RETRY_S, Mirror
from tests.store.memory import MemoryStore


class MirrorTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.tasks = Clock(), Tasks()
        self.store = MemoryStore(self.clock)
        self.found: dict[str, bytes] = {}
        self.taken = 0
        self.mirror = Mirror(self.store, self.clock, self.tasks, b"x/", self.take, "the mirror")
        self.write(Put(b"x/a", b"1"), Put(b"y/a", b"other"))
        self.result(self.mirror.start())
        self.clock.advance(0)
        self.addCleanup(self.tasks.stop)

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def write(self, *then: Put | Delete) -> int:
        return int(self.result(self.store.transact(Transaction((), then))).revision)

    def take(self, id: str, entry: Entry | None) -> None:
        self.taken += 1
        if entry is None:
            self.found.pop(id, None)
        else:
            self.found[id] = entry.value

    def test_it_follows(self) -> None:
        self.assertEqual(self.found, {"a": b"1"})
        revision = self.write(Put(b"x/b", b"2"), Delete(b"x/a"))
        self.assertEqual((self.found, self.mirror.revision), ({"b": b"2"}, revision))
        self.mirror.stop()
        self.write(Put(b"x/c", b"3"))
        self.assertEqual(self.found, {"b": b"2"})

    def test_what_was_missed_is_made_good(self) -> None:
        self.store.unavailable = "away"
        self.store.break_watches(lambda: Unavailable("away"))
        self.store.unavailable = ""
        self.write(Delete(b"x/a"), Put(b"x/b", b"2"))
        self.assertEqual(self.found, {"a": b"1"})
        self.clock.advance(RETRY_S)
        self.assertEqual(self.found, {"b": b"2"})
        self.clock.advance(0)
        self.write(Put(b"x/c", b"3"))
        self.assertEqual(self.found, {"b": b"2", "c": b"3"})

    def test_what_we_wrote_is_known_at_once_and_no_older_word_of_it_is_believed(self) -> None:
        entry = Entry(b"x/a", b"mine", 100, 1)
        self.mirror.wrote("a", entry, 100)
        self.assertEqual(self.found, {"a": b"mine"})
        self.write(Put(b"x/a", b"older"), Put(b"x/b", b"2"))
        self.assertEqual(self.found, {"a": b"mine", "b": b"2"})
        self.store.revision = 99
        self.write(Put(b"x/a", b"mine"))
        self.write(Put(b"x/a", b"newer"))
        self.assertEqual(self.found["a"], b"newer")

    def test_what_we_removed_does_not_come_back(self) -> None:
        self.mirror.wrote("a", None, 100)
        self.write(Put(b"x/a", b"older"))
        self.assertEqual(self.found, {})
