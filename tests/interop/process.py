"""Processes of peers: what they say, and that they end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from typing_extensions import override

T = TypeVar("T")


class Process(ProcessProtocol):
    """A process that runs until it is told to end; `said` is what it has written to either output."""

    transport: Any

    def __init__(self) -> None:
        self.said = b""
        self.ended: Deferred[None] = Deferred()
        self._texts: list[tuple[bytes, Deferred[None]]] = []
        self._waiting: list[Deferred[Any]] = []

    @classmethod
    def start(cls, command: Sequence[str], env: Mapping[str, str] = os.environ) -> Process:
        """Run `command`."""
        process = cls()
        reactor.spawnProcess(process, command[0], list(command), env=dict(env))  # type: ignore[attr-defined]
        return process

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        pid: int | None = self.transport.pid
        return pid

    def until(self, waited: Deferred[T]) -> Deferred[T]:
        """Fires and fails as `waited` does, and fails when the process ends before that."""
        result: Deferred[T] = Deferred()
        self._waiting.append(result)

        def came(value: T | Failure) -> None:
            if result in self._waiting:
                self._waiting.remove(result)
                result.callback(value)  # type: ignore[arg-type]  # a failure fails it

        waited.addBoth(came)
        return result

    def says(self, text: bytes) -> Deferred[None]:
        """Fires once the process has written `text`, fails when it ends before that."""
        said: Deferred[None] = Deferred()
        self._texts.append((text, said))
        self._look()
        return self.until(said)

    def _look(self) -> None:
        for each in [each for each in self._texts if each[0] in self.said]:
            self._texts.remove(each)
            each[1].callback(None)

    def signal(self, name: str) -> None:
        """Send the signal `name` while the process runs."""
        if self.pid is not None:
            self.transport.signalProcess(name)

    def end(self, signal: str = "TERM") -> Deferred[None]:
        """Have the process end; fires when it has."""
        self.signal(signal)
        return self.ended

    @override
    def outReceived(self, data: bytes) -> None:
        self.said += data
        self._look()

    @override
    def errReceived(self, data: bytes) -> None:
        self.outReceived(data)

    @override
    def processEnded(self, reason: Failure) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(AssertionError(f"it ended: {self.said.decode()}"))
        self.ended.callback(None)
