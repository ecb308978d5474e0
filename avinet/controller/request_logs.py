"""What a node does with request logs: the archive, pulls into it, questions to it, and what is significant of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from avinet.aio import Tasks
from avinet.controller.log_archive import LogArchive
from avinet.controller.log_pulls.driver import Recorded
from avinet.controller.log_queries import LogQueries
from avinet.controller.reverse import Reverse
from avinet.controller.saved_queries import SavedQueries
from avinet.controller.sessions import Sessions
from avinet.controller.settings import ControllerSettings
from avinet.enrolment.directory import Directory
from avinet.logs.live.recent import Recent
from avinet.logs.query.client import QueryWorker
from avinet.store.interface import Store
from avinet.telemetry.counted import Counted


class RequestLogs:
    """`recent` are the significant records, `batches` those of them that were counted; `folder` is that of settings."""

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        settings: ControllerSettings,
        tasks: Tasks,
        node: str,
        store: Store,
        sessions: Sessions,
        reverse: Reverse,
        directory: Directory,
        recorded: Recorded,
        now: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._tasks = tasks
        self.recent, self.batches = Recent(), Counted()
        at = folder / settings.archive.folder if settings.archive.folder else folder / settings.state / "archive"
        self._archive = LogArchive(reactor, at, settings, now)
        self.pulls = self._archive.pulls(tasks, node, store, sessions, reverse, directory, recorded, random)
        worker = QueryWorker(
            reactor,
            at,
            memory_bytes=settings.queries.memory_mib << 20,
            threads=settings.queries.threads,
            waiting=settings.queries.waiting,
        )
        self.queries = LogQueries(worker, directory.records, settings.queries.deadline_s)
        self.saved = SavedQueries(store, now, recorded)

    async def start(self) -> None:
        """Go on with the pulls that had not ended, and keep the archive within its bounds."""
        await self.pulls.start()
        self._tasks.spawn(self._archive.retention.keep(), "keeping the archive of request logs")

    async def stop(self) -> None:
        """End pulls and queries; they go on, and are asked again, when the node is back."""
        await self.pulls.stop()
        await self.queries.stop()

    async def close(self) -> None:
        """End the archive's threads, when nobody uses it any more."""
        await self._archive.stop()

    def forget(self, id: str) -> None:
        """A service engine is no more; what was pulled of it stays."""
        self.recent.forget(id)
        self.batches.forget(id)
