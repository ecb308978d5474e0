"""The journal of jobs: a job's id is durable before it starts, so that no job is ever started twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from avinet.errors import Conflict
from avinet.files import cannot, write_atomic
from avinet.wire.command import CommandResult

KEPT = 1000
"""How many jobs are remembered; the journal is rewritten when it holds twice as many."""


KEPT_CHARS = 4 * 1024 * 1024
"""How much of what jobs printed is kept in memory."""


class Journal:
    """The ids of the latest jobs, in a file; the results of those of this process, in memory.

    `durable` runs a blocking call off the reactor's thread.
    """

    def __init__(self, path: Path, durable: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._path = path
        self._durable = durable
        self._results: dict[str, CommandResult | None] = {}
        if path.exists():
            lines = path.read_text("ascii", "replace").split()
            self._results = dict.fromkeys(lines[-KEPT:])
        self._lines = len(self._results)
        self._writing = threading.Lock()

    async def once(self, job: str, run: Callable[[], Awaitable[CommandResult]]) -> CommandResult:
        """The result of `job`, running it only if it has never been started.

        Raises `Conflict` when it was started before and its outcome is not known here: it runs still, or the service
        engine has ended since.
        """
        if job in self._results:
            known = self._results[job]
            if known is None:
                raise Conflict(f"job {job} was started before, and its outcome is unknown")
            return known
        self._results[job] = None
        try:
            await self._durable(lambda: self._append_alone(job))
        except BaseException:  # it was not started, and may be asked for again
            del self._results[job]
            raise
        result = await run()
        self._results[job] = result
        self._forget_old_results()
        while len(self._results) > KEPT:
            del self._results[next(iter(self._results))]
        return result

    def _forget_old_results(self) -> None:
        """Keep what the latest jobs printed, as much as is little: of the others it is known that they were started."""
        kept = 0
        for job in reversed(list(self._results)):
            result = self._results[job]
            if result is not None:
                kept += len(result.output) + len(result.error)
                if kept > KEPT_CHARS:
                    self._results[job] = None

    def _append_alone(self, job: str) -> None:
        """Calls come from several threads: what one has replaced the other must not write into."""
        with self._writing:
            self._append(job)

    def _append(self, job: str) -> None:
        if self._lines >= 2 * KEPT:
            write_atomic(self._path, "".join(f"{each}\n" for each in self._results).encode("ascii"))
            self._lines = len(self._results)
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with open(descriptor, "ab") as file:
                file.write(f"\n{job}\n".encode("ascii"))  # after what a full disk may have cut off
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot("write", self._path, error) from error
        self._lines += 1
