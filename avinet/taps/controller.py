"""`twistd avi-controller`: a controller."""

from __future__ import annotations

from twisted.application.service import IService
from twisted.python import usage

from avinet.controller.service import ControllerService
from avinet.controller.settings import ControllerSettings
from avinet.taps.process import make


class Options(usage.Options):
    """The options of `twistd avi-controller`."""

    optParameters = [  # noqa: N815
        ["config", "c", "/etc/avinet/controller.toml", "The settings of the controller (TOML)."]
    ]


def makeService(options: Options) -> IService:
    """The service, from the settings."""
    return make("avi-controller", options["config"], ControllerSettings, ControllerService)
