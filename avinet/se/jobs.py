"""The journal of jobs: a job's id is durable before it starts, so that no job is ever started twice."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from avinet.errors import Conflict
from avinet.files import cannot, write_atomic

KEPT = 1000
"""How many jobs are remembered; the journal is rewritten when it holds twice as many."""


class Journal:
    """The ids of the latest jobs, in a file.

    `durable` runs a blocking call off the reactor's thread.
    """

    def __init__(self, path: Path, durable: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._path = path
        self._durable = durable
        lines = path.read_text("ascii", "replace").split() if path.exists() else []
        self._known = dict.fromkeys(lines[-KEPT:])
        self._lines = len(self._known)
        self._written = deque(self._known, KEPT)
        """The latest in the file; like `_lines` it belongs to whoever holds `_writing`, which is never the reactor."""
        self._writing = threading.Lock()

    def __contains__(self, job: str) -> bool:
        return job in self._known

    async def begin(self, job: str) -> None:
        """Make it durable that `job` was begun. Raises `Conflict` when it was before, and `LocalError`."""
        if job in self._known:
            raise Conflict(f"job {job} was started before, and its outcome is unknown")
        self._known[job] = None
        try:
            await self._durable(lambda: self._append_alone(job))
        except BaseException:  # it was not started, and may be asked for again
            del self._known[job]
            raise
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    def _append_alone(self, job: str) -> None:
        """Calls come from several threads: what one has replaced the other must not write into."""
        with self._writing:
            self._append(job)
            self._written.append(job)

    def _append(self, job: str) -> None:
        if self._lines >= 2 * KEPT:
            write_atomic(self._path, "".join(f"{each}\n" for each in (*self._written, job)).encode("ascii"))
            self._lines = len(self._written) + 1
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
