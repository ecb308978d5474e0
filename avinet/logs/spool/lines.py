"""Lines of the data plane as records: what is not fit in one becomes absent, and what is none is told apart. Pure.

This is the careful way, for files in which something is not as it should be; it goes line by line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from avinet.wire.log import ABSENT, COLUMNS, SEQUENCE, TEXT_BYTES, Column

LONGEST_MS = 2**53
"""Times are below this: JSON numbers are exact up to here."""
TIME = "t"
_Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Time = Annotated[int, Meta(ge=1, lt=LONGEST_MS)]
IN_LINES = tuple(column for column in COLUMNS if column is not SEQUENCE)
"""The columns that lines have."""


def absent(column: Column) -> int | str:
    """What stands in a column for what a line does not say."""
    if column.kind == "text":
        return ""
    return ABSENT if column.name.endswith("_ms") or column.name == "status" else 0


Record: Any = msgspec.defstruct(
    "Record",
    [
        (column.key, _Time)
        if column.kind == "time"
        else (column.key, str if column.kind == "text" else _Int, absent(column))
        for column in IN_LINES
    ],
)
"""A line that is fit, by its short keys."""
_fit = msgspec.json.Decoder(Record)
_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


def record(line: bytes) -> Any | None:
    """The record in `line`, every key in it; None when it is no object with a time: such a line is no record."""
    if len(line) <= TEXT_BYTES:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _fit.decode(line)
    try:
        said = _any.decode(line.decode("utf-8", "replace").encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    time = _whole(said.get(TIME))
    if time is None or not 1 <= time < LONGEST_MS:
        return None
    fit = {column.key: _value(column, said.get(column.key)) for column in IN_LINES}
    return Record(**{**fit, TIME: time})


def _value(column: Column, said: object) -> int | str:
    if column.kind == "text":
        return _cut(said) if isinstance(said, str) else ""
    number = _whole(said)
    return absent(column) if number is None else number


def _whole(said: object) -> int | None:
    """`said` as a number of 64 bits, if it is one."""
    if isinstance(said, float) and said.is_integer():
        said = int(said)
    if isinstance(said, bool) or not isinstance(said, int):
        return None
    return said if -(2**63) <= said < 2**63 else None


def _cut(text: str) -> str:
    """`text` as far as it is kept, in whole characters."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= TEXT_BYTES else data[:TEXT_BYTES].decode("utf-8", "ignore")


def mended(lines: Iterable[bytes], unfit: list[int], *, long_ones: bool = False) -> Iterator[bytes]:
    """The records among `lines` as lines in which every key is; the places of the others go to `unfit`.

    With `long_ones` only those are looked at in which a text may have to be cut, and the others stay as they are.
    """
    for place, line in enumerate(lines):
        if long_ones and len(line) <= TEXT_BYTES:
            yield line + b"\n"
            continue
        found = record(line)
        if found is None:
            unfit.append(place)
        else:
            yield _encode(found) + b"\n"
