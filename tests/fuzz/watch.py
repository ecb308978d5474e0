"""What must not happen, whatever the input: a fault of ours in the log, a traceback, a descriptor that stays open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

_FAULTS = (LogLevel.error, LogLevel.critical)


class Found(AssertionError):
    """Something that must not happen has happened."""


def check(holds: object, what: str) -> None:
    """`what` is found unless it `holds`."""
    if not holds:
        raise Found(what)


def descriptors() -> int:
    """How many descriptors this process has open, without the one that it takes to count them."""
    return len(os.listdir("/proc/self/fd")) - 1


class Log:
    """What was logged meanwhile: lines as they are read, and those that are faults of ours."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.faults: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        line = formatEvent(event)
        self.lines.append(line)
        failure = event.get("log_failure")
        if failure is not None or level in _FAULTS:
            self.faults.append(f"{line}\n{failure.getTraceback() if failure is not None else ''}")


@contextmanager
def watched() -> Iterator[Log]:
    """Raises `Found` for what the log and the descriptors say of the work in between."""
    log = Log()
    before = descriptors()
    globalLogPublisher.addObserver(log)
    try:
        yield log
    finally:
        globalLogPublisher.removeObserver(log)
    check(not log.faults, "a fault of ours was logged: " + "\n".join(log.faults))
    check(descriptors() == before, f"of {before} descriptors there are {descriptors()} now")
