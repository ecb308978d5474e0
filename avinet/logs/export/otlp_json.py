"""Records as logs of OpenTelemetry in the JSON encoding of OTLP 1.x, and what a collector answers. Pure.

Names of attributes are those of the semantic conventions where these have one, else begin with `avinet.`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def _record(line: bytes, now_ms: int) -> dict[str, Any]:
    record = _decoder.decode(line)
    level = 3 if record.status >= 500 else 5 if record.status >= 400 or record.status < 0 else 6
    attributes = []
    for name, value in msgspec.structs.asdict(record).items():
        if name == "time" or value == "" or (name == "status" and value <= 0):
            continue
        if name == "protocol":
            attributes += [_text("network.protocol.name", "http"), _text("network.protocol.version", _version(value))]
            continue
        known = NAMES.get(name, f"avinet.{name}")
        attributes.append(_text(known, value) if isinstance(value, str) else _number(known, value))
    shown = f"{record.method} {record.path} {record.status}" if record.method else f"connection to {record.service}"
    return _log(record.time, now_ms, level, "request", shown, attributes)


def _version(protocol: str) -> str:
    """1.1 and 2, as the conventions have it, of HTTP/1.1 and HTTP/2.0."""
    return protocol.partition("/")[2].removesuffix(".0")


def _notice(notice: Notice, now_ms: int) -> dict[str, Any]:
    attributes = [_text("avinet.gap.reason", notice.reason)]
    if notice.records is not None:
        attributes.append(_number("avinet.gap.records", notice.records))
    attributes += [_number("avinet.gap.from_ms", notice.from_ms), _number("avinet.gap.to_ms", notice.to_ms)]
    count = "an unknown number of" if notice.records is None else notice.records
    return _log(notice.to_ms, now_ms, 4, "gap", f"{count} records are missing: {notice.reason}", attributes)


def _log(at_ms: int, now_ms: int, level: int, kind: str, shown: str, attributes: Sequence[Any]) -> dict[str, Any]:
    number, text = _NUMBERS[level]
    return {
        "timeUnixNano": f"{at_ms}000000" if at_ms > 0 else "0",
        "observedTimeUnixNano": f"{now_ms}000000",
        "severityNumber": number,
        "severityText": text,
        "eventName": f"avinet.{kind}",
        "body": {"stringValue": shown},
        "attributes": attributes,
    }


def _text(name: str, value: str) -> dict[str, Any]:
    return {"key": name, "value": {"stringValue": value}}


def _number(name: str, value: int) -> dict[str, Any]:
    return {"key": name, "value": {"intValue": str(value)}}  # 64 bits are a text in this encoding


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
