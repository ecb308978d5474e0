"""The archive of request logs of a node: its threads, what is pulled into it, and what of it is kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.python.threadpool import ThreadPool

from avinet.aio import Tasks
from avinet.controller.log_pulls.driver import LogPulls, Recorded
from avinet.controller.log_pulls.errands import Errands
from avinet.controller.log_pulls.records import PullRecords
from avinet.controller.log_pulls.source import LogSource
from avinet.controller.retention import Retention
from avinet.controller.reverse import Reverse
from avinet.controller.sessions import LOGS, Sessions
from avinet.controller.settings import ControllerSettings
from avinet.enrolment.directory import Directory
from avinet.logs.archive.archive import Archive
from avinet.logs.pull.incoming import Incoming
from avinet.logs.pull.puller import Puller
from avinet.logs.spool.settings import MIB
from avinet.store.interface import Store
from avinet.wire.log_pulls import LogPullOrder

THREADS_BESIDE = 2
"""Threads beside one for each segment that is fetched: for what is made durable, and for what is removed."""


class LogArchive:
    """The archive in `folder`. What waits for its disk does so in threads of its own: others' are not to wait, too."""

    def __init__(self, reactor: Any, folder: Path, settings: ControllerSettings, now: Callable[[], float]) -> None:
        self._reactor = reactor
        self._settings = settings
        self._now = now
        self._pool = ThreadPool(0, settings.pulls.at_once + THREADS_BESIDE, "archive")
        self._archive = Archive(folder, details=False)
        self._incoming = Incoming(folder, settings.archive.spare_mib * MIB)
        self.retention = Retention(
            reactor,
            self._archive,
            self._incoming,
            self._in_thread,
            now,
            settings.archive.limit_mib * MIB,
            settings.archive.age_s,
        )

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        if not self._pool.started:
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, work)

    def pulls(
        self,
        tasks: Tasks,
        node: str,
        store: Store,
        sessions: Sessions,
        reverse: Reverse,
        directory: Directory,
        recorded: Recorded,
        random: Callable[[], float],
    ) -> LogPulls:
        """Pulls into it."""
        engines = _Engines(sessions, reverse, directory, self._settings.pulls.stalled_s)
        puller = Puller(self._archive, self._incoming, self._in_thread)
        return LogPulls(
            self._reactor,
            tasks,
            node,
            PullRecords(store),
            Errands(self._reactor, puller, engines, random),
            recorded,
            self._now,
            secrets.token_bytes,
            self._settings.pulls.at_once,
        )

    async def stop(self) -> None:
        """End its threads, each of which ends what it is at."""
        if self._pool.started:
            await deferToThread(self._pool.stop)


class _Engines:
    """See `avinet.controller.log_pulls.errands.Engines`."""

    def __init__(self, sessions: Sessions, reverse: Reverse, directory: Directory, stalled_s: float) -> None:
        self._sessions = sessions
        self._reverse = reverse
        self._directory = directory
        self._stalled_s = stalled_s

    def known(self, id: str) -> bool:
        return self._directory.get(id) is not None

    def connected(self, id: str) -> bool:
        session = self._sessions.find(id)
        return session is not None and session.can_be_asked and LOGS in session.tunnel.offered

    def source(self, id: str, order: LogPullOrder) -> LogSource:
        return LogSource(self._sessions, self._reverse, self._sessions.get(id), order, self._stalled_s)
