"""Routes as data: what a door answers, and the messages that go in and out, from which OpenAPI is generated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from avinet.errors import Invalid
from avinet.relay import Relay
from avinet.rest.streaming import Bulk, Streamed
from avinet.wire.message import decode

M = TypeVar("M")
BODY_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True)
class Request:
    """A request whose body has been read whole, within its route's limit.

    `arguments` are the `<name>` parts of the route's path. Header names are in lower case; the values of a repeated
    one are joined by `, `, and named in `repeated`. `target` is the path with its query as it was sent. `identity` is
    what the door knows of the peer: never what the peer says of itself.
    """

    method: str
    path: str
    target: str
    authority: str
    arguments: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    repeated: frozenset[str]
    body: bytes
    peer: str
    identity: Any
    limit_bytes: int = BODY_LIMIT_BYTES

    def decoded(self, into: type[M]) -> M:
        """The body as a message of type `into`. Raises `Invalid` or `TooLarge`."""
        return decode(self.body, into, limit_bytes=self.limit_bytes, what="request body")

    def number(self, name: str, default: int, most: int) -> int:
        """The query parameter `name` as a number of 0 to `most`. Raises `Invalid`."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) <= most):
            raise Invalid(f"the query parameter {name} must be a number from 0 to {most}")
        return int(text)


@dataclass(frozen=True)
class Reply:
    """A status, headers, and a body: bytes as they are, or a message that becomes JSON."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipe:
    """Answers `101 Switching Protocols` to `Upgrade: avinet-pipe`: from there on the connection is a byte pipe.

    `far` is the other side, already open and paused; the door joins the two.
    """

    far: Relay


Answer = Callable[[Request], Awaitable[Reply | Pipe | Streamed | Bulk]]


@dataclass(frozen=True)
class Route:
    """One method on one path; `takes` and `gives` are the types of the bodies, `status` that of success.

    `streams` is the type of the messages of a streamed answer. What was asked for is done even if the peer goes away,
    as cancelling it half-way would help nobody; a route that changes nothing, and costs much, is `droppable`.
    """

    method: str
    path: str
    answer: Answer
    summary: str
    takes: Any = None
    gives: Any = None
    limit_bytes: int = BODY_LIMIT_BYTES
    status: int = 200
    query: tuple[str, ...] = ()
    streams: Any = None
    droppable: bool = False
