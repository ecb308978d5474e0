"""The record of one request, or of one connection of a TCP service, as a line: see `avinet.wire.log`."""

from __future__ import annotations

from uuid import uuid4

import msgspec

from avinet.wire.log import COLUMNS, KEPT_TEXT_BYTES, SEQUENCE

REQUEST_ID = b"x-request-id"
"""The header by which a server is told the id of a request."""
TCP, UNANSWERED = 0, -1
"""The status of a connection of a TCP service, and of a request without an answer."""


class Record(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    rename={each.name: each.key for each in COLUMNS if each is not SEQUENCE},
):
    """The columns of a record, but for its sequence number, which it gets where it is kept."""

    time: int
    service: str
    pool: str
    server: str
    client: str
    client_port: int
    method: str
    host: str
    path: str
    query: str
    protocol: str
    status: int
    bytes_in: int
    bytes_out: int
    request_ms: int
    queue_ms: int
    connect_ms: int
    response_ms: int
    total_ms: int
    tls_version: str
    tls_cipher: str
    sni: str
    termination: str
    retries: int
    server_queue: int
    pool_queue: int
    user_agent: str
    referer: str
    request_id: str

    @property
    def served(self) -> bool:
        """Whether a server took it, or would have if the client had stayed; a request of HTTP counts as such."""
        if self.status != TCP:
            return True
        return self.termination[1:2] not in ("C", "Q") or self.termination[:1] in ("C", "c")


line = msgspec.json.Encoder().encode
"""A record as a line, without its end."""


def text(raw: bytes) -> str:
    """What is kept of a text that a client has sent."""
    return raw[:KEPT_TEXT_BYTES].decode("utf-8", "ignore")


def host(raw: bytes) -> str:
    """The host in a Host header, in lower case, without its port."""
    name = text(raw).strip().lower()
    end = name.find(":", name.find("]") + 1)
    return name if end < 0 else name[:end]


def path_and_query(target: bytes) -> tuple[str, str]:
    """Both of a request's target in origin form or in absolute form (RFC 9112, section 3.2); empty in any other."""
    plain, _, query = target.partition(b"?")
    if not plain.startswith(b"/"):
        _, scheme, rest = plain.partition(b"://")
        plain = b"/" + rest.partition(b"/")[2] if scheme else b""
    return text(plain), text(query)


def new_id() -> str:
    """The id of a request."""
    return str(uuid4())


def milliseconds(began: float | None, ended: float | None) -> int:
    """From one time to a later one, in seconds; -1 where either did not come."""
    return -1 if began is None or ended is None else max(0, round((ended - began) * 1000))
