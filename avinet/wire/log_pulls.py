"""Pulls of request logs: what operators order, how far it is on each service engine, and what became of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.message import Count, Id, Line, Message, Seconds, UnixTime
from avinet.wire.pull import Span
from avinet.wire.segment import NAME_LENGTH, Millis

TARGETS = 1000
"""How many service engines a pull may be of."""
SPANS = 8
"""How many gaps of numbers are told one by one."""
LONGEST_S = 7 * 86400

LogPullState = Literal["running", "done", "cancelled"]
EngineState = Literal["waiting", "sealing", "pulling", "done", "failed", "out-of-budget", "unreachable", "cancelled"]


class LogPullOrder(Message, frozen=True, kw_only=True):
    """Pull the request logs of the service engines `ids`, or of all whose labels match `selector`.

    Only segments with records of the virtual service `service` and of the time from `since_ms` to before `until_ms`,
    as far as these are given. What was in the archive before and was removed, as it was too old or too much, is fetched
    only `again`. It ends after `deadline_s`, and fetches no more than `budget_bytes` in all.
    """

    ids: Annotated[list[Id], Meta(max_length=TARGETS)] = []
    selector: Annotated[str, Meta(max_length=1024)] = ""
    service: Annotated[str, Meta(max_length=NAME_LENGTH)] = ""
    since_ms: Millis | None = None
    until_ms: Millis | None = None
    again: bool = False
    deadline_s: Annotated[float, Meta(ge=1, le=LONGEST_S)] = 3600.0
    budget_bytes: Count | None = None


class PulledEngine(Message, frozen=True, kw_only=True):
    """How far a pull is on one service engine; `why` it is not done, or that something was wrong beside that.

    Of `segments`, which have `size` bytes in all, `here` are in the archive, and `there_bytes` have been there before
    or have come. `archived` were put there by this pull, and `refused` were not what they should be. `bytes` came
    through the tunnel, more than once where that was so. `missing_records` are in no segment, and no gap tells of
    them: of these numbers the first are in `missing`. Beside `segments` there are those that were in the archive before
    and were `removed` from it, as they were too old or too many.
    """

    id: Id
    state: EngineState = "waiting"
    why: Line = ""
    segments: Count = 0
    here: Count = 0
    archived: Count = 0
    refused: Count = 0
    removed: Count = 0
    size: Count = 0
    there_bytes: Count = 0
    bytes: Count = 0
    missing_records: Count = 0
    missing: Annotated[list[Span], Meta(max_length=SPANS)] = []

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in ("waiting", "sealing", "pulling")


class LogPull(Message, frozen=True, kw_only=True):
    """A pull by `node`: of `targets` service engines `ended` have ended, `failed` of these not done.

    The other numbers are sums of those of its service engines. While it runs there are `bytes_per_s`, and, if it goes
    on like that, it takes `left_s` more.
    """

    id: Id
    operator: Line = ""
    node: Id
    order: LogPullOrder
    state: LogPullState = "running"
    created: UnixTime
    finished: UnixTime | None = None
    targets: Count = 0
    ended: Count = 0
    failed: Count = 0
    segments: Count = 0
    here: Count = 0
    archived: Count = 0
    removed: Count = 0
    size: Count = 0
    there_bytes: Count = 0
    bytes: Count = 0
    bytes_per_s: Annotated[float, Meta(ge=0)] = 0.0
    left_s: Seconds | None = None


class LogPullList(Message, frozen=True, kw_only=True):
    """Pulls, the latest first; `next` asks for those before. Of their orders the ids are left out."""

    items: list[LogPull]
    next: Annotated[str, Meta(max_length=256)] = ""


class LogPullSeen(Message, frozen=True, kw_only=True):
    """A pull as it is, and its service engines: all of them, or those of which there is news."""

    pull: LogPull
    engines: list[PulledEngine] = []
