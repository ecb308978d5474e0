"""The exports of a service engine: what its settings name, between its data plane and collectors in its network."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults

from avinet.aio import Tasks, as_deferred
from avinet.dataplane.interface import Dataplane, Why
from avinet.errors import LocalError
from avinet.logs.export.destinations import Around, destination
from avinet.logs.export.exporter import Exporter
from avinet.logs.export.settings import Export
from avinet.se.significant import SignificantRecords
from avinet.wire.report import ExportState


class Exports:
    """All of them. Raises `LocalError` for one that cannot be; its files are below `folder`."""

    def __init__(
        self,
        reactor: Any,
        settings: Sequence[Export],
        folder: Path,
        engine: Callable[[], str],
        now: Callable[[], float],
        random: Callable[[], float],
        tasks: Tasks,
    ) -> None:
        names = [each.name for each in settings]
        if twice := [name for name in names if names.count(name) > 1]:
            raise LocalError(f"there are two exports named {twice[0]}", hint="give one of them another name")
        around = Around(engine, platform.node(), now)
        self._all = [
            Exporter(reactor, each, destination(reactor, each, folder, around), now, random, tasks) for each in settings
        ]

    def listen(self, dataplane: Dataplane, significant: SignificantRecords) -> None:
        """Take what they say from now on, beside those who listen already."""
        lines, missed = dataplane.lines, dataplane.missed
        whole = [each for each in self._all if each.settings.what == "all"]
        significant.others += [each.take for each in self._all if each.settings.what == "significant"]
        if not whole:
            return

        def take(some: Sequence[bytes]) -> None:
            lines(some)
            for each in whole:
                each.take(some)

        def missing(reason: Why, records: int | None, from_ms: int | None = None, to_ms: int | None = None) -> None:
            missed(reason, records, from_ms, to_ms)
            for each in whole:
                each.missing(reason, records, from_ms, to_ms)

        dataplane.lines, dataplane.missed = take, missing

    def start(self) -> None:
        """Begin to send."""
        for each in self._all:
            each.start()

    @property
    def states(self) -> list[ExportState]:
        """What became of each so far."""
        return [each.state for each in self._all]

    async def stop(self) -> None:
        """Send what is there, as far as that is quick."""
        await gatherResults([as_deferred(each.stop()) for each in self._all], consumeErrors=True)
