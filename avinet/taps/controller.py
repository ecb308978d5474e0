"""`twistd avi-controller`: a controller."""

from __future__ import annotations

import random
import time
from pathlib import Path

from twisted.application.service import IService
from twisted.python import usage

from avinet.controller.service import ControllerService
from avinet.controller.settings import ControllerSettings
from avinet.errors import AvinetError
from avinet.settings import load
from avinet.taps.process import ending, more_files


class Options(usage.Options):
    """The options of `twistd avi-controller`."""

    optParameters = [  # noqa: N815
        ["config", "c", "/etc/avinet/controller.toml", "The settings of the controller (TOML)."]
    ]


def makeService(options: Options) -> IService:
    """The service, from the settings. What is wrong with them, or with its state, ends the process with one line."""
    from twisted.internet import reactor

    path = Path(options["config"]).absolute()
    try:
        more_files()
        return ControllerService(
            reactor,
            load(path, ControllerSettings),
            path.parent,
            wall=time.time,
            random=random.random,
            failed=ending(reactor, "avi-controller"),
        )
    except AvinetError as error:
        raise SystemExit(f"avi-controller: {error}") from error
