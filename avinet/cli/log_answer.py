"""Answers about request logs, for people and for spreadsheets: tables with bars and curves, and what is missing."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from avinet.cli.shown import escaped, one_line, table
from avinet.wire.answer import AnswerColumn, Complete, GapsOf, LogAnswer
from avinet.wire.query import LogQuery, Series, Top

_STEPS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR = 20
_WIDE = 100
_NAMED = 10
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell of text begins with that a spreadsheet would take for a formula."""


def show(query: LogQuery, answer: LogAnswer) -> None:
    """Print a table, the curve of each measure below it or a bar beside it, and what is missing."""
    heads = [each.name.upper() for each in answer.columns]
    rows: list[list[object]] = [
        [cell(each, value) for each, value in _zipped(answer.columns, row)] for row in answer.rows
    ]
    draws = _can_draw()
    if isinstance(query.get, Top) and draws and rows:
        values = [_number(row[-1]) or 0.0 for row in answer.rows]
        heads.append("")
        for row, value in zip(rows, values, strict=True):
            row.append(bar(value, max(values)))
    table(heads, rows)
    if isinstance(query.get, Series) and draws and answer.rows:
        print()
        _curves(query, query.get, answer)
    if answer.next:
        print(f"more: --after {one_line(escaped(answer.next))}")
    elif answer.complete.more:
        print("there are more than these")
    print(footer(answer))


def footer(answer: LogAnswer) -> str:
    """What the answer is made of, and what is missing in it, in one line."""
    count = answer.segments
    return f"{count} segment{'' if count == 1 else 's'}, {answer.took_ms} ms; {missing(answer.complete)}"


def missing(complete: Complete) -> str:
    """What an answer does not have, in one line."""
    parts = []
    gaps = complete.gaps
    if gaps.gaps:
        reasons = ", ".join(_reason(each) for each in gaps.reasons)
        least = "at least " if gaps.unknown else ""
        between = f" between {cell_time(gaps.from_ms or 0)} and {cell_time(gaps.to_ms or 0)}"
        parts.append(f"{least}{gaps.records} records ({reasons}){between}")
    if complete.damaged:
        parts.append(f"what is in {complete.damaged} damaged segment{'' if complete.damaged == 1 else 's'}")
    if complete.without:
        named = ", ".join(complete.nothing_of[:_NAMED]) + (", ..." if complete.without > _NAMED else "")
        parts.append(f"anything of {complete.without} service engine{'' if complete.without == 1 else 's'}: {named}")
    return one_line(escaped(f"missing: {'; '.join(parts)}")) if parts else "nothing is known to be missing"


def _reason(each: GapsOf) -> str:
    counted = f"{each.reason} {each.records}" if each.records or not each.unknown else f"{each.reason}:"
    if not each.unknown:
        return counted
    return f"{counted}{' and' if each.records else ''} nobody knows how many"


def write_csv(columns: Sequence[AnswerColumn], pages: Iterable[Sequence[Sequence[Any]]]) -> None:
    """Print rows as CSV (RFC 4180), page by page; what a spreadsheet would run is text, by an apostrophe before it."""
    writer = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([one_line(escaped(each.name)) for each in columns])
    terminal = sys.stdout.isatty()
    for rows in pages:
        for row in rows:
            writer.writerow([_plain(each, value, terminal) for each, value in _zipped(columns, row)])
        sys.stdout.flush()


def _plain(column: AnswerColumn, value: Any, terminal: bool) -> object:
    if isinstance(value, str):
        text = f"'{value}" if value.startswith(_FORMULA) else value
        return one_line(escaped(text)) if terminal else text
    if column.kind == "time" and value is not None:
        return cell_time(int(value)).replace(" ", "T")
    return value


def cell(column: AnswerColumn, value: Any) -> object:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if column.kind == "time":
        return cell_time(int(value))
    if column.kind == "float":
        return f"{value:.4g}" if column.name == "quantile" or abs(value) < 1 else f"{value:.1f}"
    return value


def cell_time(ms: int) -> str:
    """A time in UTC, with milliseconds where it has any."""
    try:
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ms // 1000))
    except (ValueError, OverflowError, OSError):
        return f"@{ms}"
    return f"{text}.{ms % 1000:03}Z" if ms % 1000 else f"{text}Z"


def bar(value: float, most: float) -> str:
    """A bar, as long as `value` is in comparison with `most`; what is more than nothing is seen."""
    if value <= 0 or most <= 0:
        return ""
    eighths = max(1, round(value / most * _BAR * 8))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def curve(values: Sequence[float | None], width: int) -> str:
    """A line of `width` characters at most: of those that share one the highest counts; none is a blank."""
    share = max(1, -(-len(values) // width))
    parts = [[each for each in values[at : at + share] if each is not None] for at in range(0, len(values), share)]
    highest = [max(part) if part else None for part in parts]
    most = max((each for each in highest if each is not None), default=0)
    return "".join(
        " " if each is None else _STEPS[min(7, int(max(each, 0) / most * 8))] if most > 0 else _STEPS[0]
        for each in highest
    )


def _curves(query: LogQuery, series: Series, answer: LogAnswer) -> None:
    """A curve for each measure, over the whole range that was asked for."""
    width_ms = series.bucket_s * 1000
    first, last = query.since_ms // width_ms, (query.until_ms - 1) // width_ms
    found = {row[0]: row for row in answer.rows}
    names = max(len(each.name) for each in answer.columns[1:])
    wide = max(10, min(_WIDE, shutil.get_terminal_size((_WIDE, 24)).columns) - names - 24)
    for at, column in enumerate(answer.columns[1:], start=1):
        nothing = 0 if column.kind == "int" else None
        times = (slot * width_ms for slot in range(first, last + 1))
        values = [_number(found[each][at]) if each in found else nothing for each in times]
        there = [each for each in values if each is not None]
        if there:
            name, lowest, highest = column.name, cell(column, min(there)), cell(column, max(there))
            print(f"{one_line(escaped(name)):<{names}}  {curve(values, wide)}  {lowest} to {highest}")


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, (int, float)) else None


def _zipped(columns: Sequence[AnswerColumn], row: Sequence[Any]) -> Iterable[tuple[AnswerColumn, Any]]:
    """The values of a row with their columns; one that is not of the answer's width is cut."""
    return zip(columns, row, strict=False)


def _can_draw() -> bool:
    try:
        (_STEPS + _EIGHTHS).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
