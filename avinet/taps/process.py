"""What both processes do with themselves: as many open files as they may, and an end that says why."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from avinet.errors import AvinetError

log = Logger()


def more_files() -> None:
    """Raise the soft limit of open files to the hard one: each tunnel takes a descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def ending(reactor: Any, name: str) -> Callable[[AvinetError], None]:
    """A function that logs why the process cannot go on, ends it in order, and has it exit with status 1."""

    def end(error: AvinetError) -> None:
        log.critical("{name} ends: {why}", name=name, why=str(error))
        reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        reactor.stop()

    return end
