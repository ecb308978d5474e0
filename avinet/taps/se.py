"""`twistd avi-se`: a service engine."""

from __future__ import annotations

import random
import time
from pathlib import Path

from twisted.application.service import IService
from twisted.python import usage

from avinet.errors import AvinetError
from avinet.se.service import EngineService
from avinet.se.settings import EngineSettings
from avinet.settings import load
from avinet.taps.process import ending, more_files


class Options(usage.Options):
    """The options of `twistd avi-se`."""

    optParameters = [["config", "c", "/etc/avinet/se.toml", "The settings of the service engine (TOML)."]]  # noqa: N815


def makeService(options: Options) -> IService:
    """The service, from the settings. What is wrong with them, or with its state, ends the process with one line."""
    from twisted.internet import reactor

    path = Path(options["config"]).absolute()
    try:
        more_files()
        return EngineService(
            reactor,
            load(path, EngineSettings),
            path.parent,
            wall=time.time,
            random=random.random,
            failed=ending(reactor, "avi-se"),
        )
    except AvinetError as error:
        raise SystemExit(f"avi-se: {error}") from error
