"""What HAProxy writes for each request, or connection of a TCP service: a line for `avinet.wire.log`.

What a client controls is escaped for JSON when the request has come, and kept in variables: nothing else of a request
is there any more at the time of the log. A line that is as long as a buffer (16 KiB) or longer never leaves the ring of
HAProxy (2.6), and is not counted as dropped: so each text is cut before it is escaped, and shorter where it grows much.
"""

from __future__ import annotations

from collections.abc import Iterator

from avinet.dataplane.records import REQUEST_ID
from avinet.wire.config import VirtualService
from avinet.wire.log import COLUMNS, HOSTILE_TEXT_BYTES, KEPT_TEXT_BYTES, SEQUENCE

_NAME_BYTES = 255
"""Of a host: longer ones are no names (RFC 1035, section 2.3.4)."""
_METHOD_BYTES = 32
_ESCAPED_BYTES = KEPT_TEXT_BYTES * 3 // 2
_JSON = "json(utf8s)"
_EMPTY = '""'
_FIXED = {
    "m": ("method", _METHOD_BYTES),
    "h": ("req.fhdr(host),host_only,lower", _NAME_BYTES),
}
"""Texts that are short, whatever is in them."""
_LONG = {"u": "path", "q": "query", "a": "req.fhdr(user-agent)", "f": "req.fhdr(referer)"}

_CONNECTION = {
    "t": "%Ts%ms",
    "p": "%{+Q}[be_name,field(2,.)]",  # a frontend, where there is no backend, has no dot in its name
    "b": "%{+Q}[srv_name]",
    "c": '"%ci"',
    "cp": "%cp",
    "st": "0",
    "i": "%U",
    "o": "%B",
    "tr": "-1",
    "tw": "%Tw",
    "tc": "%Tc",
    "tp": "-1",
    "ta": "%Tt",
    "x": '"%ts"',
    "r": "%rc",  # may begin with a plus: see `avinet.dataplane.intake`
    "qs": "%sq",
    "qb": "%bq",
    "id": '"%[uuid()]"',
}
_FAILURE = _CONNECTION | {"st": "%ST", "ta": "%Ta"}
_REQUEST = _FAILURE | {
    "t": "%[var(txn.t,0)]",
    **{key: f"%{{+Q}}[var(txn.{key})]" for key in (*_FIXED, *_LONG)},
    "v": "%{+Q}[var(txn.v)]",
    "tr": "%TR",
    "tp": "%Tr",
    "id": "%{+Q}[unique-id]",
}
_TLS = {"tv": '"%sslv"', "tk": '"%sslc"', "n": f"%{{+Q}}[ssl_fc_sni,bytes(0,{_NAME_BYTES}),{_JSON}]"}


def log_directives(service: VirtualService) -> Iterator[str]:
    """The directives of the frontend of `service` that make its records.

    The format for errors is for what ended before it was a request: it could not be read, did not come in time, or the
    handshake of TLS failed.
    """
    yield "log global"
    if service.mode == "http":
        yield "option http-ignore-probes"
        yield "unique-id-format %[uuid()]"
        yield "tcp-request content set-var(txn.t) date(0,ms)"
        yield "http-request set-var-fmt(txn.v) HTTP/%[req.ver]"
        for key, (sample, limit) in _FIXED.items():
            yield f"http-request set-var(txn.{key}) {sample},bytes(0,{limit}),{_JSON}"
        for key, sample in _LONG.items():
            grown = f"{{ var(txn.{key}),length gt {_ESCAPED_BYTES} }}"
            yield f"http-request set-var(txn.{key}) {sample},bytes(0,{KEPT_TEXT_BYTES}),{_JSON}"
            yield f"http-request set-var(txn.{key}) {sample},bytes(0,{HOSTILE_TEXT_BYTES}),{_JSON} if {grown}"
        yield f"http-request set-header {REQUEST_ID.decode()} %[unique-id]"
        yield f"log-format '{_line(service, _REQUEST)}'"
        yield f"error-log-format '{_line(service, _FAILURE)}'"
    else:
        yield f"log-format '{_line(service, _CONNECTION)}'"
        if service.tls:
            yield f"error-log-format '{_line(service, _CONNECTION)}'"


def _line(service: VirtualService, written: dict[str, str]) -> str:
    """A line with every key of the schema; what is not `written` is empty."""
    keys = written | (_TLS if service.tls else {}) | {"s": f'"{service.name}"'}
    columns = [each for each in COLUMNS if each is not SEQUENCE]
    return "{" + ",".join(f'"{each.key}":{keys.get(each.key, _EMPTY)}' for each in columns) + "}"
