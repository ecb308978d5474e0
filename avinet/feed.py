"""Floor 0: a transcript that is followed while it is written, by several, each at its own pace.

Whoever writes waits for those who read. But a reader that takes nothing for `HOLD_S`, while others wait for that, holds
nobody any more: it goes on with what there is by then, and is told how much it has missed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.transcript import Piece, Transcript

HOLD_S = 5.0
HEAD_BYTES, TAIL_BYTES = 64 * 1024, 128 * 1024
HIGH_BYTES = 32 * 1024
"""How far a reader may be behind before whoever writes waits for it; with a piece more, less than the tail."""
TAKE_BYTES = 16 * 1024
"""What a reader is handed at a time, about."""


class Bell:
    """Wakes those who wait."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """Fires when it is rung next; may be cancelled."""
        waiting: Deferred[None] = Deferred(lambda gone: self._waiting.remove(gone) if gone in self._waiting else None)
        self._waiting.append(waiting)
        return waiting

    def ring(self) -> None:
        """Wake them."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)


class Pace:
    """How one reader keeps up with all that it follows."""

    def __init__(self, clock: IReactorTime, hold_s: float = HOLD_S) -> None:
        self.late = False
        """Whether nobody waits for it."""
        self._clock = clock
        self._hold_s = hold_s
        self._timer: IDelayedCall | None = None
        self._waiting: set[Callable[[], None]] = set()

    def waited_for(self, look: Callable[[], None]) -> None:
        """Somebody waits for it, who is to look again when it has taken something, or is not waited for any more."""
        self._waiting.add(look)
        if self._timer is None:
            self._timer = self._clock.callLater(self._hold_s, self._give_up)

    def moved(self) -> None:
        """It has taken something."""
        self.late = False
        self.look()

    def look(self) -> None:
        """Have those who wait for it look again, and wait anew if they must."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, set()
        for look in waiting:
            look()

    def _give_up(self) -> None:
        self._timer, self.late = None, True
        self.look()


class Follower:
    """One reader of one feed, from `place` on."""

    def __init__(self, feed: Feed, pace: Pace, place: int) -> None:
        self.pace = pace
        self.place = place
        self._feed = feed

    @property
    def behind(self) -> int:
        """How many bytes it has not taken yet."""
        return self._feed.transcript.size - self.place

    def take(self, limit: int = TAKE_BYTES) -> list[Piece | int]:
        """The next of what there is; a number is how many bytes were left out there."""
        taken = list(self._feed.transcript.after(self.place, limit))
        for each in taken:
            self.place += each if isinstance(each, int) else len(each.data)
        if taken:
            self.pace.moved()
            self._feed.taken()
        return taken

    async def pieces(self) -> AsyncGenerator[Piece | int, None]:
        """All that there is and comes, until the end; a number is how many bytes were left out there."""
        while True:
            for each in self.take():
                yield each
            if self.behind <= 0:  # below: it was given a place that is not printed yet
                if self._feed.ended:
                    return
                await self._feed.changed.wait()

    def leave(self) -> None:
        """Follow no longer."""
        self._feed.left(self)


class Feed:
    """A transcript under way; `changed` rings when there is more of it, and when it has ended."""

    def __init__(
        self, clock: IReactorTime, head: int = HEAD_BYTES, tail: int = TAIL_BYTES, changed: Bell | None = None
    ) -> None:
        self.transcript = Transcript(head, tail)
        self.changed = changed or Bell()
        self.ended = False
        self._clock = clock
        self._followers: list[Follower] = []
        self._writers: list[tuple[int, Deferred[None]]] = []

    def write(self, error: bool, data: bytes) -> None:
        """More was printed."""
        self.transcript.append(error, data)
        self.changed.ring()

    def skip(self, count: int) -> None:
        """More was printed that did not come here."""
        self.transcript.skip(count)
        self.changed.ring()

    def end(self) -> None:
        """There will be no more."""
        self.ended = True
        self.changed.ring()

    def follow(self, place: int = 0, pace: Pace | None = None) -> Follower:
        """A reader of what comes behind `place`."""
        follower = Follower(self, pace or Pace(self._clock), place)
        self._followers.append(follower)
        return follower

    # those who wait for readers

    def room(self, behind: int = HIGH_BYTES) -> Deferred[None] | None:
        """What to wait for before more is written: no reader that keeps up is more than `behind`. None: nothing."""
        if not self._held(behind):
            return None
        waiting: Deferred[None] = Deferred(lambda _: None)
        self._writers.append((behind, waiting))
        return waiting

    def _held(self, behind: int) -> bool:
        held = False
        for follower in self._followers:
            if follower.behind > behind and not follower.pace.late:
                follower.pace.waited_for(self.taken)
                held = True
        return held

    def taken(self) -> None:
        """A reader has gone on, or is not waited for any more."""
        writers, self._writers = self._writers, []
        for behind, waiting in writers:
            if waiting.called:
                continue
            if self._held(behind):
                self._writers.append((behind, waiting))
            else:
                waiting.callback(None)

    def left(self, follower: Follower) -> None:
        """A reader is gone."""
        if follower in self._followers:
            self._followers.remove(follower)
            follower.pace.look()
            self.taken()
