"""Changes of keys while a stream moves: each part of it has a cause of its own, and is to see it work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from avinet.ssh.policy import MIB
from tests.interop.stream import STREAM_BYTES

PEER_BYTES = 12 * MIB
"""When a peer is to ask for new keys: within its own part, and never in those where we ask much sooner."""

PEER: Mapping[str, Mapping[str, float]] = {"the peer": {}}
"""We never ask."""
US: Mapping[str, Mapping[str, float]] = {
    "bytes": {"rekey_bytes": 2 * MIB},
    "packets": {"rekey_packets": 100},
    "time": {"rekey_s": 0.01},
}
"""What makes us ask, and the change of our policy for it."""


class Rekeying:
    """Gives our end of a connection one cause after the other, as a stream of `STREAM_BYTES` arrives there."""

    def __init__(self, causes: Mapping[str, Mapping[str, float]]) -> None:
        self.seen: dict[str, int] = {}
        self._causes = list(causes.items())
        self._part_bytes = STREAM_BYTES // len(causes)
        self._moved_bytes = 0

    def start(self, transport: Any) -> None:
        """Begin with the first cause."""
        self._transport = transport
        self._policy = transport.policy
        self._began = transport.exchanges
        self._next()

    def _next(self) -> None:
        self._cause, changes = self._causes.pop(0)
        self._transport.policy = replace(self._policy, **changes)
        if changes:
            self._transport.rekey()  # so that all limits count from here

    def moved(self, count: int) -> None:
        """So much of the stream has arrived."""
        self._moved_bytes += count
        if self._causes and self._moved_bytes >= (1 + len(self.seen)) * self._part_bytes:
            self._end_part()
            self._next()

    def _end_part(self) -> None:
        self.seen[self._cause] = self._transport.exchanges - self._began
        self._began = self._transport.exchanges

    def end(self) -> None:
        """Both streams have ended."""
        self._end_part()

    def missing(self) -> list[str]:
        """The causes that did not bring new keys; our own begin with an exchange that has none."""
        return [cause for cause, count in self.seen.items() if count < (2 if cause in US else 1)]
