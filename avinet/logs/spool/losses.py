"""What is missing, as it is kept beside an open file until that is sealed. Pure, but for its JSON.

In an open file the place of a loss is the number of lines before it there, as the numbers of these lines are settled
only by sealing; what was removed for want of room is told with its own numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

from avinet.wire.segment import Gap, Reason, merged

LIMIT = 512
"""How many losses are kept beside one open file before they are merged."""


class Loss(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A gap whose place is `at` lines into the open file, or `after` a number where that is given."""

    at: int = 0
    after: int | None = None
    records: int | None = None
    reason: Reason
    from_ms: int
    to_ms: int


def loss_of(gap: Gap) -> Loss:
    """`gap` at its own place, wherever it is kept."""
    return Loss(after=gap.after, records=gap.records, reason=gap.reason, from_ms=gap.from_ms, to_ms=gap.to_ms)


def shrunk(losses: Iterable[Loss], limit: int = LIMIT) -> list[Loss]:
    """`losses` with those of one place and reason as one, and at most `limit` of either sort of place."""
    known = list(losses)
    here = merged([_as_gap(each, each.at) for each in known if each.after is None], limit)
    there = merged([_as_gap(each, each.after) for each in known if each.after is not None], limit)
    return [loss_of(gap) for gap in there] + [
        Loss(at=gap.after, records=gap.records, reason=gap.reason, from_ms=gap.from_ms, to_ms=gap.to_ms) for gap in here
    ]


def settled(losses: Iterable[Loss], first: int, unfit: Sequence[int]) -> list[Gap]:
    """The gaps of an open file whose first record has the number `first`.

    `unfit` are the places (from 0, ascending) of the lines that are no records: these have no number.
    """
    gaps = []
    for each in losses:
        after = each.after
        if after is None:
            after = first - 1 + each.at - bisect_left(unfit, each.at)
        gaps.append(_as_gap(each, after))
    return gaps


def _as_gap(loss: Loss, after: int) -> Gap:
    return Gap(after=after, records=loss.records, reason=loss.reason, from_ms=loss.from_ms, to_ms=loss.to_ms)


def written(losses: Iterable[Loss]) -> bytes:
    """One loss a line."""
    return b"".join(msgspec.json.encode(each) + b"\n" for each in losses)


def read(data: bytes) -> list[Loss]:
    """The losses in `data`; half a last line, and what is none, is left out: a crash tells of itself."""
    result = []
    for line in data.split(b"\n")[:-1]:
        try:
            result.append(msgspec.json.decode(line, type=Loss))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return result
