"""How long somebody waits for an answer: until the time that they have given it is up, or until they go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from avinet.errors import TimedOut

_LOOK_S = 0.02
"""How often a thread looks whether there is any left."""


class Patience:
    """Somebody waits for `limit_s` from now on, unless they have `gone` before, which another thread says."""

    def __init__(self, limit_s: float, gone: threading.Event | None = None) -> None:
        self._limit_s = limit_s
        self._ends = time.monotonic() + limit_s
        self._gone = gone or threading.Event()

    def check(self) -> None:
        """Raises `TimedOut` when nobody waits any more."""
        if self._over():
            raise self.lost()

    def lost(self) -> TimedOut:
        """What is said to whoever has waited."""
        if self._gone.is_set():
            return TimedOut("nobody waits for the answer any more")
        return TimedOut(
            f"the query did not end within {self._limit_s:g} s",
            hint="ask for a shorter time, fewer service engines or services",
        )

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Have a thread `interrupt` what is done in here when nobody waits for it any more.

        Again and again, as a database takes no notice of what comes between two statements.
        """
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_LOOK_S):
                if self._over():
                    interrupt()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        finally:
            done.set()
            watching.join()  # it interrupts nothing else

    def _over(self) -> bool:
        return self._gone.is_set() or time.monotonic() >= self._ends
