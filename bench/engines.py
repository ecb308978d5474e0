"""Many service engines in one process, each the service that `twistd avi-se` runs: python -m bench.engines FOLDER...

Each has the folder of an instance: `se.toml`, image, user data, state. Keys, files, tunnels and data plane are its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from avinet.se.service import EngineService
from avinet.se.settings import EngineSettings
from avinet.taps.process import make


def start(services: Sequence[IService]) -> None:
    """Start them, and have them stopped before the process ends."""
    for service in services:
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        service.startService()


def main(folders: Sequence[str]) -> None:
    """Run the service engine of each folder until SIGTERM; one that cannot go on ends all of them, with status 1."""
    quiet = LogLevelFilterPredicate(LogLevel.warn)
    warnings = FilteringLogObserver(textFileLogObserver(sys.stderr), [quiet])
    globalLogBeginner.beginLoggingTo([warnings], redirectStandardIO=False)
    services = [make("avi-se", f"{folder}/se.toml", EngineSettings, EngineService) for folder in folders]
    reactor.callWhenRunning(start, services)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
