"""What a node has seen last: bounded, shared fairly, and followed by several, none of whom holds more than the ring."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.errors import TooMany
from avinet.logs.live.recent import READER_LIMIT, READERS, Recent, Seen
from avinet.wire.significant import SeenLeftOut


def all_of(id: str, service: str) -> bool:
    return True


class RecentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.recent = Recent(100_000)

    def take(self, id: str, *texts: str, service: str = "web") -> None:
        self.recent.take([Seen(id, service, each.encode()) for each in texts])

    def said(self, event: Any) -> object:
        return bytes(event).decode() if isinstance(event, Raw) else event

    def seen(self, last: int = 10_000, wanted: Any = all_of) -> list[object]:
        """All that is there."""
        found: list[object] = []

        async def read() -> None:
            found.extend([self.said(each) async for each in self.recent.read(wanted, last, follow=False)])

        self.successResultOf(as_deferred(read()))
        return found

    def next(self, reader: AsyncGenerator[Any, None]) -> Deferred[object]:
        async def one() -> object:
            return self.said(await anext(reader))

        return as_deferred(one())

    def test_the_last_ones_in_their_order_of_those_that_are_wanted(self) -> None:
        self.take("se-1", "a", "b")
        self.take("se-2", "c", service="shop")
        self.take("se-1", "d")
        self.assertEqual(self.seen(), ["a", "b", "c", "d"])
        self.assertEqual(self.seen(2), ["c", "d"])
        self.assertEqual(self.seen(0), [])
        self.assertEqual(self.seen(2, lambda id, _: id == "se-1"), ["b", "d"])
        self.assertEqual(self.seen(2, lambda _, service: service == "shop"), ["c"])
        self.recent.forget("se-1")
        self.assertEqual(self.seen(), ["c"])

    def test_what_comes_is_there_at_once(self) -> None:
        self.take("se-1", "a")
        reader = self.recent.read(all_of, 10, follow=True)
        self.assertEqual(self.successResultOf(self.next(reader)), "a")
        waiting = self.next(reader)
        self.assertNoResult(waiting)
        self.take("se-1", "b", "c")
        self.assertEqual(self.successResultOf(waiting), "b")
        self.assertEqual(self.successResultOf(self.next(reader)), "c")
        self.successResultOf(as_deferred(reader.aclose()))
        self.assertEqual(self.recent._readers, [])

    def test_it_never_has_more_than_its_bound_and_gives_it_all_back(self) -> None:
        for number in range(1000):
            self.take(f"se-{number % 7}", "x" * (number % 977))
            self.assertLessEqual(self.recent.size, 100_000)
        self.assertGreater(self.recent.size, 98_000)
        self.take("se-1", "y" * 200_000)
        self.assertNotIn("y" * 200_000, self.seen())
        for number in range(7):
            self.recent.forget(f"se-{number}")
        self.assertEqual((self.seen(), self.recent.size), ([], 0))
        self.assertEqual((self.recent._own, self.recent._held), ({}, {}))

    def test_one_that_says_much_pushes_out_itself_alone(self) -> None:
        self.take("se-2", *(f"quiet-{number}" for number in range(50)))
        for number in range(2000):
            self.take("se-1", f"loud-{number}")
        found = self.seen()
        self.assertEqual(sum(str(each).startswith("quiet") for each in found), 50)
        self.assertEqual(found[-1], "loud-1999")

    def test_who_is_slow_is_told_how_much_is_missing(self) -> None:
        reader = self.recent.read(all_of, 10, follow=True)
        first = self.next(reader)
        self.take("se-1", "first")
        self.assertEqual(self.successResultOf(first), "first")
        count = 2000
        for number in range(count):
            self.take("se-1", f"{number:0100}")
        missed = self.successResultOf(self.next(reader))
        kept = len(self.seen())
        self.assertEqual(missed, SeenLeftOut(events=count - kept))
        self.assertEqual(self.successResultOf(self.next(reader)), f"{count - kept:0100}")
        self.successResultOf(as_deferred(reader.aclose()))

    def test_who_does_not_read_holds_numbers_and_not_many(self) -> None:
        self.recent = Recent(100 * 1024 * 1024)
        reader = self.recent.read(all_of, 10, follow=True)
        waiting = self.next(reader)
        [held] = self.recent._readers
        for number in range(READER_LIMIT + 51):
            held.offer(number, Seen("se-1", "web", b""))
        self.assertEqual((len(held._coming), held._missed), (READER_LIMIT, 51))
        waiting.addErrback(lambda _: None)
        waiting.cancel()

    def test_so_many_may_follow(self) -> None:
        readers = [self.recent.read(all_of, 0, follow=True) for _ in range(READERS)]
        waiting = [self.next(each) for each in readers]
        self.assertRaises(TooMany, self.recent.read, all_of, 0, follow=True)
        for each in waiting:
            each.addErrback(lambda _: None)
            each.cancel()
        self.assertEqual(self.recent._readers, [])
        self.assertEqual(self.seen(), [])
