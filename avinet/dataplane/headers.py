"""What the built-in proxy makes of the heads of messages before it passes them on."""

from __future__ import annotations

from typing import Any

import h11

from avinet.dataplane.records import REQUEST_ID
from avinet.dataplane.tls import FORWARDED_PROTO
from avinet.wire.config import Server

_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
}


def forwarded(request: h11.Request, server: Server, client: str, request_id: str, *, tls: bool) -> h11.Request:
    """A request as `server` gets it: it is told the address of the `client`, the id, and whether it came by `tls`."""
    own = {REQUEST_ID, FORWARDED_PROTO} if tls else {REQUEST_ID}
    headers = [each for each in end_to_end(list(request.headers)) if each[0] not in own]
    if all(name != b"host" for name, _ in headers):  # HTTP/1.0 needs none
        address = f"[{server.address}]" if ":" in server.address else server.address
        headers.insert(0, (b"host", f"{address}:{server.port}".encode("ascii")))
    headers.append((b"x-forwarded-for", client.encode("ascii")))
    headers.append((REQUEST_ID, request_id.encode("ascii")))
    if tls:
        headers.append((FORWARDED_PROTO, b"https"))
    headers.append((b"connection", b"close"))
    return h11.Request(method=request.method, target=request.target, headers=headers)


def downstream(event: Any) -> Any:
    """The head of an answer as the client gets it."""
    return type(event)(status_code=event.status_code, headers=end_to_end(list(event.headers)), reason=event.reason)


def end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that are passed on: all but those for the one connection (RFC 9110, section 7.6.1).

    A length beside a transfer coding is not (RFC 9112, section 6.3): it was not what the message was read by.
    """
    coded = any(key == b"transfer-encoding" for key, _ in headers)
    named = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")} - {
        b"host",
        b"content-length",
        b"transfer-encoding",
    }
    if coded:
        named.add(b"content-length")
    return [(key, value) for key, value in headers if key not in _HOP and key not in named]
