"""Floor 0: the reactor that our processes run on: Twisted's for epoll, with less around each event, and ends of turns.

Twisted wraps each event into a context that tells legacy log messages which connection they are about, by a dozen
calls. Ours say so themselves. What is left out is a tenth of what a small message costs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.main import installReactor
from twisted.logger import Logger
from typing_extensions import override

_log = Logger()

if sys.platform == "linux":
    from twisted.internet.epollreactor import EPollReactor

    class PlainReactor(EPollReactor):
        """What is installed."""

        _last: Callable[[], None] | None = None

        def at_end_of_turn(self, call: Callable[[], None]) -> None:
            """Call back when all that has happened by now was handled, or when somebody else asks for the same.

            So there is only one who has anything to do then, and may hold what it needs for it.
            """
            if call != self._last:
                self._end_turn()
                self._last = call

        def _end_turn(self) -> None:
            while (call := self._last) is not None:  # a call may come to ask for another one
                self._last = None
                try:
                    call()
                except Exception:  # it is not the fault of whoever asked next
                    _log.failure("at the end of a turn")

        @override
        def doPoll(self, timeout: float | None) -> None:
            self._end_turn()
            for descriptor, event in self._poller.poll(-1 if timeout is None else timeout, len(self._selectables)):
                selectable = self._selectables.get(descriptor)
                if selectable is not None:  # an event before this one may have ended it
                    self._doReadOrWrite(selectable, descriptor, event)
            self._end_turn()

        doIteration = doPoll  # noqa: N815


def reactor() -> Any:
    """The reactor of this process: ours, unless another one was chosen before, or the system has no epoll."""
    if sys.platform == "linux" and "twisted.internet.reactor" not in sys.modules:
        installReactor(PlainReactor())
    from twisted.internet import reactor as installed

    return installed
