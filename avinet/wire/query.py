"""Queries of request logs: the one closed model that everybody asks with.

A query names columns of `avinet.wire.log` and values, and never a language: what it costs is bounded by its fields. All
times are milliseconds since 1970-01-01T00:00:00Z, and a range ends before its `until_ms`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from avinet.labels import LIMIT_CHARS
from avinet.wire.log import COLUMNS, TEXT_BYTES, Kind
from avinet.wire.message import Count, Id, Message

QUERY_LIMIT_BYTES = 1024 * 1024
LONGEST_DAYS = 400
ROWS, BUCKETS, GROUPS, VALUES = 1000, 2000, 100, 100
"""The most rows of a page, buckets of a series, groups of a top list, and values of a filter."""
ENGINES = 10_000
"""The most service engines that one query may name."""
_DAY_MS = 86_400_000

KINDS: dict[str, Kind] = {column.name: column.kind for column in COLUMNS} | {"engine": "text"}
"""What may be asked for: the columns of a record, and the id of the service engine that it is from."""
MEASURED = tuple(each for each in KINDS if each.endswith("_ms") or each.startswith("bytes_"))
"""The columns of which there are means and percentiles; in those of milliseconds an absent value does not count."""

Millis = Annotated[int, Meta(ge=0, lt=2**53, description="milliseconds since 1970-01-01T00:00:00Z")]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=TEXT_BYTES)]
Name = Annotated[str, Meta(max_length=64)]
Quantile = Annotated[float, Meta(ge=0, le=1)]
Op = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "prefix", "contains"]
_OPS: dict[Kind, tuple[Op, ...]] = {
    "text": ("eq", "ne", "in", "prefix", "contains"),
    "int": ("eq", "ne", "lt", "le", "gt", "ge", "in"),
    "time": ("eq", "ne", "lt", "le", "gt", "ge", "in"),
}


class Filter(Message, frozen=True, kw_only=True):
    """What a record must be to count: its `column` compared by `op` with the one of `values`, or with each for `in`.

    Texts are compared byte for byte, and are `eq`, `ne`, `in`, begin with a `prefix` or `contains` the value; a `%` is
    a percent sign.
    """

    column: Name
    op: Op
    values: Annotated[list[Whole | Text], Meta(min_length=1, max_length=VALUES)]

    def __post_init__(self) -> None:
        kind = _kind("column", self.column, KINDS)
        if self.op not in _OPS[kind]:
            raise ValueError(f"op {self.op} does not go with {self.column}, use one of {', '.join(_OPS[kind])}")
        if self.op != "in" and len(self.values) != 1:
            raise ValueError(f"values must be one for op {self.op}, and not {len(self.values)}")
        wanted = str if kind == "text" else int
        if any(type(each) is not wanted for each in self.values):
            raise ValueError(f"values must be {'texts' if wanted is str else 'whole numbers'} for {self.column}")


class Measure(Message, frozen=True, kw_only=True):
    """What is counted over many records.

    `requests`; `errors`: those with a status of 500 and more, and those that nobody answered and no server took;
    `bytes_in` and `bytes_out`; the `mean` of a `column`, or its exact `percentile` at `quantile`, between the two
    values next to it where it falls between them.
    """

    of: Literal["requests", "errors", "bytes_in", "bytes_out", "mean", "percentile"]
    column: Name = ""
    quantile: Quantile | None = None

    def __post_init__(self) -> None:
        if self.of in ("mean", "percentile"):
            _kind("column", self.column, MEASURED)
        elif self.column:
            raise ValueError(f"column is for mean and percentile, and not for {self.of}")
        if (self.of == "percentile") != (self.quantile is not None):
            raise ValueError("quantile is needed for a percentile, and for that alone")

    @property
    def name(self) -> str:
        """What the column of the answer is called: `requests`, `mean_total_ms`, `p99_total_ms`, `p99.9_total_ms`."""
        if self.quantile is not None:
            return f"p{float(f'{self.quantile * 100:.12g}'):g}_{self.column}"
        return f"mean_{self.column}" if self.of == "mean" else self.of


Measures = Annotated[list[Measure], Meta(min_length=1, max_length=10)]


class Rows(Message, frozen=True, kw_only=True, tag_field="shape", tag="rows"):
    """The records themselves, at most `limit` of them, by time; `after` is the `next` of the page before."""

    columns: Annotated[list[Name], Meta(min_length=1, max_length=len(KINDS))]
    limit: Annotated[int, Meta(ge=1, le=ROWS)] = 100
    order: Literal["newest", "oldest"] = "newest"
    after: Annotated[str, Meta(max_length=256)] = ""

    def __post_init__(self) -> None:
        _names("columns", self.columns, KINDS)
        if self.after:
            read_cursor(self.after)


class Series(Message, frozen=True, kw_only=True, tag_field="shape", tag="series"):
    """The measures of each `bucket_s`, which begin at whole multiples of it; one without a record is left out."""

    bucket_s: Annotated[int, Meta(ge=1, le=LONGEST_DAYS * 86400)]
    measures: Measures

    def __post_init__(self) -> None:
        _distinct("measures", [each.name for each in self.measures])


class Top(Message, frozen=True, kw_only=True, tag_field="shape", tag="top"):
    """The `n` groups of equal `columns` that have the most of `measure`; of equal ones the first by their columns."""

    columns: Annotated[list[Name], Meta(min_length=1, max_length=3)]
    measure: Measure = Measure(of="requests")
    n: Annotated[int, Meta(ge=1, le=GROUPS)] = 10

    def __post_init__(self) -> None:
        _names("columns", self.columns, KINDS)
        _distinct("columns and measure", [*self.columns, self.measure.name])


class Percentiles(Message, frozen=True, kw_only=True, tag_field="shape", tag="percentiles"):
    """The exact percentiles of `column` at `quantiles`, between two values where they fall between them."""

    column: Name
    quantiles: Annotated[tuple[Quantile, ...], Meta(min_length=1, max_length=20)] = (0.5, 0.9, 0.95, 0.99, 0.999)

    def __post_init__(self) -> None:
        _kind("column", self.column, MEASURED)


class Totals(Message, frozen=True, kw_only=True, tag_field="shape", tag="totals"):
    """The measures over all records."""

    measures: Measures

    def __post_init__(self) -> None:
        _distinct("measures", [each.name for each in self.measures])


class Gaps(Message, frozen=True, kw_only=True, tag_field="shape", tag="gaps"):
    """What is known to be missing, at most `limit` of it, by time."""

    limit: Annotated[int, Meta(ge=1, le=ROWS)] = 100


Shape = Rows | Series | Top | Percentiles | Totals | Gaps


class LogQuery(Message, frozen=True, kw_only=True):
    """What is asked of the records from `since_ms` until before `until_ms` that pass all `filters`.

    Of service engines those count that are named in `engines`, or whose labels match `selector`; without either all.
    Without `services` those of all virtual services count.
    """

    since_ms: Millis
    until_ms: Millis
    engines: Annotated[list[Id], Meta(max_length=ENGINES)] = []
    selector: Annotated[str, Meta(max_length=LIMIT_CHARS)] = ""
    services: Annotated[list[Id], Meta(max_length=VALUES)] = []
    filters: Annotated[list[Filter], Meta(max_length=32)] = []
    get: Shape

    def __post_init__(self) -> None:
        if self.until_ms <= self.since_ms:
            raise ValueError("until_ms must be after since_ms")
        if self.until_ms - self.since_ms > LONGEST_DAYS * _DAY_MS:
            raise ValueError(f"until_ms may be at most {LONGEST_DAYS} days after since_ms")
        if self.selector and self.engines:
            raise ValueError("selector and engines exclude one another")
        if isinstance(self.get, Series):
            bucket_ms = self.get.bucket_s * 1000
            buckets = (self.until_ms - 1) // bucket_ms - self.since_ms // bucket_ms + 1
            if buckets > BUCKETS:
                raise ValueError(f"get.bucket_s makes {buckets} buckets of this range, and {BUCKETS} are allowed")
        if isinstance(self.get, Gaps) and (self.services or self.filters):
            raise ValueError("services and filters cannot be asked of gaps: nobody knows what was in them")


class Position(Message, frozen=True, kw_only=True):
    """Where a page ends: the last record of it. Each generation of a service engine has numbers of its own."""

    time: Whole
    engine: Id
    generation: Count
    seq: Whole


ORDER = Position.__struct_fields__
"""What records are in the order of."""


def cursor(position: Position) -> str:
    """`position` as what the next page is asked for with."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(position)).rstrip(b"=").decode()


def read_cursor(text: str) -> Position:
    """The position in a cursor. Raises `ValueError`."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.msgpack.decode(data, type=Position)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise ValueError("after is not the `next` of an answer") from None


def _kind(field: str, name: str, known: Iterable[str]) -> Kind:
    """What the column `name` holds. Raises `ValueError` where it is none of the `known`."""
    if name not in known:
        meant = f"one of {', '.join(known)}" if known is MEASURED else "a column of request logs"
        raise ValueError(f"{field} {name[:64]!r} is not {meant}")
    return KINDS[name]


def _names(field: str, names: list[str], known: Iterable[str]) -> None:
    for name in names:
        _kind(field, name, known)
    _distinct(field, names)


def _distinct(field: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{field} has one of them twice")
