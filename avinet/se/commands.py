"""The commands of a service engine: one table, reached over the tunnel's `control` service and over SSH alike."""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from avinet.errors import AvinetError, Invalid
from avinet.wire.command import OUTPUT_LIMIT_BYTES


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit status as a shell knows it, standard output and standard error."""

    exit_status: int
    output: str = ""
    error: str = ""


Run = Callable[[Sequence[str]], Awaitable[str | Outcome]]


@dataclass(frozen=True)
class Command:
    """`run` takes the arguments and returns what is printed, or how it ended; `usage` shows the arguments."""

    name: str
    summary: str
    run: Run
    usage: str = ""


class CommandTable:
    """Looks commands up and runs them; the arguments never reach a shell."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self._commands: Mapping[str, Command] = {each.name: each for each in commands} | {
            "help": Command("help", "list the commands", self._help)
        }

    async def _help(self, arguments: Sequence[str]) -> str:
        shown = [(f"{each.name} {each.usage}".strip(), each.summary) for each in self._commands.values()]
        width = max(len(usage) for usage, _ in shown)
        return "".join(f"{usage:<{width}}  {summary}\n" for usage, summary in sorted(shown))

    async def run(self, name: str, arguments: Sequence[str]) -> Outcome:
        """Run one command: 127 when there is none of that name, 1 when it failed, its reason as `error`."""
        command = self._commands.get(name)
        if command is None:
            return Outcome(127, error=f"there is no command {name[:63]!r}; try help\n")
        try:
            output = await command.run(arguments)
        except AvinetError as error:
            return Outcome(1, error=f"{error}\n")
        if isinstance(output, Outcome):
            return output
        if len(output) > OUTPUT_LIMIT_BYTES:
            output = output[: OUTPUT_LIMIT_BYTES - 32] + "\n... (cut)\n"
        return Outcome(0, output=output)

    async def run_line(self, line: str) -> Outcome:
        """Run a command line as SSH's `exec` carries it: words and quotes, nothing else of a shell."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            return Outcome(2, error=f"the command line is not whole: {error}\n")
        return await self.run(words[0], words[1:]) if words else Outcome(2, error="say which command; try help\n")


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
