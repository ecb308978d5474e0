"""What both processes have in common: their settings, as many open files as they may have, an end that says why."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.application.service import IService
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from avinet import loop
from avinet.enrolment.client import FINAL
from avinet.errors import AvinetError
from avinet.settings import Settings, load

S = TypeVar("S", bound=Settings)
HOPELESS = 78
"""EX_CONFIG of sysexits.h; the systemd units and the local driver know it."""
_BLOCK_BYTES = 8 << 20
log = Logger()


def make(name: str, config: str, settings: type[S], service: Callable[..., IService]) -> IService:
    """The service `name` with the settings in the file `config`.

    What is wrong with them, or with its state, ends the process with one line and status 1.
    """
    reactor = loop.reactor()
    path = Path(config).absolute()
    try:
        more_files()
        fewer_collections()
        keep_memory()
        reactor.callWhenRunning(end_on_sigterm, reactor)
        return service(
            reactor,
            load(path, settings),
            path.parent,
            wall=time.time,
            random=random.random,
            failed=ending(reactor, name),
        )
    except AvinetError as error:
        raise SystemExit(f"{name}: {error}") from error


def end_on_sigterm(reactor: Any) -> None:
    """Have SIGTERM end the process in order and with status 0: Twisted's own way would end it by that signal."""
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(_stop, reactor))


def _stop(reactor: Any) -> None:
    with contextlib.suppress(ReactorNotRunning):  # it stops already
        reactor.stop()


def more_files() -> None:
    """Raise the soft limit of open files to the hard one: each tunnel takes a descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def fewer_collections() -> None:
    """Have the garbage collector look at what is new, and at all there is only when much has come and stayed.

    Ten thousand sessions are more than a million objects, and to look at all of them stops the process for a second.
    With Python's own thresholds that happens again and again while a fleet comes back. What goes, goes by its reference
    counts; the third generation is what catches cycles that nobody broke, after some million objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 100)


def keep_memory() -> None:
    """Have the C library keep some MiB that were freed for what comes next.

    glibc gives the top of its heap back to the system once it is more than twice the largest block that it ever had
    from the system by itself, and was freed (mallopt(3), `M_TRIM_THRESHOLD`). Data that a socket did not take at once
    would be paid with a page fault for each 4 KiB then. Elsewhere this does nothing.
    """
    bytes(_BLOCK_BYTES)


def ending(reactor: Any, name: str) -> Callable[[AvinetError], None]:
    """A function that logs why the process cannot go on, ends it in order, and has it exit with a status that says it.

    `HOPELESS` is for what no new start can change: a service manager does not try again.
    """

    def end(error: AvinetError) -> None:
        log.critical("{name} ends: {why}", name=name, why=str(error))
        status = HOPELESS if isinstance(error, FINAL) else 1
        reactor.addSystemEventTrigger("after", "shutdown", os._exit, status)
        reactor.stop()

    return end
