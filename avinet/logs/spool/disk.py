"""The folder of a spool at work: off the reactor's thread, one piece of work at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from avinet.aio import Slots
from avinet.errors import AvinetError
from avinet.files import cannot
from avinet.logs.spool.folder import SpoolFolder

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Disk:
    """The `folder` at `path`; whoever has its files at work is in `turn`. `in_thread` runs a function elsewhere."""

    def __init__(self, path: Path, in_thread: InThread) -> None:
        self.folder = SpoolFolder(path)
        self.turn = Slots(1)
        self._in_thread = in_thread

    async def attempt(self, work: Callable[[], Any]) -> str | None:
        """Run `work` off the reactor's thread; why it could not be done."""
        try:
            await self._in_thread(work)
        except OSError as error:
            return str(cannot("write the request logs in", self.folder.path, error))
        except AvinetError as error:
            return str(error)
        return None
