"""What waits for a destination: a bounded queue of lines, and what is missing among them; batches of both. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from avinet.wire.report import ExportLoss

RECORDS = 2000
"""How many records are in a batch at most."""
NOTICES = 100


@dataclass(frozen=True)
class Notice:
    """Before the records that follow so many are missing, None where nobody knows, of between these times (ms)."""

    reason: ExportLoss
    records: int | None
    from_ms: int
    to_ms: int

    def and_(self, other: Notice) -> Notice:
        """Both as one."""
        known = self.records is not None and other.records is not None
        return replace(
            self,
            records=(self.records or 0) + (other.records or 0) if known else None,
            from_ms=min(self.from_ms, other.from_ms),
            to_ms=max(self.to_ms, other.to_ms),
        )


@dataclass(frozen=True)
class Batch:
    """What is sent at once: `notices` first."""

    notices: Sequence[Notice]
    lines: Sequence[bytes]

    @property
    def size(self) -> int:
        """How many bytes its lines have."""
        return sum(map(len, self.lines))


class Waiting:
    """Up to `limit_bytes` of lines, those of the batch under way among them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lines: deque[bytes] = deque()
        self._notices: dict[tuple[ExportLoss, bool], Notice] = {}
        self.held = 0
        """How many bytes wait, or are under way."""
        self.lost: Counter[ExportLoss] = Counter()
        """How many records were lost here, by reason."""
        self.unknown = 0
        """How often an unknown number of them was."""

    def append(self, lines: Sequence[bytes], now_ms: int) -> int:
        """Take `lines` as far as there is room; how many there was none for, which are lost as `full`."""
        for number, line in enumerate(lines):
            if self.held + len(line) > self._limit:
                left = len(lines) - number
                self.lose(Notice("full", left, now_ms, now_ms))
                return left
            self._lines.append(line)
            self.held += len(line)
        return 0

    def lose(self, notice: Notice) -> None:
        """Count what was lost here, to be told to the destination with the next batch."""
        if notice.records is None:
            self.unknown += 1
        else:
            self.lost[notice.reason] += notice.records
        self.tell(notice)

    def tell(self, notice: Notice) -> None:
        """Tell the destination of what is missing, wherever it was lost."""
        key = notice.reason, notice.records is None
        known = self._notices.get(key)
        self._notices[key] = notice if known is None else known.and_(notice)

    def next(self, most_bytes: int) -> Batch:
        """The next batch, of one line at least where there is one; then `done`."""
        notices, self._notices = list(self._notices.values()), {}
        lines: list[bytes] = []
        size = 0
        while self._lines and len(lines) < RECORDS and (not lines or size + len(self._lines[0]) <= most_bytes):
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        return Batch(notices, lines)

    def done(self, batch: Batch) -> None:
        """The batch has gone, or was given up: there is room again."""
        self.held -= batch.size

    def __bool__(self) -> bool:
        return bool(self._lines or self._notices)
