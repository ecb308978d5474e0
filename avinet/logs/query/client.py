"""The node's side of the process that answers queries: one question at a time, the others wait in a bounded line.

One that dies, says what it should not, or is not done when its time is up is killed; the next question starts another.
Of one that nobody waits for any more the process is told, and goes on: it remembers what it has read of the archive.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

import avinet
from avinet.aio import Slots, as_deferred, within
from avinet.errors import AvinetError, TimedOut, TooMany, Unavailable
from avinet.logs.lineprocess import Died, LineProcess
from avinet.logs.query.asking import ANSWERED_BYTES, WITHDRAWAL, Answered, Asked, raised
from avinet.wire.answer import LogAnswer
from avinet.wire.message import decode, encode
from avinet.wire.query import ENGINES, QUERY_LIMIT_BYTES, LogQuery

WAITING = 32
"""How many queries may wait."""
GRACE_S = 2.0
"""How much later than its own limit a query is given up by killing the process."""
IDLE_S = 600.0
"""How long a process without work is kept: it remembers what files are made of."""
COMMAND = (sys.executable, "-P", "-m", "avinet.logs.query.worker")
_WHAT = "the process that answers queries"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class QueryWorker:
    """Asks the process for the archive in `folder`, whose queries get `memory_bytes` and `threads`."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        *,
        memory_bytes: int = 1 << 29,
        threads: int = 2,
        waiting: int = WAITING,
        grace_s: float = GRACE_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._reactor = reactor
        self._most = waiting
        self._grace_s = grace_s
        self._process = LineProcess(
            reactor,
            _WHAT,
            [*command, str(folder.absolute()), str(memory_bytes), str(threads)],
            limit_bytes=ANSWERED_BYTES,
            idle_s=IDLE_S,
            environment={
                "PATH": _PATH,
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(Path(avinet.__file__).parent.parent),
            },
            path="/",
        )
        self._turn = Slots(1)
        self._waiting = 0
        self._number = 0
        self._stopped = False

    async def ask(self, query: LogQuery, limit_s: float, known: Iterable[str] = ()) -> LogAnswer:
        """The answer to `query`, which has `limit_s` from now on, waiting in line included. Cancelled, it is given up.

        When it names no service engines, those that are `known` are asked of beside those of the archive.

        Raises `TooMany` when the line is full, `TimedOut`, `Unavailable` when the process died of it, `TooLarge` when
        it needs too much memory, `Damaged`, `Invalid`, `LocalError`.
        """
        self._go_on()
        decode(encode(query), LogQuery, limit_bytes=QUERY_LIMIT_BYTES, what="query")  # one that would end the process
        if self._waiting >= self._most:
            raise TooMany(f"{self._waiting} queries wait already", retry_after_s=5)
        mentioned = [] if query.engines else list(itertools.islice(known, ENGINES))
        ends = self._reactor.seconds() + limit_s
        await self._wait(limit_s)
        try:
            self._go_on()
            self._number += 1
            left_s = max(ends - self._reactor.seconds(), 0.001)
            asked = Asked(number=self._number, query=query, known=mentioned, limit_s=left_s)
            return await self._answer(asked, limit_s)
        finally:
            await self._turn.__aexit__()

    async def _wait(self, limit_s: float) -> None:
        """Wait until all that came before were answered."""
        self._waiting += 1
        try:
            await within(self._reactor, limit_s, self._turn.__aenter__(), "")
        except TimedOut:
            raise TimedOut(f"the query waited for {limit_s:g} s behind others, and was not begun") from None
        finally:
            self._waiting -= 1

    async def _answer(self, asked: Asked, limit_s: float) -> LogAnswer:
        try:
            line = await self._process.ask(encode(asked) + b"\n", asked.limit_s + self._grace_s, WITHDRAWAL)
            answered = decode(line, Answered, limit_bytes=ANSWERED_BYTES, what=f"answer of {_WHAT}")
            if answered.failed is None and answered.answer is None:
                raise Unavailable("its answer is empty")
            if answered.number != asked.number:
                raise Unavailable("it answers what was not asked")
        except OSError as error:
            raise Unavailable(f"the process for queries does not start: {error.strerror}") from error
        except TimedOut:
            self.log.warn("the process that answers queries hangs, and is killed")
            raise TimedOut(f"the query did not end within {limit_s:g} s", hint="ask for a shorter time") from None
        except Died as error:
            self._go_on()
            self.log.warn("the process that answers queries died: {how}", how=str(error))
            raise Unavailable(f"{_WHAT} died of this one: {error}", hint="ask for a shorter time") from error
        except AvinetError as error:
            self.log.warn("the process that answers queries is killed: {why}", why=str(error))
            await self._process.end()
            raise Unavailable(f"{_WHAT} is out of step: {error}") from error
        if answered.failed is not None:
            raise raised(answered.failed)
        assert answered.answer is not None
        return answered.answer

    def _go_on(self) -> None:
        if self._stopped:
            raise Unavailable("the node is stopping")

    @property
    def pid(self) -> int | None:
        """The process, while there is one that can be asked."""
        return self._process.pid

    def stop(self) -> Deferred[None]:
        """Answer nothing any more; fires when the process is gone."""
        self._stopped = True
        return as_deferred(self._process.end())
