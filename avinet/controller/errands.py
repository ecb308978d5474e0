"""One job on one service engine: sent once, followed to its end, asked for again by its id when the tunnel was lost.

What it prints is a feed, which is read no faster than those who follow it take it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, Tasks, pause, within
from avinet.controller.reverse import SignatureRefused
from avinet.errors import AvinetError, Conflict, Forbidden, Invalid, NotFound, PeerError, TimedOut, Unavailable
from avinet.feed import Feed
from avinet.transcript import Piece, Transcript, mark
from avinet.wire.command import (
    LONGEST_S,
    CommandEvent,
    CommandLeftOut,
    CommandOutput,
    CommandRequest,
    CommandStarted,
    Ended,
)
from avinet.wire.jobs import KEPT_OUTPUT_BYTES, JobOutcome, JobResult
from avinet.wire.message import encode

AWAY_S = 60.0
"""How long a service engine whose tunnel was lost in the middle of a job is waited for."""
LOOK_S = 1.0
MOST_BYTES = 1 << 60
AFTER_S = 30.0
"""How much later than its time a job must have ended there."""
_REFUSED = (Invalid, NotFound, Forbidden, SignatureRefused)
_KEPT_BYTES = 24 * 1024
"""What is kept of the beginning and of the end, and a piece more of each."""


class Asking(Protocol):
    """Reaches service engines; see `avinet.controller.reverse.Reverse`."""

    def run(self, engine_id: str, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        """Run a command: what it prints, and how it ends."""

    def output(self, engine_id: str, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        """The same of a job that was sent before, behind a place."""

    async def end(self, engine_id: str, job: str) -> None:
        """Have it end."""


class Errand:
    """What becomes of `request` on one service engine; `connected` tells whether it can be asked."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        tasks: Tasks,
        asking: Asking,
        connected: Callable[[str], bool],
        engine_id: str,
        request: CommandRequest,
        feed: Feed,
    ) -> None:
        self.id = engine_id
        self.feed = feed
        self.ended: Ended | None = None
        self.outcome: JobOutcome = "unknown"
        self.error: AvinetError | None = None
        """Why it has not ended, as far as is known here."""
        self.took_s = 0.0
        self._clock = clock
        self._tasks = tasks
        self._asking = asking
        self._connected = connected
        self._request = request
        self._began = False
        self._cancels = 0
        self._ending = False

    async def run(self) -> None:
        """See it to its end, or to where it is known that nothing more will be known; raises nothing of that."""
        began, limit_s = self._clock.seconds(), (self._request.timeout_s or LONGEST_S) + AFTER_S
        try:
            if not self._connected(self.id):
                self.outcome = "unreachable"
                raise Unavailable(f"service engine {self.id} is not connected")
            await within(self._clock, limit_s, self._to_the_end(), f"service engine {self.id} (its job)")
        except TimedOut as error:
            self.error = error
            self.cancel()
        except AvinetError as error:
            self.error = error
        finally:
            self.took_s = self._clock.seconds() - began
            self.feed.end()

    async def _to_the_end(self) -> None:
        try:
            await self._take(self._asking.run(self.id, self._request))
        except (*_REFUSED, Conflict) as error:
            self.outcome = "unknown" if self._began or isinstance(error, Conflict) else "refused"
            raise
        except (Unavailable, TimedOut) as error:
            await self._again(error)
        self.outcome = "done"

    async def _again(self, lost: AvinetError) -> None:
        """Ask for what came since, once the service engine is back. Raises why nothing more will be known."""
        self.log.info("job {job} goes on unseen on {id}: {why}", job=self._request.job, id=self.id, why=str(lost))
        until = self._clock.seconds() + AWAY_S
        while self._clock.seconds() < until:
            await pause(self._clock, LOOK_S)
            if not self._connected(self.id):
                continue
            place = self.feed.transcript.size
            try:
                if self._cancels:
                    self.cancel()
                await self._take(self._asking.output(self.id, self._request.job, place))
                return
            except NotFound:  # it has not come there, and whoever asks for it sees to that it never will
                self.outcome = "unknown" if self._began else "unreachable"
                raise
            except (Unavailable, TimedOut) as error:
                lost = error
            if self.feed.transcript.size > place:
                until = self._clock.seconds() + AWAY_S
        raise lost

    async def _take(self, events: AsyncGenerator[CommandEvent, None]) -> None:
        """Take what is told of the job until it has ended. Raises what `events` raise, and `Unavailable`."""
        started = False
        async with aclosing(events):
            async for event in events:
                self._began = True
                match event:
                    case CommandStarted():
                        if started:
                            raise PeerError(f"service engine {self.id} says twice that the job was started")
                        started = True
                        if self._cancels:  # it may have been said before there was anything to end
                            self.cancel()
                    case CommandOutput(stream=stream, text=text):
                        self.feed.write(stream == "err", text.encode())
                    case CommandLeftOut(bytes=count):
                        if self.feed.transcript.size + count > MOST_BYTES:
                            raise PeerError(f"service engine {self.id} says that it printed more than there is")
                        self.feed.skip(count)
                    case Ended():
                        self.ended = event
                        return
                if (room := self.feed.room()) is not None:
                    await room
        raise Unavailable(f"service engine {self.id} did not say how job {self._request.job} ended")

    def cancel(self) -> None:
        """Have it end there, as soon as that can be said; it is said again each time."""
        self._cancels += 1
        if not self._ending:
            self._tasks.spawn(self._end(), f"ending job {self._request.job} on {self.id}")

    async def _end(self) -> None:
        """Say it until it was heard; one whose tunnel is lost hears it when it is back."""
        self._ending, said, news = True, 0, News()
        try:
            while said < self._cancels:
                cancels = self._cancels
                try:
                    await self._asking.end(self.id, self._request.job)
                    said = cancels
                except NotFound:  # it has ended there, or has not started, whereupon it is said again
                    said = cancels
                except (Unavailable, TimedOut) as error:
                    if news.fresh(str(error)):
                        self.log.info(
                            "job {job} is not ended on {id} yet: {why}",
                            job=self._request.job,
                            id=self.id,
                            why=str(error),
                        )
                    if self.feed.ended or not self._connected(self.id):
                        return
                    await pause(self._clock, LOOK_S)
                    if self.feed.ended:
                        return
        finally:
            self._ending = False

    @property
    def why(self) -> str:
        """Why it is not known how it ended; empty when it is."""
        return str(self.error) if self.error is not None else ""

    def result(self, number: int) -> JobResult:
        """As it is kept."""
        kept = Transcript(_KEPT_BYTES, _KEPT_BYTES)
        for each in self.feed.transcript.after(0):
            if isinstance(each, Piece):
                kept.append(each.error, each.data)
            else:
                kept.skip(each)
        (output, some), (error, more) = (cut(each) for each in kept.texts())
        return JobResult(
            number=number,
            id=self.id,
            outcome=self.outcome,
            exit_status=self.ended.exit_status if self.ended is not None else None,
            signal=self.ended.signal if self.ended is not None else "",
            left_out=kept.left_out + some + more,
            output=output,
            error=error + self.why,
            took_s=round(self.took_s, 3),
        )


def cut(text: str, limit: int = KEPT_OUTPUT_BYTES) -> tuple[str, int]:
    """Both ends of a text, as much as is kept, and how many bytes that leaves out.

    It is as long as it is as JSON, where a control character takes six bytes.
    """
    if len(text) * 6 <= limit or len(encode(text)) <= limit:
        return text, 0
    half = limit // 12 - 32
    count = len(text[half : len(text) - half].encode())
    return text[:half] + mark(count) + text[len(text) - half :], count
