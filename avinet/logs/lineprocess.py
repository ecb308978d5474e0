"""A process that answers each line with a line: started when it is asked, ended when it is late or says too much.

Nothing here takes long: the reactor goes on while the process works.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import CANCELLED, within
from avinet.errors import LocalError, PeerError, TimedOut

WITHDRAWN_S = 2.0
"""How long a process has to be done with what was taken back."""
_SAID_BYTES = 2048
_SAID_CHARS = 200


class Died(LocalError):
    """The process has ended instead of answering; the text says how, and the last line that it has said."""


class LineProcess:
    """The process that `command` starts, `what` it is in errors; without work it is kept for `idle_s`.

    Its lines have `limit_bytes` at most. It gets `environment`, and `path` as its working folder.
    """

    def __init__(
        self,
        reactor: Any,
        what: str,
        command: Sequence[str],
        *,
        limit_bytes: int,
        idle_s: float,
        environment: Mapping[str, str],
        path: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._what = what
        self._command = list(command)
        self._limit_bytes = limit_bytes
        self._idle_s = idle_s
        self._environment = dict(environment)
        self._path = path
        self._process: _Process | None = None
        self._living: list[_Process] = []
        """All that have not ended, those among them that were left to end by themselves."""
        self._idle: Any = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one that can be asked."""
        return None if self._process is None or self._process.ended else self._process.transport.pid

    async def ask(self, line: bytes, deadline_s: float, withdrawal: bytes = b"") -> bytes:
        """What it answers to `line` within `deadline_s`. One may ask at a time.

        Raises `TimedOut`, `Died`, `PeerError` for a line that is too long, `OSError` when it does not start. After any
        of these the process is gone: what it was at is not known, and the next asks another. So it is when this is
        cancelled, unless it knows a line of `withdrawal`, and says within `WITHDRAWN_S` that it is done.
        """
        self._wake()
        if self._process is None or self._process.ended:
            self._end_others()
            process = _Process(self._what, self._limit_bytes)
            self._reactor.spawnProcess(process, self._command[0], self._command, env=self._environment, path=self._path)
            self._process = process
            self._living.append(process)
        process = self._process
        try:
            return await within(self._reactor, deadline_s, process.ask(line), self._what)
        except CANCELLED:
            await self._withdraw(process, withdrawal)
            raise
        except BaseException:
            await self.end()
            raise
        finally:
            if self._process is not None:
                self._idle = self._reactor.callLater(self._idle_s, self._rest)

    async def _withdraw(self, process: _Process, line: bytes) -> None:
        """Take back what was asked, whatever is answered to it."""
        if line:
            with contextlib.suppress(TimedOut, Died, PeerError, *CANCELLED):
                await within(self._reactor, WITHDRAWN_S, process.withdraw(line), self._what)
                return
        await self.end()

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _rest(self) -> None:
        """Have it end by itself, as there is nothing to do."""
        self._idle = None
        if self._process is not None:
            self._process.transport.closeStdin()
            self._process = None

    def _end_others(self) -> None:
        """One that has not ended by itself when there is work again never may."""
        self._living = [each for each in self._living if not each.ended]
        for each in self._living:
            each.kill()

    async def end(self) -> None:
        """End it at once, and wait until it is gone."""
        self._wake()
        self._process = None
        self._end_others()
        for each in tuple(self._living):
            await each.wait()


class _Process(ProcessProtocol):
    """The process, as long as it lives."""

    transport: Any

    def __init__(self, what: str, limit_bytes: int) -> None:
        self.ended = False
        self._what = what
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._said = b""
        self._asked: Deferred[bytes] | None = None
        self._waiting: list[Deferred[None]] = []

    def ask(self, line: bytes) -> Deferred[bytes]:
        """The line that it answers to `line`."""
        self._pieces, self._bytes = [], 0
        self._asked = Deferred(lambda _: None)
        self.transport.write(line)
        return self._asked

    def withdraw(self, line: bytes) -> Deferred[bytes]:
        """The line that it answers to what it was asked before, for which nobody waits, when it is told `line`."""
        self._asked = Deferred(lambda _: None)
        self.transport.write(line)
        return self._asked

    @override
    def outReceived(self, data: bytes) -> None:
        self._pieces.append(data)
        self._bytes += len(data)
        if self._asked is None:  # what nobody has asked for is not kept: the next answer is not what it should be
            self._pieces = []
        elif self._bytes > self._limit_bytes:
            self._settle(Failure(PeerError(f"the answer of {self._what} has more than {self._limit_bytes} bytes")))
        elif data.endswith(b"\n"):
            self._settle(b"".join(self._pieces))

    def _settle(self, answer: bytes | Failure) -> None:
        asked, self._asked, self._pieces = self._asked, None, []
        if asked is not None and not asked.called:
            asked.errback(answer) if isinstance(answer, Failure) else asked.callback(answer)

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
        number = getattr(reason.value, "signal", None)
        how = f"killed by signal {number}" if number else f"exit status {getattr(reason.value, 'exitCode', None)}"
        last = self._said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        said = "".join(each if each.isprintable() else "?" for each in last)[:_SAID_CHARS]
        self._settle(Failure(Died(f"{how}: {said}" if said else how)))
        for each in self._waiting:
            if not each.called:
                each.callback(None)
