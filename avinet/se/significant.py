"""Significant records of this service engine on their way to a node: at once, no more than may, a batch at a time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Raw
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from avinet.aio import Tasks
from avinet.dataplane.records import Record
from avinet.errors import AvinetError, Unavailable
from avinet.logs.live.significant import Rules
from avinet.logs.live.throttle import Throttle
from avinet.se.settings import SignificantSettings
from avinet.wire.config import Config
from avinet.wire.significant import BATCH, BATCH_BYTES, Significant, SignificantBatch, Why

GATHER_S = 0.5
"""How long one waits for others that go with it."""
RETRY_S = 5.0
_ENTRY_BYTES = 64

Send = Callable[[SignificantBatch], Awaitable[None]]
Listener = Callable[[Sequence[bytes]], None]


class _Waiting(NamedTuple):
    service: str
    why: Sequence[Why]
    line: bytes


class SignificantRecords:
    """Takes what is significant of all records, and sends it by whatever `attach` was last given.

    Without it, the latest wait, as many as there is room for. `others` are given the lines that may go, too.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, settings: SignificantSettings, boot: str, tasks: Tasks) -> None:
        self._clock = clock
        self._limit = settings.buffer_kib * 1024
        self._boot = boot
        self._tasks = tasks
        self._rules = Rules(Config())
        self._throttle = Throttle(clock.seconds, settings.per_second)
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._send: Send | None = None
        self._sending = False
        self._unanswered: SignificantBatch | None = None
        self._services: Counter[str] = Counter()
        """How many records in it are of which virtual service."""
        self._seq = 0
        self._timer: IDelayedCall | None = None
        self.others: list[Listener] = []

    def configure(self, config: Config) -> None:
        """Go by the rules in this configuration from now on."""
        self._rules = Rules(config)
        self._throttle.configure(config)

    def take(self, records: Sequence[Record], lines: Sequence[bytes]) -> None:
        """Records have come."""
        passed = []
        found = False
        for record, line, why in self._rules.chosen(records, lines):
            found = True
            if self._throttle.take(record.service):
                self._keep(_Waiting(record.service, why, line))
                passed.append(line)
        if passed:
            for each in self.others:
                each(passed)
        if found:
            self._soon(GATHER_S)

    def _keep(self, one: _Waiting) -> None:
        self._waiting.append(one)
        self._bytes += _size(one)
        while self._bytes > self._limit:
            oldest = self._waiting.popleft()
            self._bytes -= _size(oldest)
            self._throttle.hold(oldest.service, "full")

    @property
    def buffered(self) -> int:
        """How many bytes wait to be sent."""
        return self._bytes

    def attach(self, send: Send | None) -> None:
        """Send through `send` from now on; None while there is no tunnel."""
        self._send = send
        self._soon(0)

    def _soon(self, seconds: float) -> None:
        if self._timer is None and self._send is not None and not self._sending and self._has_any:
            self._timer = self._clock.callLater(seconds, self._due)

    @property
    def _has_any(self) -> bool:
        return bool(self._waiting or self._unanswered or self._throttle.has_held)

    def _due(self) -> None:
        self._timer = None
        if self._send is not None and not self._sending and self._has_any:
            self._tasks.spawn(self._send_one(self._send), "sending significant records")

    async def _send_one(self, send: Send) -> None:
        self._sending = True
        wait_s = RETRY_S
        if self._unanswered is None:
            self._unanswered = self._next()
        try:
            await send(self._unanswered)
            self._unanswered = None
            wait_s = GATHER_S
        except Unavailable:
            pass  # the same one is sent again, and whatever comes waits behind it
        except AvinetError as error:
            self.log.warn("the node does not take significant records: {why}", why=str(error))
            self._unanswered = None
            for service, records in self._services.items():
                self._throttle.hold(service, "refused", records)
        finally:
            self._sending = False
        self._soon(wait_s if send is self._send else 0)

    def _next(self) -> SignificantBatch:
        records: list[Significant] = []
        room = BATCH_BYTES
        self._services.clear()
        while self._waiting and len(records) < BATCH and len(self._waiting[0].line) <= room:
            one = self._waiting.popleft()
            self._bytes -= _size(one)
            room -= len(one.line)
            self._services[one.service] += 1
            records.append(Significant(why=list(one.why), record=Raw(one.line)))
        batch = SignificantBatch(boot=self._boot, seq=self._seq, records=records, held_back=self._throttle.held())
        self._seq += 1
        return batch

    def stop(self) -> None:
        """Send no more."""
        self._send = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _size(one: _Waiting) -> int:
    return len(one.line) + _ENTRY_BYTES


def sender(client: Any) -> Send:
    """Sends batches to the node behind the client of its `logs` service."""

    async def send(batch: SignificantBatch) -> None:
        await client.request("POST", "/v1/significant-logs", batch)

    return send
