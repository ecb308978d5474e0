"""The record of one request, or of one connection of a TCP service: the published schema of request logs.

A record is written by the data plane as a line of JSON with short keys, every one of them once. It gets a sequence
number on its service engine, is sealed into segments of Parquet with the column names given here, and is shown under
these. `VERSION` grows when the meaning of a column changes; that of a new one is added at the end, and older segments
have it empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VERSION = 1
Kind = Literal["int", "text", "time"]
"""What a column holds: a whole number of 64 bits, UTF-8, or milliseconds since 1970-01-01T00:00:00Z."""
ABSENT = -1
"""In a column of milliseconds: it did not come so far."""
TEXT_BYTES = 8192
"""What a text has at most."""
KEPT_TEXT_BYTES = 2000
"""What data planes keep of one; what is longer is cut there."""
HOSTILE_TEXT_BYTES = 500
"""What HAProxy keeps of one that grows by more than half when it is escaped: its lines must not be longer than a
buffer of its own, or they are lost (`avinet.dataplane.log_format`).
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its key in a line, what it holds, and what that means."""

    name: str
    key: str
    kind: Kind
    means: str


SEQUENCE = Column(
    "seq", "", "int", "the number of the record on its service engine, from 1, without a gap that is not told of"
)
COLUMNS = (
    SEQUENCE,
    Column("time", "t", "time", "when the head of the request had come; TCP: when the connection had"),
    Column("service", "s", "text", "the virtual service"),
    Column("pool", "p", "text", "the pool that was chosen; empty where there was none"),
    Column("server", "b", "text", "the server in it that was dialled last; empty where none was"),
    Column("client", "c", "text", "the client's address"),
    Column("client_port", "cp", "int", "and port"),
    Column("method", "m", "text", "the method of the request (RFC 9110, section 9); empty for TCP"),
    Column("host", "h", "text", "the Host that was asked for, in lower case, without its port"),
    Column("path", "u", "text", "the path of the request, without the query"),
    Column("query", "q", "text", "the query behind the question mark"),
    Column("protocol", "v", "text", "HTTP/1.1, HTTP/2.0; empty for TCP"),
    Column("status", "st", "int", "the status of the answer; 0 for TCP, -1 where there was none"),
    Column("bytes_in", "i", "int", "bytes from the client"),
    Column("bytes_out", "o", "int", "bytes to the client"),
    Column("request_ms", "tr", "int", "from the first byte of the request to the last of its head, in ms"),
    Column("queue_ms", "tw", "int", "in queues for a server"),
    Column("connect_ms", "tc", "int", "to connect to the server"),
    Column("response_ms", "tp", "int", "from then to the head of the answer"),
    Column(
        "total_ms", "ta", "int", "from the first byte of the request to the last of the answer; TCP: of the connection"
    ),
    Column("tls_version", "tv", "text", "TLSv1.3; empty without TLS"),
    Column("tls_cipher", "tk", "text", "the cipher suite"),
    Column("sni", "n", "text", "the name that the client asked for in TLS"),
    Column("termination", "x", "text", "how it ended, in HAProxy's letters (configuration manual, section 8.5)"),
    Column("retries", "r", "int", "how often the server was dialled again"),
    Column("server_queue", "qs", "int", "how many waited for the server before it"),
    Column("pool_queue", "qb", "int", "how many waited for the pool before it"),
    Column("user_agent", "a", "text", "the User-Agent of the request"),
    Column("referer", "f", "text", "the Referer of the request"),
    Column("request_id", "id", "text", "an id of its own (UUID), which the server is told as X-Request-ID"),
)
"""All columns, in their order; `seq` is in no line."""
