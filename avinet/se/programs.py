"""Commands that an operator of a service engine adds by its settings: programs with fixed arguments, never a shell.

Each has a guard (`avinet.se.guard`) as its parent, and ends with it: when it is cancelled, when its time is up, and
when the service engine dies. What it prints is passed on as it comes; when nobody takes it the program's pipes fill up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import termios
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.errors import Invalid, Unavailable
from avinet.se.commands import Command, Console
from avinet.settings import Settings
from avinet.wire.command import LONGEST_S, Ended
from avinet.wire.message import Id, Line

GRACE_S = 5.0
"""How long a program that is to end has for that after SIGTERM; then it is SIGKILL."""
AT_ONCE = 16
"""How many may run at a time."""
NO_PROGRAM, NOT_RUN = 127, 126
_GUARD = Path(__file__).with_name("guard.py")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ORDERS, _OUT, _ERRORS, _STATUS = range(4)
_STATUS_BYTES = 64


class Program(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The command `name` runs `argv`, whose first word is a whole path, and ends it after `timeout_s`."""

    name: Id
    argv: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=64)]
    summary: Line = "a program of this machine"
    timeout_s: Annotated[float, Meta(gt=0, le=LONGEST_S)] = 10.0


class Programs:
    """The commands for `programs`, `AT_ONCE` of which run at a time.

    Raises `Invalid` for a name that is among the `known` ones or stands twice, and for a relative path.
    """

    def __init__(
        self, reactor: Any, programs: Sequence[Program], known: Sequence[str], grace_s: float = GRACE_S
    ) -> None:
        self._reactor = reactor
        self._grace_s = grace_s
        self._running = 0
        taken = {*known, "help"}
        self.commands: list[Command] = []
        for program in programs:
            if program.name in taken:
                raise Invalid(
                    f"there are two commands {program.name}", hint="give the one in the settings another name"
                )
            if not program.argv[0].startswith("/"):
                raise Invalid(
                    f"the command {program.name} needs the whole path of its program, not {program.argv[0]!r}"
                )
            taken.add(program.name)
            self.commands.append(Command(program.name, program.summary, stream=self._runner(program)))

    def _runner(self, program: Program) -> Callable[[Sequence[str], Console, float | None], Awaitable[Ended]]:
        async def run(arguments: Sequence[str], console: Console, timeout_s: float | None) -> Ended:
            if arguments:
                raise Invalid(f"{program.name} takes no arguments: they are in the settings of the service engine")
            if self._running >= AT_ONCE:
                raise Unavailable(f"{AT_ONCE} programs run already", retry_after_s=5)
            self._running += 1
            try:
                return await self.run(program, console, min(program.timeout_s, timeout_s or program.timeout_s))
            finally:
                self._running -= 1

        return run

    async def run(self, program: Program, console: Console, timeout_s: float) -> Ended:
        """Run a program to its end, and end all that it has started. Cancelled, it ends the program first.

        The exit status is 127 when there is no such program, 126 when it could not be run, 128 and more when it was
        killed.
        """
        running = _Running(console)
        self._reactor.spawnProcess(
            running,
            sys.executable,
            [sys.executable, "-I", "-S", "-B", str(_GUARD), f"{self._grace_s:g}", *program.argv],
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
            childFDs={_ORDERS: "w", _OUT: "r", _ERRORS: "r", _STATUS: "r"},
        )
        late = False

        def expire() -> None:
            nonlocal late
            late = running.end()

        timer = self._reactor.callLater(timeout_s, expire)
        try:
            said = await _end_of(running)
        finally:
            if timer.active():
                timer.cancel()
        if late:
            console.write_error(f"{program.name} did not end within {timeout_s:g} s, and was ended\n".encode())
        return _ended(said, program, console)


async def _end_of(running: _Running) -> bytes:
    """What the guard says in the end; cancelled, that is soon."""
    while True:
        try:
            return await running.wait()
        except CancelledError:
            running.end()


def _ended(said: bytes, program: Program, console: Console) -> Ended:
    """What the guard's line means."""
    match said.decode("ascii", "replace").split():
        case ["exited" | "killed" as how, number, "left", left]:
            if int(left):
                console.write_error(f"{program.name}: processes that it started cannot be killed: {left}\n".encode())
            return _killed(int(number)) if how == "killed" else Ended(exit_status=int(number) & 0xFF)
        case ["failed", number]:
            console.write_error(f"{program.argv[0]}: {os.strerror(int(number))}\n".encode())
            return Ended(exit_status=NO_PROGRAM if int(number) == errno.ENOENT else NOT_RUN)
        case _:  # the program was killed with its guard
            console.write_error(f"{program.name}: what watches it was killed\n".encode())
            return _killed(signal.SIGKILL)


def _killed(number: int) -> Ended:
    try:
        name = signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        name = str(number)
    return Ended(exit_status=(128 + number) & 0xFF, signal=name)


def _unread(descriptor: int) -> int:
    """How many bytes are in a pipe."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


@implementer(IPushProducer)
class _Running(ProcessProtocol):
    """A program under its guard, whose output goes to `console`."""

    transport: Any

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = bytearray()
        self._over = False
        self._left: dict[int, int] = {}
        """How much is still to be read of each pipe, once the guard is gone."""
        self._waiting: list[Deferred[bytes]] = []

    @override
    def connectionMade(self) -> None:
        self._console.registerProducer(self, True)

    @override
    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == _STATUS:
            self._said += data[: _STATUS_BYTES - len(self._said)]
            return
        if childFD in self._left:
            data = data[: self._left[childFD]]
        (self._console.write if childFD == _OUT else self._console.write_error)(data)
        if childFD in self._left:
            self._left[childFD] -= len(data)
            self._close_read(childFD)

    @override
    def processExited(self, reason: Failure) -> None:
        """The guard is gone: what is in the pipes now is all that is read, whoever holds them open still."""
        for each in (_OUT, _ERRORS):
            if each in self.transport.pipes:
                self._left[each] = _unread(self.transport.pipes[each].fileno())
                self._close_read(each)

    def _close_read(self, descriptor: int) -> None:
        """Close a pipe of which all is read that was to be."""
        if not self._left[descriptor]:
            self.transport.closeChildFD(descriptor)

    @override
    def processEnded(self, reason: Failure) -> None:
        self._over = True
        self._console.unregisterProducer()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(self._line)

    @property
    def _line(self) -> bytes:
        return bytes(self._said).partition(b"\n")[0]

    def wait(self) -> Deferred[bytes]:
        """What the guard has said in the end."""
        waiting: Deferred[bytes] = Deferred(lambda gone: self._waiting.remove(gone))
        if self._over:
            waiting.callback(self._line)
        else:
            self._waiting.append(waiting)
        return waiting

    def end(self) -> bool:
        """Have the program ended; what it still prints is read, as `wait` fires after that. False: it has ended."""
        if _ORDERS not in self.transport.pipes:  # its guard is gone, and only what it printed is not read yet
            return False
        self.transport.writeToChild(_ORDERS, b"T")
        return True

    def _pipes(self) -> list[Any]:
        return [self.transport.pipes[each] for each in (_OUT, _ERRORS) if each in self.transport.pipes]

    def pauseProducing(self) -> None:
        """Read no more: the program waits when its pipe is full."""
        for pipe in self._pipes():
            pipe.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        for pipe in self._pipes():
            pipe.resumeProducing()

    def stopProducing(self) -> None:
        """Nobody wants its output any more."""
        self.resumeProducing()
        self.end()
