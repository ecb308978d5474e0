"""`twistd avi-se`: a service engine."""

from __future__ import annotations

from twisted.application.service import IService
from twisted.python import usage

from avinet.se.service import EngineService
from avinet.se.settings import EngineSettings
from avinet.taps.process import make


class Options(usage.Options):
    """The options of `twistd avi-se`."""

    optParameters = [["config", "c", "/etc/avinet/se.toml", "The settings of the service engine (TOML)."]]  # noqa: N815


def makeService(options: Options) -> IService:
    """The service, from the settings."""
    return make("avi-se", options["config"], EngineSettings, EngineService)
