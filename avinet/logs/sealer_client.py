"""The sealer's process, as the spool sees it: asked one thing at a time, ended when it is late, started when needed."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import Slots, within
from avinet.errors import LocalError
from avinet.logs.orders import LINE_BYTES, Order, Sealed
from avinet.wire.message import decode, encode

IDLE_S = 30.0
"""How long a process without work is kept: it holds memory, and is started in a fraction of a second."""
_SAID_BYTES = 400


class Sealer(Protocol):
    """Makes a segment of an open file."""

    async def seal(self, order: Order) -> Sealed:
        """The answer to `order`. Raises `AvinetError`: then it may be asked again."""

    async def stop(self) -> None:
        """End what is under way."""


class SealerProcess:
    """A sealer in a process of its own, which has `deadline_s` for each order."""

    def __init__(
        self, reactor: Any, deadline_s: float, *, idle_s: float = IDLE_S, module: str = "avinet.logs.sealer"
    ) -> None:
        self._reactor = reactor
        self._deadline_s = deadline_s
        self._idle_s = idle_s
        self._argv = [sys.executable, "-m", module]
        self._turn = Slots(1)
        self._process: _Process | None = None
        self._idle: Any = None

    async def seal(self, order: Order) -> Sealed:
        """See `Sealer`."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
            try:
                return await self._ask(order)
            finally:
                if self._process is not None:
                    self._idle = self._reactor.callLater(self._idle_s, self._rest)

    async def _ask(self, order: Order) -> Sealed:
        if self._process is None or self._process.ended:
            self._process = _Process()
            self._reactor.spawnProcess(self._process, self._argv[0], self._argv, env=dict(os.environ))
        process = self._process
        try:
            line = await within(self._reactor, self._deadline_s, process.ask(encode(order) + b"\n"), "the sealer")
            answer = decode(line, Sealed, limit_bytes=LINE_BYTES, what="answer of the sealer")
        except BaseException:
            # What it is at is not known: it is not asked again, and another one begins only when it is gone.
            await self._end(process)
            raise
        if answer.error:
            raise LocalError(answer.error)
        return answer

    async def _end(self, process: _Process) -> None:
        if self._process is process:
            self._process = None
        process.kill()
        await process.wait()

    def _rest(self) -> None:
        self._idle = None
        if self._process is not None:
            self._process.transport.closeStdin()
            self._process = None

    async def stop(self) -> None:
        """See `Sealer`."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._process is not None:
            await self._end(self._process)


class _Process(ProcessProtocol):
    transport: Any

    def __init__(self) -> None:
        self.ended = False
        self._answer = bytearray()
        self._said = bytearray()
        self._asked: Deferred[bytes] | None = None
        self._waiting: list[Deferred[None]] = []

    def ask(self, line: bytes) -> Deferred[bytes]:
        """The line that it answers to `line`. Fails with `LocalError` when it ends instead."""
        self._answer.clear()
        self._asked = Deferred(lambda _: None)
        self.transport.write(line)
        return self._asked

    @override
    def outReceived(self, data: bytes) -> None:
        self._answer += data
        if len(self._answer) > LINE_BYTES:
            self.kill()
        elif self._answer.endswith(b"\n") and self._asked is not None and not self._asked.called:
            asked, self._asked = self._asked, None
            asked.callback(bytes(self._answer))

    @override
    def errReceived(self, data: bytes) -> None:
        self._said = (self._said + data)[-_SAID_BYTES:]

    def kill(self) -> None:
        """End it at once, if it has not."""
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def wait(self) -> Deferred[None]:
        """Fires when it has ended."""
        waiting: Deferred[None] = Deferred(lambda _: None)
        if self.ended:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting

    @override
    def processEnded(self, reason: Failure) -> None:
        self.ended = True
        said = self._said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        asked, self._asked = self._asked, None
        if asked is not None and not asked.called:
            asked.errback(LocalError(f"the sealer has ended: {said or reason.getErrorMessage()}"))
        for each in self._waiting:
            if not each.called:
                each.callback(None)
