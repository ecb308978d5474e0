"""What is typed, as a query of request logs: values go into its fields, and nothing is ever put into a language."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from avinet.errors import Invalid
from avinet.units import parse_seconds
from avinet.wire.message import convert
from avinet.wire.query import KINDS, LONGEST_DAYS, ROWS
from avinet.wire.saved_query import LogQuestion

COLUMNS = "time,engine,service,client,method,path,status,total_ms"
_OPS = {"=": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "^=": "prefix", "*=": "contains"}
_WHERE = re.compile(r"\s*([a-z_]+)\s*(!=|<=|>=|\^=|\*=|=|<|>)(.*)\Z", re.DOTALL)
_PERCENTILE = re.compile(r"p?(\d{1,3}(?:\.\d{1,6})?)\Z")
_MEASURE = re.compile(r"(mean|p\d{1,3}(?:\.\d{1,6})?)_([a-z_]+)\Z")
PLAIN = ("requests", "errors", "bytes_in", "bytes_out")
_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000


@dataclass(frozen=True, kw_only=True)
class Typed:
    """The options of `avictl logs query` that make the query; None and empty: not given."""

    since: str | None
    until: str | None
    engines: Sequence[str]
    selector: str | None
    services: Sequence[str]
    where: Sequence[str]
    by: str | None
    top: int | None
    measures: Sequence[str]
    percentiles: Sequence[str]
    of: str
    every: str | None
    rows: bool
    columns: str | None
    oldest: bool
    after: str | None
    gaps: bool
    limit: int | None

    @property
    def shaped(self) -> bool:
        """Whether anything but times and places was given."""
        return (
            bool(self.where or self.by or self.top or self.measures or self.percentiles or self.every or self.gaps)
            or self._wants_rows
        )

    @property
    def _wants_rows(self) -> bool:
        return self.rows or self.columns is not None or self.after is not None or self.oldest

    def question(self) -> LogQuestion:
        """The query. Raises `Invalid`, or `click.UsageError`."""
        plain: dict[str, Any] = {"since": {"ago_ms": _HOUR_MS}, "filters": filters(self.where), "get": self._get()}
        return convert(plain | self.places(), LogQuestion, "the query")

    def places(self) -> dict[str, Any]:
        """Those of the fields that say of when and where records are. Raises `Invalid`."""
        found: dict[str, Any] = {}
        for name, text in (("since", self.since), ("until", self.until)):
            if text is not None:
                found[name] = when(text)
        if self.engines:
            found["engines"] = [each for text in self.engines for each in text.split(",")]
        if self.selector is not None:
            if not self.selector.strip(" ,"):
                raise click.UsageError("the label expression is empty: say which service engines")
            found["selector"] = self.selector
        if self.services:
            found["services"] = [each for text in self.services for each in text.split(",")]
        return found

    def _get(self) -> dict[str, Any]:
        """The shape of the answer."""
        chosen = {
            "--rows": self._wants_rows,
            "--every": self.every is not None,
            "--by": self.by is not None,
            "--gaps": self.gaps,
        }
        given = [name for name, there in chosen.items() if there]
        if len(given) > 1:
            raise click.UsageError(f"{given[0]} and {given[1]} exclude one another")
        if self.top is not None and self.by is None:
            raise click.UsageError("--top needs --by: say of what")
        if (self.measures or self.percentiles) and given in (["--rows"], ["--gaps"]):
            raise click.UsageError(f"{given[0]} has no measures: leave --measure and --percentile out")
        if self._wants_rows:
            return self._records()
        if self.gaps:
            return {"shape": "gaps", "limit": self._page()}
        if self.limit is not None:
            instead = "with --by say --top" if self.by is not None else "add --rows for the records themselves"
            raise click.UsageError(f"--limit is for --rows and --gaps; {instead}")
        if self.every is not None:
            return {
                "shape": "series",
                "bucket_s": _bucket_s(self.every),
                "measures": self._measures("requests", "errors"),
            }
        if self.by is not None:
            return self._top(self.by.split(","))
        if self.percentiles and not self.measures:
            return {"shape": "percentiles", "column": self.of, "quantiles": self._quantiles()}
        some = ("requests", "errors", "bytes_in", "bytes_out", "mean_total_ms", "p99_total_ms")
        return {"shape": "totals", "measures": self._measures(*some)}

    def _records(self) -> dict[str, Any]:
        columns = list(KINDS) if self.columns == "all" else (self.columns or COLUMNS).split(",")
        order = "oldest" if self.oldest else "newest"
        return {"shape": "rows", "columns": columns, "limit": self._page(), "order": order, "after": self.after or ""}

    def _page(self) -> int:
        return min(self.limit or 100, ROWS)

    def _top(self, columns: list[str]) -> dict[str, Any]:
        measures = self._measures("requests")
        if len(measures) > 1:
            raise click.UsageError("--by takes one measure")
        return {"shape": "top", "columns": columns, "measure": measures[0], "n": self.top or 10}

    def _quantiles(self) -> list[float]:
        return [_quantile(each) for text in self.percentiles for each in text.split(",")]

    def _measures(self, *default: str) -> list[dict[str, Any]]:
        found = [measure(each) for text in self.measures for each in text.split(",")]
        found += [{"of": "percentile", "column": self.of, "quantile": each} for each in self._quantiles()]
        return found or [measure(each) for each in default]


def when(text: str) -> dict[str, Any]:
    """A time: `now`, how long ago (`2h`), or a date with or without a time of day, UTC if it says nothing else."""
    text = text.strip()
    if text == "now":
        return {"ago_ms": 0}
    if "-" not in text[1:]:
        ago_ms = int(parse_seconds(text) * 1000)
        if ago_ms > LONGEST_DAYS * _DAY_MS:
            raise Invalid(f"{text} ago is too long: a query may be of {LONGEST_DAYS} days at most")
        return {"ago_ms": ago_ms}
    try:
        found = datetime.fromisoformat(text)
        at_ms = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Invalid(f"{text!r} is no time", hint="write it as 2h, 2026-11-29 or 2026-11-29T18:30:00Z") from None
    return {"at_ms": at_ms}


def filters(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Filters from `COLUMN=VALUE` and the like; of several values that one column may equal each will do."""
    found: list[dict[str, Any]] = []
    equal: dict[str, dict[str, Any]] = {}
    for text in texts:
        match = _WHERE.match(text)
        if match is None:
            raise Invalid(f"{text[:80]!r} is no condition", hint=f"write it as status>=500; there are {' '.join(_OPS)}")
        column, sign, value = match.groups()
        value = _value(column, value)
        if sign == "=" and column in equal:
            equal[column]["op"] = "in"
            equal[column]["values"].append(value)
            continue
        each = {"column": column, "op": _OPS[sign], "values": [value]}
        if sign == "=":
            equal[column] = each
        found.append(each)
    return found


def _value(column: str, text: str) -> Any:
    """What is compared with `column`, of its kind."""
    kind = KINDS.get(column)
    if kind is None:
        raise Invalid(f"{column[:64]!r} is not a column of request logs", hint=_meant(column))
    if kind == "text":
        return text
    text = text.strip()
    if re.fullmatch(r"-?[0-9]{1,19}", text):
        return int(text)
    if kind == "time" and (at_ms := when(text).get("at_ms")) is not None:
        return at_ms
    raise Invalid(f"{text[:80]!r} is no {'time' if kind == 'time' else 'number'}, which {column} is compared with")


def _meant(column: str) -> str:
    close = difflib.get_close_matches(column, KINDS, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(KINDS)}"


def measure(text: str) -> dict[str, Any]:
    """A measure by the name that its column in the answer has: `requests`, `mean_total_ms`, `p99_total_ms`."""
    text = text.strip()
    if text in PLAIN:
        return {"of": text}
    match = _MEASURE.match(text)
    if match is None:
        raise Invalid(f"{text[:80]!r} is no measure", hint=f"there are {', '.join(PLAIN)}, mean_COLUMN and pN_COLUMN")
    what, column = match.groups()
    if what == "mean":
        return {"of": "mean", "column": column}
    return {"of": "percentile", "column": column, "quantile": _quantile(what)}


def _quantile(text: str) -> float:
    match = _PERCENTILE.match(text.strip())
    if match is None or float(match[1]) > 100:
        raise Invalid(f"{text[:80]!r} is no percentile", hint="write it as 99 or 99.9")
    return round(float(match[1]) / 100, 8)


def _bucket_s(text: str) -> int:
    seconds = parse_seconds(text)
    if seconds < 1 or seconds % 1:
        raise Invalid(f"--every must be whole seconds, and not {text}")
    return int(seconds)


def merged(question: LogQuestion, typed: Typed) -> LogQuestion:
    """`question`, of other times and places where these were typed."""
    places = typed.places()
    if "engines" in places:
        places.setdefault("selector", "")
    elif "selector" in places:
        places.setdefault("engines", [])
    return convert({**msgspec.to_builtins(question), **places}, LogQuestion, "the query")
