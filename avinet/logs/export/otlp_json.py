"""Records as logs of OpenTelemetry in the JSON encoding of OTLP 1.x, and what a collector answers. Pure.

Names of attributes are those of the semantic conventions where these have one, else begin with `avinet.`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from avinet import __version__
from avinet.dataplane.records import Record
from avinet.logs.export.batch import Batch, Notice

SCOPE = "avinet.request-logs"
_NUMBERS = {3: (17, "ERROR"), 4: (13, "WARN"), 5: (10, "INFO2"), 6: (9, "INFO")}
"""SeverityNumber and text for a severity of syslog (appendix B of the data model)."""
NAMES = {
    "method": "http.request.method",
    "status": "http.response.status_code",
    "host": "server.address",
    "path": "url.path",
    "query": "url.query",
    "client": "client.address",
    "client_port": "client.port",
    "user_agent": "user_agent.original",
    "referer": "http.request.header.referer",
    "tls_version": "avinet.tls.version",
    "tls_cipher": "tls.cipher",
    "sni": "tls.client.server_name",
}
_decoder = msgspec.json.Decoder(Record)


class _Text(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    string_value: str


class _Number(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    int_value: str
    """64 bits are a text in this encoding."""


class _Attribute(msgspec.Struct, frozen=True, gc=False):
    key: str
    value: _Text | _Number


class _Log(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    time_unix_nano: str
    observed_time_unix_nano: str
    severity_number: int
    severity_text: str
    event_name: str
    body: _Text
    attributes: Sequence[_Attribute]


_HTTP = _Attribute("network.protocol.name", _Text("http"))
_COLUMNS = [(each.name, NAMES.get(each.name, f"avinet.{each.name}")) for each in msgspec.structs.fields(Record)]
"""The columns of a record in their order, and the names of their attributes."""


def body(batch: Batch, engine: str, host: str, now_ms: int) -> bytes:
    """An ExportLogsServiceRequest with all of `batch`."""
    records = [_notice(each, now_ms) for each in batch.notices]
    records += [_record(each, now_ms) for each in batch.lines]
    resource = [_text("service.name", "avinet"), _text("service.instance.id", engine), _text("host.name", host)]
    return msgspec.json.encode(
        {
            "resourceLogs": [
                {
                    "resource": {"attributes": resource},
                    "scopeLogs": [{"scope": {"name": SCOPE, "version": __version__}, "logRecords": records}],
                }
            ]
        }
    )


def _record(line: bytes, now_ms: int) -> _Log:
    record = _decoder.decode(line)
    level = 3 if record.status >= 500 else 5 if record.status >= 400 or record.status < 0 else 6
    attributes: list[_Attribute] = []
    for (name, known), value in zip(_COLUMNS, msgspec.structs.astuple(record), strict=True):
        if isinstance(value, int):
            if name != "time" and (value > 0 or name != "status"):
                attributes.append(_Attribute(known, _Number(str(value))))
        elif name == "protocol" and value:
            attributes += (_HTTP, _text("network.protocol.version", _version(value)))
        elif value:
            attributes.append(_Attribute(known, _Text(value)))
    shown = f"{record.method} {record.path} {record.status}" if record.method else f"connection to {record.service}"
    return _log(record.time, now_ms, level, "request", shown, attributes)


def _version(protocol: str) -> str:
    """1.1 and 2, as the conventions have it, of HTTP/1.1 and HTTP/2.0."""
    return protocol.partition("/")[2].removesuffix(".0")


def _notice(notice: Notice, now_ms: int) -> _Log:
    attributes = [_text("avinet.gap.reason", notice.reason)]
    if notice.records is not None:
        attributes.append(_number("avinet.gap.records", notice.records))
    attributes += [_number("avinet.gap.from_ms", notice.from_ms), _number("avinet.gap.to_ms", notice.to_ms)]
    count = "an unknown number of" if notice.records is None else notice.records
    return _log(notice.to_ms, now_ms, 4, "gap", f"{count} records are missing: {notice.reason}", attributes)


def _log(at_ms: int, now_ms: int, level: int, kind: str, shown: str, attributes: Sequence[_Attribute]) -> _Log:
    at = f"{at_ms}000000" if at_ms > 0 else "0"
    return _Log(at, f"{now_ms}000000", *_NUMBERS[level], f"avinet.{kind}", _Text(shown), attributes)


def _text(name: str, value: str) -> _Attribute:
    return _Attribute(name, _Text(value))


def _number(name: str, value: int) -> _Attribute:
    return _Attribute(name, _Number(str(value)))


class _Partial(msgspec.Struct, rename="camel"):
    rejected_log_records: int | str = 0
    error_message: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    partial_success: _Partial | None = None


def rejected(answer: bytes) -> tuple[int, str]:
    """How many records a collector says not to have taken, and why; none in an answer that says nothing of it."""
    try:
        partial = msgspec.json.decode(answer, type=_Answer).partial_success
        return (max(0, int(partial.rejected_log_records)), partial.error_message) if partial else (0, "")
    except (msgspec.MsgspecError, ValueError):
        return 0, ""
