"""The sealer's process, as the spool sees it: asked one thing at a time, ended when it is late, started when needed."""

from __future__ import annotations

import os
import sys
from typing import Any, Protocol

from avinet.aio import Slots
from avinet.errors import AvinetError, LocalError, TimedOut
from avinet.logs.lineprocess import Died, LineProcess
from avinet.logs.spool.orders import LINE_BYTES, Order, Sealed
from avinet.wire.message import decode, encode

LONGEST = 8
"""How many times as long as the first one may take an order may in the end, when it was late time after time."""
IDLE_S = 30.0
"""How long a process without work is kept: it holds memory, and is started in a fraction of a second."""


class Sealer(Protocol):
    """Makes a segment of an open file."""

    async def seal(self, order: Order) -> Sealed:
        """The answer to `order`. Raises `AvinetError`: then it may be asked again."""

    async def stop(self) -> None:
        """End what is under way."""


class SealerProcess:
    """A sealer in a process of its own, which has `deadline_s` for each order, and twice as long after it was late:
    what is too much for a machine that is slow and busy is so again the next time.
    """

    def __init__(
        self,
        reactor: Any,
        deadline_s: float,
        *,
        idle_s: float = IDLE_S,
        command: tuple[str, ...] = (sys.executable, "-m", "avinet.logs.spool.sealer"),
    ) -> None:
        self._deadline_s = deadline_s
        self._times = 1
        self._turn = Slots(1)
        self._process = LineProcess(
            reactor, "the sealer", command, limit_bytes=LINE_BYTES, idle_s=idle_s, environment=os.environ
        )

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid

    async def seal(self, order: Order) -> Sealed:
        """See `Sealer`."""
        async with self._turn:
            try:
                line = await self._process.ask(encode(order) + b"\n", self._deadline_s * self._times)
            except TimedOut:
                self._times = min(2 * self._times, LONGEST)
                raise
            except Died as error:
                raise LocalError(f"the sealer has ended: {error}") from error
            try:
                answer = decode(line, Sealed, limit_bytes=LINE_BYTES, what="answer of the sealer")
            except AvinetError:
                await self.stop()
                raise
        self._times = 1
        if answer.error:
            raise LocalError(answer.error)
        return answer

    async def stop(self) -> None:
        """See `Sealer`."""
        await self._process.end()
