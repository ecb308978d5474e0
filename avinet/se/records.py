"""Request logs of this service engine: from the data plane into its spool, if it keeps any."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from avinet.aio import Tasks
from avinet.dataplane.interface import Dataplane
from avinet.errors import LocalError
from avinet.logs.spool.disk import InThread
from avinet.logs.spool.sealer_client import SealerProcess
from avinet.logs.spool.settings import SpoolSettings
from avinet.logs.spool.spool import Spool

FOLDER = "logs"
_log = Logger()


def request_logs(
    reactor: Any,
    state: Path,
    settings: SpoolSettings,
    dataplane: Dataplane,
    in_thread: InThread,
    wall: Callable[[], float],
    machine: Callable[[], float],
    tasks: Tasks,
) -> Spool | None:
    """The spool below `state` that takes what `dataplane` says from now on, to be started; None when none is kept.

    Raises `LocalError` when they are always to be kept, and cannot be.
    """
    if settings.keep == "never":
        return None
    if importlib.util.find_spec("duckdb") is None:
        if settings.keep == "always":
            raise LocalError("request logs cannot be kept: DuckDB is missing", hint="install avinet[analytics]")
        _log.info("request logs are not kept: DuckDB, which seals them, is not installed (avinet[analytics])")
        return None
    spool = Spool(
        reactor,
        state / FOLDER,
        settings,
        SealerProcess(reactor, settings.seal_s),
        in_thread,
        wall,
        machine,
        tasks,
    )
    dataplane.lines = spool.append
    dataplane.missed = spool.gap
    return spool


def shown(spool: Spool | None) -> dict[str, object] | None:
    """The state of `spool`, for people; None when no request logs are kept."""
    if spool is None:
        return None
    return {"records": spool.durable, "segments": len(spool.segments()), "bytes": spool.size, "lost": dict(spool.lost)}


def losses_of(spool: Spool | None) -> Callable[[], int]:
    """Tells how many records were lost in `spool` since it was last asked."""
    said = 0

    def more() -> int:
        nonlocal said
        before, said = said, spool.lost_here if spool is not None else 0
        return said - before

    return more
