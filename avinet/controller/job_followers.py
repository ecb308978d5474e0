"""Those who follow a job while it runs: what is printed on all its service engines, in one line of events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from twisted.internet.interfaces import IReactorTime

from avinet.controller.errands import Errand
from avinet.feed import Follower, Pace
from avinet.transcript import Piece
from avinet.wire.jobs import JobEnded, JobEvent, JobLeftOut, JobOutput, JobResult, JobStarted


class JobFollower:
    """One of them. It takes `events` as it likes; see `avinet.feed` for how long others wait for that.

    What it does not take while nobody waits for it is counted, and not kept for it: it holds little, however many
    service engines there are.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._pace = Pace(clock)
        self._follows: dict[str, Follower] = {}
        self._coming: deque[JobStarted | tuple[Follower | None, int, JobEnded]] = deque()

    def began(self, errand: Errand, place: int = 0) -> None:
        """It was sent to one more service engine; its output is followed from `place` on."""
        self._follows[errand.id] = errand.feed.follow(place, self._pace)
        self._coming.append(JobStarted(id=errand.id))

    def ended(self, ended: JobEnded) -> None:
        """It has ended on one of them, or was not sent there."""
        follower, missed = self._follows.get(ended.id), 0
        if follower is not None and self._pace.late:
            missed = follower.behind
            follower.leave()
            follower = None
        self._coming.append((follower, missed, ended))

    def events(self) -> Iterator[JobEvent]:
        """What there is now; whoever takes one may wait before it takes the next."""
        while self._coming:
            each = self._coming.popleft()
            if isinstance(each, JobStarted):
                yield each
                continue
            follower, missed, ended = each
            while follower is not None and follower.behind:
                yield from self._printed(ended.id, follower)
            if missed:
                yield JobLeftOut(id=ended.id, bytes=missed)
            self._leave(ended.id)
            yield ended
        for id, follower in list(self._follows.items()):
            yield from self._printed(id, follower)

    def _printed(self, id: str, follower: Follower) -> Iterator[JobEvent]:
        for each in follower.take():
            if isinstance(each, Piece):
                yield JobOutput(id=id, stream="err" if each.error else "out", text=each.data.decode("utf-8", "replace"))
            else:
                yield JobLeftOut(id=id, bytes=each)

    def _leave(self, id: str) -> None:
        follower = self._follows.pop(id, None)
        if follower is not None:
            follower.leave()

    def leave(self) -> None:
        """Follow no longer."""
        for id in list(self._follows):
            self._leave(id)


def seen(result: JobResult, why: str) -> JobEnded:
    """What is told of a result, beside what was printed; `why` there is none."""
    return JobEnded(
        number=result.number,
        id=result.id,
        outcome=result.outcome,
        exit_status=result.exit_status,
        signal=result.signal,
        error=why,
        took_s=result.took_s,
    )


def printed(result: JobResult) -> Iterator[JobEvent]:
    """What is kept of what was printed, and how it ended."""
    if result.output:
        yield JobOutput(id=result.id, text=result.output)
    if result.error and result.outcome == "done":
        yield JobOutput(id=result.id, stream="err", text=result.error)
    yield seen(result, "" if result.outcome == "done" else result.error)
