"""Many service engines in one process, each the service that `twistd avi-se` runs: python -m bench.engines FOLDER...

Each has the folder of an instance: `se.toml`, image, user data, state. Keys, files, tunnels and data plane are its own.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from avinet.errors import AvinetError
from avinet.se.service import EngineService
from avinet.se.settings import EngineSettings
from avinet.settings import load
from avinet.taps.process import more_files


def failed(error: AvinetError) -> None:
    """A service engine cannot go on: the others do."""
    print(f"bench.engines: {error}", file=sys.stderr, flush=True)


def main(folders: Sequence[str]) -> None:
    """Run the service engine of each folder until SIGTERM."""
    warnings = FilteringLogObserver(textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(LogLevel.warn)])
    globalLogBeginner.beginLoggingTo([warnings], redirectStandardIO=False)
    more_files()
    running: object = reactor
    for folder in map(Path, folders):
        service = EngineService(
            running,
            load(folder / "se.toml", EngineSettings),
            folder,
            wall=time.time,
            random=random.random,
            failed=failed,
        )
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        reactor.callWhenRunning(service.startService)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
