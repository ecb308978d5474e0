"""A spool in a process of its own, which is killed: `python -m tests.logs.spool_child FOLDER RUN`.

It takes lines as fast as they are written, some of them rubbish, and prints after each sync how many are durable.
"""

from __future__ import annotations

import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet import task
from twisted.internet.threads import deferToThreadPool

from avinet.aio import Tasks
from avinet.logs.spool.sealer_client import SealerProcess
from avinet.logs.spool.settings import SpoolSettings
from avinet.logs.spool.spool import Spool
from tests.logs.spooling import line

RUBBISH = b"rubbish"
SETTINGS = SpoolSettings(sync_s=0.05, segment_rows=150, segment_age_s=1, cap_age_s=10 * 365 * 86400)


def line_of(run: int, number: int) -> bytes:
    """Line `number` of a run: always the same, one in seven no record."""
    return RUBBISH if number % 7 == 3 else line(number, q=f"{run}.{number}")


def main(folder: Path, run: int) -> None:
    reactor: Any = the_reactor
    spool = Spool(
        reactor,
        folder,
        SETTINGS,
        SealerProcess(reactor, 30),
        partial(deferToThreadPool, reactor, reactor.getThreadPool()),
        time.time,
        time.time,
        Tasks(),
    )
    chance = random.Random(run)
    taken = said = 0

    def more() -> None:
        nonlocal taken, said
        if spool.written > said:
            said = spool.written
            print(said, flush=True)
        count = chance.randrange(30)
        spool.append([line_of(run, number) for number in range(taken, taken + count)])
        taken += count

    spool.start("se-1", 1)
    task.LoopingCall(more).start(0.01)
    reactor.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
