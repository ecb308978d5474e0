"""One destination: takes lines, sends them batch by batch, and tells of what it has lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, Tasks, pause, within
from avinet.backoff import Backoff
from avinet.dataplane.interface import Why
from avinet.errors import AvinetError, PeerError, TimedOut, Unavailable
from avinet.feed import Bell
from avinet.logs.export.batch import Batch, Notice, Waiting
from avinet.logs.export.settings import Export
from avinet.wire.report import ExportState

GATHER_S = 0.2
"""How long one line waits for others that go with it."""
STOP_S = 2.0
"""How long the end of the process waits for what is on its way."""
REFUSED = 3
"""One that does not take a batch, and will not, is treated as if it had failed so often."""
LOG_S = 60.0
"""How often it is logged that there is no room."""


class Sent(NamedTuple):
    """Of a batch, `refused` records were not taken, and `why`; `unsure`: of those before, some may not have arrived."""

    refused: int = 0
    why: str = ""
    unsure: bool = False


class Destination(Protocol):
    """Whoever takes batches, one after the other."""

    where: str
    changed: Callable[[], None]
    """Is called when there is something to send `again`."""

    @property
    def again(self) -> bool:
        """Whether some of what was sent may not have arrived, and goes with the next batch once more."""

    async def send(self, batch: Batch) -> Sent:
        """Done when there is room for the next one. Raises `Unavailable` or `PeerError`, and then the same batch comes
        again; another `AvinetError` when it is not taken and will not be.
        """

    async def close(self) -> None:
        """Nothing more is sent."""


class Exporter:
    """Sends to `destination` what `take` is given. `wall` is the time in seconds since 1970. Stop it before `tasks`."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        settings: Export,
        destination: Destination,
        wall: Callable[[], float],
        random: Callable[[], float],
        tasks: Tasks,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._destination = destination
        self._wall = wall
        self._random = random
        self._tasks = tasks
        self._backoff = Backoff(0.5, settings.retry_cap_s)
        self._waiting = Waiting(settings.buffer_mib * 1024 * 1024)
        self._batch: Batch | None = None
        self._news = News()
        self._bell, self._empty = Bell(), Bell()
        self._sent = self._failures = 0
        self._problem = ""
        self._full_at = -LOG_S
        self._stopping = False
        destination.changed = self._bell.ring

    def start(self) -> None:
        """Begin to send."""
        self._tasks.spawn(self._run(), f"exporting to {self.settings.name}")

    def take(self, lines: Sequence[bytes]) -> None:
        """More lines. Those that there is no room for are lost, and counted."""
        if self._waiting.append(lines, self._now_ms()) and self._clock.seconds() - self._full_at >= LOG_S:
            self._full_at = self._clock.seconds()
            self.log.warn("export {name}: there is no room; what comes is counted as lost", name=self.settings.name)
        self._bell.ring()

    def missing(self, reason: Why, records: int | None, from_ms: int | None = None, to_ms: int | None = None) -> None:
        """Records are missing that never came here: the destination is told."""
        now = self._now_ms()
        self._waiting.tell(
            Notice(reason, records, now if from_ms is None else from_ms, now if to_ms is None else to_ms)
        )
        self._bell.ring()

    @property
    def state(self) -> ExportState:
        """What became of it so far."""
        waiting = self._waiting
        return ExportState(
            name=self.settings.name,
            kind=self.settings.kind,
            what=self.settings.what,
            sent=self._sent,
            waiting_bytes=waiting.held,
            lost={reason: count for reason, count in sorted(waiting.lost.items()) if count},
            unknown=waiting.unknown,
            problem=self._problem,
        )

    async def stop(self) -> None:
        """Send what is there, as far as that is quick."""
        self._stopping = True
        self._bell.ring()
        if self._batch is not None or self._waiting:
            try:
                await within(self._clock, STOP_S, self._empty.wait(), f"export {self.settings.name}")
            except TimedOut:
                self.log.warn("export {name}: some is not sent at the end", name=self.settings.name)
        await self._destination.close()

    async def _run(self) -> None:
        while True:
            if self._batch is None:
                await self._some()
                self._batch = self._waiting.next(self.settings.batch_kib * 1024)
            if not await self._sent_one(self._batch):
                continue
            self._waiting.done(self._batch)
            self._batch = None
            if not self._waiting:
                self._empty.ring()

    async def _some(self) -> None:
        """Wait until there is something to send."""
        while not self._waiting and not self._destination.again:
            await self._bell.wait()
        if self._waiting.held < self.settings.batch_kib * 512 and not self._stopping:
            await pause(self._clock, GATHER_S)

    async def _sent_one(self, batch: Batch) -> bool:
        """Send it, if the destination takes it now. Whether it need not be sent again."""
        try:
            where = self._destination.where
            sent = await within(self._clock, self.settings.timeout_s, self._destination.send(batch), where)
        except (Unavailable, PeerError) as error:
            self._say(str(error), "it is tried again")
            after_s = error.retry_after_s if isinstance(error, Unavailable) else 0.0
            delay_s = self._backoff.delay_s(self._failures, self._random, after_s if after_s > 1 else 0.0)
            self._failures += 1
            await pause(self._clock, delay_s)
            return False
        except AvinetError as error:
            sent = Sent(len(batch.lines), str(error))
            for each in batch.notices:
                self._waiting.tell(each)
            await pause(self._clock, self._backoff.delay_s(REFUSED, self._random))
        self._failures = 0
        self._say(sent.why, "some is lost")
        now = self._now_ms()
        refused = min(sent.refused, len(batch.lines))
        if refused:
            self._waiting.lose(Notice("refused", refused, now, now))
        if sent.unsure:
            self._waiting.lose(Notice("connection", None, now, now))
        self._sent += len(batch.lines) - refused
        return True

    def _say(self, why: str, then: str) -> None:
        text = "".join(each if each.isprintable() else "?" for each in why)[:500]
        self._problem = text
        if self._news.fresh(text):
            self.log.warn("export {name}: {why}; {then}", name=self.settings.name, why=text, then=then)

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)
