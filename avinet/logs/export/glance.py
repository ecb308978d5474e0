"""What an exporter has to know of a line without reading all of it: its time, virtual service and status. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE = re.compile(rb'\{"t":(\d{1,15}),"s":"([^"\\]{0,64})"')
_STATUS = re.compile(rb'"st":(-?\d{1,3})[,}]')
"""In a text it cannot stand like that: quotes in one are escaped."""


class Glance(NamedTuple):
    """When it was (ms since 1970), of which virtual service, with which status; 0 and empty where that is unclear."""

    time_ms: int
    service: str
    status: int


def glance(line: bytes) -> Glance:
    """A look at a line of `avinet.wire.log`, whose keys are in the order of the schema."""
    begin, status = _LINE.match(line), _STATUS.search(line)
    return Glance(
        int(begin[1]) if begin else 0,
        begin[2].decode("utf-8", "replace") if begin else "",
        int(status[1]) if status else 0,
    )


def severity(status: int) -> int:
    """The severity of a record by its status, as syslog counts (RFC 5424, section 6.2.1): error, notice, or info."""
    return 3 if status >= 500 else 5 if status >= 400 or status < 0 else 6
