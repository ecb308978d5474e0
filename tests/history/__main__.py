"""bin/history [--quick] [--seed N] [--members N]: exit 0 only when the history is one that a single store could have."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

from twisted.internet import reactor
from twisted.trial.unittest import SkipTest

from avinet.aio import as_deferred
from tests.history.run import CLIENTS, NODES, Race, Verdict, members
from tests.store.network import Network

CLEAN, FOUND, FAILED = 0, 1, 3
"""Exit codes: nothing was found; something was; it could not be run. A wrong command line is 2, by argparse."""
SECONDS, QUICK_S = 600, 60
SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bin/history",
        description=f"{CLIENTS} clients on {NODES} nodes race on etcd, whose members are killed, paused and cut off.",
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S} s instead of {SECONDS}")
    parser.add_argument("--seconds", type=int, metavar="N", help="how long, instead of that")
    parser.add_argument("--seed", type=int, metavar="N", help="of all that is drawn; any, when it is not given")
    parser.add_argument("--members", type=int, choices=(3, 5), default=3, help="of etcd (3)")
    options = parser.parse_args(arguments)
    seconds = options.seconds or (QUICK_S if options.quick else SECONDS)
    seed = options.seed or SystemRandom().randrange(1, 1 << 31)
    if shutil.which("etcd") is None:
        print("bin/history needs etcd: install etcd-server", file=sys.stderr)
        return FAILED
    print(f"seed {seed}, {seconds} s, {options.members} members", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="avinet-history-"))
    try:
        verdict = judged(folder, seed, seconds, options.members)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if verdict is None:
        return FAILED
    print(verdict)
    for each in verdict.faults[:SHOWN]:
        print(f"  {each}")
    print(f"{len(verdict.faults)} faults" + (f"; to see it again: bin/history --seed {seed}" if verdict.faults else ""))
    return FOUND if verdict.faults else CLEAN


def judged(folder: Path, seed: int, seconds: float, count: int) -> Verdict | None:
    """What comes of one run; None when it could not be run to its end, which is said."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - began:6.1f} s  {text}", flush=True)

    def network(names: tuple[str, ...]) -> Network | None:
        try:
            return Network(names)
        except SkipTest as error:
            print(f"  nobody is cut off: {error}", flush=True)
            return None

    cluster, made = members(folder, count, network)
    race = Race(reactor, cluster, made, seed, say)
    found: list[Verdict] = []
    try:
        running = as_deferred(race.run(seconds))
        running.addCallback(found.append)
        running.addErrback(lambda failure: print(failure.getTraceback(), file=sys.stderr))
        running.addBoth(lambda _: reactor.callLater(0, reactor.stop))
        reactor.run()
    finally:
        cluster.stop()
        if made:
            made.close()
    return found[0] if found else None


if __name__ == "__main__":
    sys.exit(main())
