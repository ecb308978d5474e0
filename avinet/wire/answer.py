"""Answers to queries of request logs: rows under columns, and what is known to be missing in them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.log import Kind
from avinet.wire.message import Count, Id, Message
from avinet.wire.query import (
    KINDS,
    VALUES,
    Gaps,
    LogQuery,
    Measure,
    Millis,
    Name,
    Percentiles,
    Rows,
    Series,
    Top,
    Totals,
)

ANSWER_LIMIT_BYTES = 16 * 1024 * 1024


class AnswerColumn(Message, frozen=True, kw_only=True):
    """A column of an answer."""

    name: Name
    kind: Literal["int", "text", "time", "float"]


class GapsOf(Message, frozen=True, kw_only=True):
    """The gaps of one `reason`; see `GapsThere`."""

    reason: Name
    gaps: Count
    records: Count = 0
    unknown: Count = 0


class GapsThere(Message, frozen=True, kw_only=True):
    """What is known to be missing in the range: so many gaps, all within these bounds of time, by reason too.

    At least `records` are missing; of `unknown` of the gaps nobody knows how many.
    """

    gaps: Count = 0
    records: Count = 0
    unknown: Count = 0
    from_ms: Millis | None = None
    to_ms: Millis | None = None
    reasons: Annotated[list[GapsOf], Meta(max_length=16)] = []


class Complete(Message, frozen=True, kw_only=True):
    """What the answer does not have.

    `more`: there are rows behind these. `gaps`: records that were lost before they came here. `nothing_of`: service
    engines, the first `VALUES`, of which nothing is here for this range, `without` in number. `damaged`: segments that
    are here and cannot be read.
    """

    more: bool = False
    gaps: GapsThere = GapsThere()
    nothing_of: Annotated[list[Id], Meta(max_length=VALUES)] = []
    without: Count = 0
    damaged: Count = 0


class LogAnswer(Message, frozen=True, kw_only=True):
    """The rows of an answer, and what is missing in it; with `next` the page behind these rows is asked for.

    A value is null where there is none: the mean of nothing, a column that a record of an older version does not have.
    """

    columns: list[AnswerColumn]
    rows: list[list[int | float | str | None]] = []
    next: Annotated[str, Meta(max_length=256)] = ""
    complete: Complete = Complete()
    segments: Count = 0
    took_ms: Count = 0


_GAP: dict[str, Kind] = {
    "engine": "text",
    "generation": "int",
    "after": "int",
    "records": "int",
    "reason": "text",
    "from_ms": "time",
    "to_ms": "time",
}


def answer_columns(query: LogQuery) -> list[AnswerColumn]:
    """The columns of the answer to `query`."""
    match query.get:
        case Rows(columns=names):
            return [AnswerColumn(name=name, kind=KINDS[name]) for name in names]
        case Series(measures=measures):
            return [AnswerColumn(name="time", kind="time"), *map(_measured, measures)]
        case Top(columns=names, measure=measure):
            return [*(AnswerColumn(name=name, kind=KINDS[name]) for name in names), _measured(measure)]
        case Percentiles(column=name):
            return [AnswerColumn(name="quantile", kind="float"), AnswerColumn(name=name, kind="float")]
        case Totals(measures=measures):
            return [_measured(each) for each in measures]
        case Gaps():
            return [AnswerColumn(name=name, kind=kind) for name, kind in _GAP.items()]


def _measured(measure: Measure) -> AnswerColumn:
    return AnswerColumn(name=measure.name, kind="float" if measure.column else "int")
