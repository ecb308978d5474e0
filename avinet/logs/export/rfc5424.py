"""Records as messages of syslog (RFC 5424), framed by counting octets (RFC 5425, section 4.3). Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from avinet.logs.export.batch import Batch, Notice
from avinet.logs.export.glance import glance, severity

APP = "avinet"
WARNING = 4
_NOT_PRINTED = re.compile(r"[^\x21-\x7e]")
_ESCAPED = re.compile(r'(["\\\]])')


@dataclass(frozen=True)
class Sender:
    """Who sends: the name of its host, its id, and under which enterprise number it says more of a record."""

    host: str
    engine: Callable[[], str]
    facility: int
    enterprise: int

    def frames(self, batch: Batch) -> list[bytes]:
        """The messages of a batch, each with its length in front."""
        return [_framed(self.notice(each)) for each in batch.notices] + [
            _framed(self.record(each)) for each in batch.lines
        ]

    def record(self, line: bytes) -> bytes:
        """A record: MSGID `request`, its JSON as the message."""
        seen = glance(line)
        data = [("se", self.engine()), ("service", seen.service)]
        return self._message(severity(seen.status), seen.time_ms, "request", data, line)

    def notice(self, notice: Notice) -> bytes:
        """What is missing: MSGID `gap`."""
        said: dict[str, object] = {"gap": notice.reason, "from_ms": notice.from_ms, "to_ms": notice.to_ms}
        if notice.records is not None:
            said["records"] = notice.records
        data = [("se", self.engine()), ("reason", str(notice.reason))]
        return self._message(WARNING, notice.to_ms, "gap", data, json.dumps(said).encode())

    def _message(self, level: int, at_ms: int, kind: str, data: Sequence[tuple[str, str]], text: bytes) -> bytes:
        shown = " ".join(f'{name}="{_value(value)}"' for name, value in data)
        head = f"<{self.facility * 8 + level}>1 {_time(at_ms)} {_host(self.host)} {APP} - {kind}"
        return f"{head} [{APP}@{self.enterprise} {shown}] ".encode() + text


def _framed(message: bytes) -> bytes:
    return b"%d %b" % (len(message), message)


def _time(at_ms: int) -> str:
    """A time as RFC 5424 has it, in UTC; a dash for what is none."""
    second = _second(at_ms // 1000) if at_ms > 0 else ""
    return f"{second}.{at_ms % 1000:03d}Z" if second else "-"


@lru_cache(1024)
def _second(at_s: int) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return ""


@lru_cache(64)
def _host(name: str) -> str:
    return _NOT_PRINTED.sub("", name)[:255] or "-"


@lru_cache(4096)
def _value(text: str) -> str:
    """A PARAM-VALUE: quote, backslash and closing bracket are escaped (section 6.3.3)."""
    return _ESCAPED.sub(r"\\\1", text)
