"""Commands that an operator of a service engine adds by its settings: programs with fixed arguments, never a shell."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from msgspec import Meta

from avinet.errors import Invalid
from avinet.se.commands import Command, Outcome
from avinet.settings import Settings
from avinet.wire.command import OUTPUT_LIMIT_BYTES
from avinet.wire.message import Id, Line

ERROR_LIMIT_BYTES = 60 * 1024
"""What is kept of the standard error; of the output it is what a result may have."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CUT = "\n... (cut)\n"
_PIECE_BYTES = 64 * 1024
_NO_PROGRAM, _NOT_ENDED = 127, 125
END_S = 5.0
"""How long a program that was killed is waited for."""
AT_ONCE = 4
"""How many may run at a time; they have threads of their own, as each holds one until it ends."""

InThread = Callable[[Callable[[], Outcome]], Awaitable[Outcome]]


class Program(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The command `name` runs `argv`, whose first word is a whole path, and ends it after `timeout_s`."""

    name: Id
    argv: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=64)]
    summary: Line = "a program of this machine"
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0


def program_commands(programs: Sequence[Program], known: Sequence[str], in_thread: InThread) -> list[Command]:
    """The commands for `programs`. Raises `Invalid` for a name that is `known` or stands twice, or a relative path."""
    taken = {*known, "help"}
    commands = []
    for program in programs:
        if program.name in taken:
            raise Invalid(f"there are two commands {program.name}", hint="give the one in the settings another name")
        if not program.argv[0].startswith("/"):
            raise Invalid(f"the command {program.name} needs the whole path of its program, not {program.argv[0]!r}")
        taken.add(program.name)
        commands.append(Command(program.name, program.summary, _runner(program, in_thread)))
    return commands


def _runner(program: Program, in_thread: InThread) -> Callable[[Sequence[str]], Awaitable[Outcome]]:
    async def run(arguments: Sequence[str]) -> Outcome:
        if arguments:
            raise Invalid(f"{program.name} takes no arguments: they are in the settings of the service engine")
        return await in_thread(lambda: run_program(program))

    return run


def run_program(program: Program) -> Outcome:
    """Run a program to its end, and end what is left of its process group.

    The exit status is 127 when there is no such program, 128 and more when it was killed, 125 when it could not be.
    """
    try:
        process = subprocess.Popen(
            program.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        return Outcome(_NO_PROGRAM, error=f"{program.argv[0]}: {error.strerror}\n")
    try:
        output, errors, ended = _read(process, time.monotonic() + program.timeout_s)
    finally:
        _end(process)
    late = "" if ended else f"{program.name} did not end within {program.timeout_s:g} s, and was killed\n"
    try:
        status = process.wait(END_S)
    except subprocess.TimeoutExpired:  # it hangs in the kernel, or has become another user's
        return Outcome(_NOT_ENDED, output, f"{errors}{program.name} could not be ended: process {process.pid}\n")
    return Outcome(128 - status if status < 0 else status, output, errors + late)


def _read(process: subprocess.Popen[bytes], until: float) -> tuple[str, str, bool]:
    """What a process writes until it ends, as much as is kept; and whether it ended by the time `until` (monotonic).

    What it started may go on, and hold its output open: that is not waited for.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    kept = [
        (process.stdout.fileno(), bytearray(), OUTPUT_LIMIT_BYTES),
        (process.stderr.fileno(), bytearray(), ERROR_LIMIT_BYTES),
    ]
    ended = False
    watched = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as waiting:
            waiting.register(watched, selectors.EVENT_READ)
            for descriptor, data, limit in kept:
                waiting.register(descriptor, selectors.EVENT_READ, (data, limit))
            while (left_s := until - time.monotonic()) > 0:
                found = waiting.select(0 if ended else left_s)
                if ended and not found:
                    break
                for key, _ in found:
                    if key.fd == watched:
                        ended = True
                        waiting.unregister(watched)
                        continue
                    data, limit = key.data
                    piece = os.read(key.fd, _PIECE_BYTES)
                    data += piece[: max(0, limit + 1 - len(data))]
                    if not piece:
                        waiting.unregister(key.fd)
    finally:
        os.close(watched)
    output, errors = (_text(bytes(data), limit) for _, data, limit in kept)
    return output, errors, ended


def _text(data: bytes, limit: int) -> str:
    """Bytes of a program as text of at most `limit` characters, which is what messages have limits for."""
    text = data.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(data) <= limit else text[: limit - len(_CUT)] + _CUT


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its process group, and let go of its output: what it left behind would run for ever."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
