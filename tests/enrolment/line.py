"""One connection to a door of a node, for a test in a thread of its own: requests as bytes, and answers as they come."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from http.client import HTTPResponse

from tests.enrolment.words import Reply

PATIENCE_S = 60.0
IDLE_S = 30.0
"""A door hangs up on a connection that is idle for longer than twice as long."""


class Line:
    """One connection to a door, kept open; dialled when it is needed."""

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self._dial = dial
        self._socket: socket.socket | None = None
        self._used = 0.0

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send a request."""
        if time.monotonic() - self._used > IDLE_S:
            self.close()
        self._used = time.monotonic()
        if self._socket is None:
            self._socket = self._dial()
            self._socket.settimeout(PATIENCE_S)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def receive(self, method: str = "POST") -> Reply:
        """The answer to what was sent first."""
        assert self._socket is not None
        response = HTTPResponse(self._socket, method=method)
        response.begin()
        return Reply(response.status, response.read())

    def close(self) -> None:
        """Hang up, whatever was sent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
