"""Floor 0: the reactor that our processes run on: Twisted's for epoll, without a logging context around each event.

That context tells legacy log messages which connection they are about, by a dozen calls for each event. Ours say so
themselves. What is left out is a tenth of what a small message costs.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.main import installReactor
from typing_extensions import override

if sys.platform == "linux":
    from twisted.internet.epollreactor import EPollReactor

    class PlainReactor(EPollReactor):
        """What is installed."""

        @override
        def doPoll(self, timeout: float | None) -> None:
            for descriptor, event in self._poller.poll(-1 if timeout is None else timeout, len(self._selectables)):
                selectable = self._selectables.get(descriptor)
                if selectable is not None:  # an event before this one may have ended it
                    self._doReadOrWrite(selectable, descriptor, event)

        doIteration = doPoll  # noqa: N815


def reactor() -> Any:
    """The reactor of this process: ours, unless another one was chosen before, or the system has no epoll."""
    if sys.platform == "linux" and "twisted.internet.reactor" not in sys.modules:
        installReactor(PlainReactor())
    from twisted.internet import reactor as installed

    return installed
