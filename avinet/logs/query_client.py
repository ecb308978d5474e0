"""The node's side of the process that answers queries: one question at a time, the others wait in a bounded line.

The process is started when there is something to ask. One that dies, says what it should not, or is not done when its
time is up is killed, and the next question starts another. Nothing here takes long: the reactor goes on meanwhile.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

import avinet
from avinet.errors import AvinetError, TimedOut, TooMany, Unavailable
from avinet.logs.asking import ANSWERED_BYTES, Answered, Asked, raised
from avinet.wire.answer import LogAnswer
from avinet.wire.message import decode, encode
from avinet.wire.query import ENGINES, QUERY_LIMIT_BYTES, LogQuery

WAITING = 32
"""How many queries may wait."""
GRACE_S = 2.0
"""How much later than its own limit a query is given up by killing the process."""
COMMAND = (sys.executable, "-P", "-m", "avinet.logs.query_worker")
_SAID_BYTES = 2048
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True, eq=False)
class _Question:
    """A query, the time on the clock when it is given up, and who waits for its answer."""

    query: LogQuery
    known: list[str]
    limit_s: float
    ends: float
    answer: Deferred[LogAnswer] = field(default_factory=Deferred)
    timer: Any = None


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
        self._command = [*command, str(folder.absolute()), str(memory_bytes), str(threads)]
        self._waiting = waiting
        self._grace_s = grace_s
        self._line: deque[_Question] = deque()
        self._asked: _Question | None = None
        self._process: _Process | None = None
        self._ending: set[_Process] = set()
        self._gone: list[Deferred[None]] = []
        self._number = 0
        self._stopped = False

    async def ask(self, query: LogQuery, limit_s: float, known: Iterable[str] = ()) -> LogAnswer:
        """The answer to `query`, which has `limit_s` from now on, waiting in line included. Cancelled, it is given up.

        When it names no service engines, those that are `known` are asked of beside those of the archive.

        Raises `TooMany` when the line is full, `TimedOut`, `Unavailable` when the process died of it, `TooLarge` when
        it needs too much memory, `Damaged`, `Invalid`, `LocalError`.
        """
        if self._stopped:
            raise Unavailable("the node is stopping")
        decode(encode(query), LogQuery, limit_bytes=QUERY_LIMIT_BYTES, what="query")  # one that would end the process
        if len(self._line) >= self._waiting:
            raise TooMany(f"{len(self._line)} queries wait already", retry_after_s=5)
        mentioned = [] if query.engines else list(itertools.islice(known, ENGINES))
        question = _Question(query, mentioned, limit_s, self._reactor.seconds() + limit_s)
        question.timer = self._reactor.callLater(limit_s, self._late, question)
        question.answer = Deferred(lambda _: self._give_up(question))
        self._line.append(question)
        self._next()
        try:
            return await question.answer
        finally:
            if question.timer.active():
                question.timer.cancel()

    @property
    def pid(self) -> int | None:
        """The process, while there is one that can be asked."""
        return None if self._process is None else self._process.transport.pid

    def stop(self) -> Deferred[None]:
        """Answer nothing any more; fires when the process is gone."""
        self._stopped = True
        self._kill()
        for each in [*self._line, *([self._asked] if self._asked else [])]:
            self._settle(each, Unavailable("the node is stopping"))
        gone: Deferred[None] = Deferred()
        if self._ending:
            self._gone.append(gone)
        else:
            gone.callback(None)
        return gone

    def _next(self) -> None:
        """Ask what has waited longest, when nothing is asked."""
        if self._asked is not None or not self._line:
            return
        question = self._asked = self._line.popleft()
        left_s = question.ends - self._reactor.seconds()
        question.timer.reset(left_s + self._grace_s)  # it looks at the time itself now
        if self._process is None:
            self._process = _Process(self)
            try:
                self._start(self._process)
            except OSError as error:
                self._process = None
                self._settle(question, Unavailable(f"the process for queries does not start: {error.strerror}"))
                return
        self._number += 1
        self._process.ask(
            Asked(number=self._number, query=question.query, known=question.known, limit_s=max(left_s, 0.001))
        )

    def _start(self, process: _Process) -> None:
        above = str(Path(avinet.__file__).parent.parent)
        self._reactor.spawnProcess(
            process,
            self._command[0],
            self._command,
            env={"PATH": _PATH, "LANG": "C.UTF-8", "PYTHONPATH": above},
            path="/",
        )

    def _late(self, question: _Question) -> None:
        error = TimedOut(f"the query did not end within {question.limit_s:g} s", hint="ask for a shorter time")
        if question is self._asked:
            self.log.warn("the process that answers queries hangs, and is killed")
            self._kill()
        else:
            self._line.remove(question)
            error = TimedOut(f"the query waited for {question.limit_s:g} s behind others, and was not begun")
        self._settle(question, error)

    def _give_up(self, question: _Question) -> None:
        """Nobody waits for the answer any more."""
        if question is self._asked:
            self._kill()
            self._asked = None
            self._next()
        else:
            self._line.remove(question)

    def _kill(self) -> None:
        """End the process, whatever it does. What is asked next goes to another one."""
        if self._process is not None:
            self._ending.add(self._process)
            self._process.kill()
            self._process = None

    def _settle(self, question: _Question, result: LogAnswer | AvinetError) -> None:
        if question is self._asked:
            self._asked = None
        elif question in self._line:
            self._line.remove(question)
        if isinstance(result, AvinetError):
            question.answer.errback(Failure(result))
        else:
            question.answer.callback(result)
        self._next()

    def answered(self, process: _Process, line: bytes) -> None:
        """A line from the process."""
        question = self._asked
        if process is not self._process:
            return
        try:
            answered = decode(line, Answered, limit_bytes=ANSWERED_BYTES, what="answer of the process for queries")
        except AvinetError as error:
            self._broken(str(error))
            return
        if question is None or answered.number != self._number:
            self._broken("it answers what was not asked")
        elif answered.failed is not None:
            self._settle(question, raised(answered.failed))
        elif answered.answer is not None:
            self._settle(question, answered.answer)
        else:
            self._broken("its answer is empty")

    def _broken(self, why: str) -> None:
        """The process says what it should not."""
        self.log.warn("the process that answers queries is killed: {why}", why=why)
        self._kill()
        if self._asked is not None:
            self._settle(self._asked, Unavailable(f"the process that answers queries is out of step: {why}"))

    def died(self, process: _Process, how: str) -> None:
        """The process is gone."""
        self._ending.discard(process)
        if not self._ending:
            gone, self._gone = self._gone, []
            for each in gone:
                each.callback(None)
        if process is not self._process:
            return
        self._process = None
        self.log.warn("the process that answers queries died: {how}", how=how)
        if self._asked is not None:
            self._settle(
                self._asked,
                Unavailable(f"the process that answers queries died of this one: {how}", hint="ask for a shorter time"),
            )


class _Process(ProcessProtocol):
    """The process, as long as it lives: lines to it and from it."""

    transport: Any

    def __init__(self, owner: QueryWorker) -> None:
        self._owner = owner
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._said = b""
        self._killed = False

    def ask(self, asked: Asked) -> None:
        """Write a question."""
        self.transport.write(encode(asked) + b"\n")

    def kill(self) -> None:
        """End it at once."""
        self._killed = True
        self._pieces = []
        if self.transport.pid is not None:
            self.transport.signalProcess("KILL")

    @override
    def outReceived(self, data: bytes) -> None:
        if self._killed:
            return
        *whole, rest = data.split(b"\n")
        for each in whole:
            line, self._pieces, self._bytes = b"".join([*self._pieces, each]), [], 0
            self._owner.answered(self, line)
        self._pieces.append(rest)
        self._bytes += len(rest)
        if self._bytes > ANSWERED_BYTES:
            self._owner.answered(self, b"".join(self._pieces))

    @override
    def errReceived(self, data: bytes) -> None:
        self._said = (self._said + data)[-_SAID_BYTES:]

    @override
    def processEnded(self, reason: Failure) -> None:
        number = getattr(reason.value, "signal", None)
        how = f"killed by signal {number}" if number else f"exit status {getattr(reason.value, 'exitCode', None)}"
        last = self._said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        said = "".join(each if each.isprintable() else "?" for each in last)[:200]
        self._owner.died(self, f"{how}: {said}" if said else how)
