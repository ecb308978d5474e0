"""Where commands print in tests."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred


class Console:
    """What a program prints, and a deferred for what is waited for."""

    def __init__(self) -> None:
        self.output, self.error = b"", b""
        self.producer: Any = None
        self._wanted = b""
        self._seen: Deferred[None] | None = None

    def write(self, data: bytes) -> None:
        self.output += data
        if self._seen is not None and self._wanted in self.output:
            seen, self._seen = self._seen, None
            seen.callback(None)

    def write_error(self, data: bytes) -> None:
        self.error += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def printed(self, wanted: bytes) -> Deferred[None]:
        """Fires when `wanted` was printed."""
        self._wanted, self._seen = wanted, Deferred()
        self.write(b"")
        return self._seen or Deferred()
