"""The commands of a service engine: one table, reached over the tunnel's `control` service and over SSH alike."""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from avinet.aio import within
from avinet.errors import AvinetError, Invalid
from avinet.wire.command import OUTPUT_LIMIT_BYTES, Ended

BUILT_IN_S = 60.0
"""How long a command of our own may take."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit status as a shell knows it, standard output and standard error."""

    exit_status: int
    output: str = ""
    error: str = ""


class Console(Protocol):
    """Where a command's output goes; whoever takes it too slowly pauses the producer."""

    def write(self, data: bytes) -> None:
        """Standard output."""

    def write_error(self, data: bytes) -> None:
        """Standard error."""

    def registerProducer(self, producer: Any, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...


Run = Callable[[Sequence[str]], Awaitable[str | Outcome]]
Stream = Callable[[Sequence[str], Console, float | None], Awaitable[Ended]]


@dataclass(frozen=True)
class Command:
    """`run` takes the arguments and returns what is printed, or how it ended; `usage` shows the arguments.

    A command with a `stream` prints on a console while it runs, as many seconds as it is given, or as it likes.
    """

    name: str
    summary: str
    run: Run | None = None
    usage: str = ""
    stream: Stream | None = None


class CommandTable:
    """Looks commands up and runs them; the arguments never reach a shell."""

    def __init__(self, clock: IReactorTime, commands: Sequence[Command]) -> None:
        self._clock = clock
        self._commands: Mapping[str, Command] = {each.name: each for each in commands} | {
            "help": Command("help", "list the commands", self._help)
        }

    async def _help(self, arguments: Sequence[str]) -> str:
        shown = [(f"{each.name} {each.usage}".strip(), each.summary) for each in self._commands.values()]
        width = max(len(usage) for usage, _ in shown)
        return "".join(f"{usage:<{width}}  {summary}\n" for usage, summary in sorted(shown))

    async def run(self, name: str, arguments: Sequence[str], console: Console, timeout_s: float | None = None) -> Ended:
        """Run one command: 127 when there is none of that name, 1 when it failed, its reason on standard error."""
        command = self._commands.get(name)
        if command is None:
            console.write_error(f"there is no command {name[:63]!r}; try help\n".encode())
            return Ended(exit_status=127)
        try:
            if command.stream is not None:
                return await command.stream(arguments, console, timeout_s)
            assert command.run is not None
            wait_s = min(timeout_s or BUILT_IN_S, BUILT_IN_S)
            found = await within(self._clock, wait_s, command.run(arguments), f"the command {name}")
        except AvinetError as error:
            found = Outcome(1, error=f"{error}\n")
        except CancelledError:
            found = Outcome(143, error=f"{name} was cancelled\n")
        if isinstance(found, str):
            found = Outcome(0, found)
        if len(found.output) > OUTPUT_LIMIT_BYTES:
            found = Outcome(found.exit_status, found.output[: OUTPUT_LIMIT_BYTES - 32] + "\n... (cut)\n", found.error)
        console.write(found.output.encode())
        console.write_error(found.error.encode())
        return Ended(exit_status=found.exit_status)

    async def run_line(self, line: str, console: Console) -> Ended:
        """Run a command line as SSH's `exec` carries it: words and quotes, nothing else of a shell."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            console.write_error(f"the command line is not whole: {error}\n".encode())
            return Ended(exit_status=2)
        if not words:
            console.write_error(b"say which command; try help\n")
            return Ended(exit_status=2)
        return await self.run(words[0], words[1:], console)


def no_arguments(run: Callable[[], Awaitable[str]]) -> Run:
    """`run` as a command that takes no arguments."""

    async def checked(arguments: Sequence[str]) -> str:
        if arguments:
            raise Invalid("this command takes no arguments")
        return await run()

    return checked


def as_json(value: object) -> str:
    """`value` as people read JSON."""
    return json.dumps(value, indent=2) + "\n"
