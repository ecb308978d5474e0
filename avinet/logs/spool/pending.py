"""What the spool has taken and not written yet: a bounded buffer of lines, and the losses among them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from avinet.logs.spool.losses import LIMIT, Loss, shrunk


@dataclass
class Batch:
    """What is written at once: `lines`, and `losses`, whose place is the number of lines of the batch before them."""

    lines: list[bytes] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)


class Pending:
    """Up to `limit_bytes` of lines, with one byte for the end of each."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lines: list[bytes] = []
        self._losses: list[Loss] = []
        self.held = 0
        """Bytes that are buffered, or on their way to the disk."""

    def append(self, lines: Sequence[bytes], now_ms: int) -> int:
        """Take `lines`, as far as there is room; how many there was none for, which are counted as a gap."""
        size = sum(map(len, lines)) + len(lines)
        taken = len(lines)
        while size > self._limit - self.held:
            taken -= 1
            size -= len(lines[taken]) + 1
        self._lines += lines[:taken]
        self.held += size
        if left := len(lines) - taken:
            self.lose(Loss(records=left, reason="full", from_ms=now_ms, to_ms=now_ms))
        return left

    def lose(self, loss: Loss) -> None:
        """Tell of `loss` behind what was taken so far, or at its own place."""
        here = len(self._lines) if loss.after is None else 0
        placed = Loss(
            at=here, after=loss.after, records=loss.records, reason=loss.reason, from_ms=loss.from_ms, to_ms=loss.to_ms
        )
        for number in range(len(self._losses) - 1, max(-1, len(self._losses) - 6), -1):
            each = self._losses[number]
            if (each.at, each.after, each.reason) == (here, loss.after, loss.reason):
                joined = shrunk([each, placed])
                if len(joined) == 1:
                    self._losses[number] = joined[0]
                    return
        self._losses.append(placed)
        if len(self._losses) > LIMIT:
            self._losses = shrunk(self._losses, LIMIT // 4)

    def take(self) -> Batch:
        """All of it, to be written; then `written` or `put_back`."""
        batch = Batch(self._lines, self._losses)
        self._lines, self._losses = [], []
        return batch

    def written(self, size: int) -> None:
        """`size` bytes of lines are on the disk."""
        self.held -= size

    def put_back(self, batch: Batch) -> None:
        """What is in `batch` was not written: it comes first again."""
        behind = len(batch.lines)
        for each in self._losses:
            batch.losses.append(
                Loss(at=each.at + (behind if each.after is None else 0), after=each.after, records=each.records,
                     reason=each.reason, from_ms=each.from_ms, to_ms=each.to_ms)
            )  # fmt: skip
        self._lines = batch.lines + self._lines
        self._losses = shrunk(batch.losses, LIMIT // 4) if len(batch.losses) > LIMIT else batch.losses

    def __bool__(self) -> bool:
        return bool(self._lines or self._losses)
