"""Kills at random moments while records come in and are pulled: what is missing afterwards, or there twice.

Killed are the service engine, its sealer, the controller, and the process that answers its queries. Each line has a
number of its own and the time of its making, so that one that is missing can be looked for in the gaps.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import duckdb

from avinet.errors import AvinetError
from avinet.logs.archive.missing import NOT_HERE
from avinet.wire.answer import LogAnswer
from avinet.wire.query import Gaps, LogQuery, Measure, Totals
from bench.log_source import PRIORITY, SEALER, LogSource, children
from bench.measure import BenchError, Case, Effort, Say, always_above, at_most_always, case
from bench.records import lines
from bench.site import Site
from demo.machine import AVICTL, ROOT

NAME = "logs-crash"
PER_S = 25_000.0
QUERIES = b"avinet.logs.query.worker"
SLACK_MS = 50
"""How late a line is in HAProxy's ring after it was made."""
PULL_EVERY_S = 2.0
PATIENCE_S = 300.0
_DAY_MS = 86_400_000


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    records, kills = effort.choose((500_000, 10), (10_000_000, 100), (10_000_000, 100))
    seed = random.SystemRandom().randrange(2**32)
    with Site() as site:
        site.make()
        source = LogSource(site)
        say(f"{records:,} records, {kills} kills, seed {seed}")
        killer = _Killer(site, source, random.Random(seed), kills, records / PER_S)
        made_ms = array("q")
        with _Pulls(site, source):
            sent = source.offer(_numbered(made_ms), PER_S, records / PER_S, killer.look)
        killer.finish()
        say(f"{sent:,} records, {killer.done} kills: all of it is pulled")
        source.connected()
        site.until(
            "the last is in the archive", lambda: _last(site, source) == sent - 1, timeout_s=PATIENCE_S, every_s=1.0
        )
        found = _found(site, made_ms)
    yield case(NAME, "killed", "times", [killer.done], must="100 kills", met=always_above(kills - 1), better="higher")
    none = at_most_always(0)
    yield case(NAME, "missing outside of all gaps", "records", [found.silent], must="0 lost silently", met=none)
    yield case(NAME, "missing within gaps", "records", [found.told], must="told", met=at_most_always(float("inf")))
    yield case(NAME, "there more than once", "records", [found.twice], must="0 twice", met=none)
    yield case(
        NAME,
        "numbers neither in a segment nor in a gap",
        "numbers",
        [found.holes],
        must="sequence proven whole by the query gaps",
        met=none,
    )


class _Killer:
    """Kills something at each of `kills` random moments of `seconds`, and starts again what does not by itself."""

    def __init__(self, site: Site, source: LogSource, chance: random.Random, kills: int, seconds: float) -> None:
        self._site = site
        self._source = source
        self._chance = chance
        begun = time.monotonic()
        self._due = sorted(begun + chance.uniform(1, seconds) for _ in range(kills))
        self.done = 0

    def look(self) -> None:
        """Kill what it is time for."""
        while self._due and time.monotonic() >= self._due[0]:
            self._due.pop(0)
            self._kill()

    def finish(self) -> None:
        """Kill what is left to be."""
        for _ in self._due:
            self._kill()
        self._due = []

    def _kill(self) -> None:
        victim = self._chance.choice(("service engine", "controller", "sealer", "queries"))
        if victim == "service engine":
            self._source.restart()
        elif victim == "controller":
            self._site.kill("controller")
            self._site.start_controller()
        else:
            above, named = (self._source.id, SEALER) if victim == "sealer" else ("controller", QUERIES)
            for each in children(self._site.pid(above), named):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        self.done += 1


class _Pulls:
    """Pulls, and asks, one time after the other; what fails as something was killed is tried again."""

    def __init__(self, site: Site, source: LogSource) -> None:
        self._site = site
        self._source = source
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._pull)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def _pull(self) -> None:
        while not self._ended.wait(PULL_EVERY_S):
            pull(self._site, self._source)
            with contextlib.suppress(AvinetError):
                _asked(
                    self._site, LogQuery(since_ms=0, until_ms=_DAY_MS, get=Totals(measures=[Measure(of="requests")]))
                )


def pull(site: Site, source: LogSource) -> bool:
    """Whether a pull has succeeded."""
    command = [*AVICTL, "--socket", site.node.path, "logs", "pull", source.id, "--output", "json"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=site.environment,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode == 0


def _asked(site: Site, query: LogQuery) -> LogAnswer:
    return site.node.ask("POST", "/v1/log-queries", LogAnswer, query, timeout_s=60)


def _numbered(made_ms: array[int]) -> Iterator[bytes]:
    """Lines that each have their number as path, and the time in which they are made, which is kept."""
    template = json.loads(next(lines(1)))
    before = json.dumps({**template, "t": 0, "u": ""}, separators=(",", ":")).encode()
    head, _, rest = before.partition(b'"t":0')
    middle, _, tail = rest.partition(b'"u":""')
    for number in count():
        now_ms = time.time_ns() // 1_000_000
        made_ms.append(now_ms)
        yield b'%b%b"t":%d%b"u":"/%d"%b\n' % (PRIORITY, head, now_ms, middle, number, tail)


@dataclass(frozen=True)
class Found:
    """How many records are missing within gaps, and outside of them; twice there; numbers that nobody tells of."""

    told: int
    silent: int
    twice: int
    holes: int


def _last(site: Site, source: LogSource) -> int:
    """The number of the last line in the archive, after one more pull."""
    if not pull(site, source):
        return -1
    files = _files(site)
    return -1 if not files else _one(f"SELECT max(path[2:]::BIGINT) FROM read_parquet({files})")


def _files(site: Site) -> list[str]:
    return sorted(str(each) for each in (site.folder / "controller" / "archive").glob("se-*/*/*/*.parquet"))


def _one(sql: str) -> int:
    ((found,),) = duckdb.execute(sql).fetchall()
    return int(found or 0)


def _found(site: Site, made_ms: Sequence[int]) -> Found:
    """What became of the lines that were made at these times, in the order of their numbers."""
    there = f"(SELECT path[2:]::BIGINT AS n FROM read_parquet({_files(site)}))"
    missing = [
        each
        for (each,) in duckdb.execute(
            f"SELECT n FROM range({len(made_ms)}) AS r(n) WHERE n NOT IN (SELECT n FROM {there}) ORDER BY n"
        ).fetchall()
    ]
    query = LogQuery(since_ms=made_ms[0] - SLACK_MS, until_ms=made_ms[-1] + 3_600_000, get=Gaps(limit=1000))
    answer = _asked(site, query)
    if answer.complete.more:
        raise BenchError("there are more gaps than one answer has")
    names = [each.name for each in answer.columns]
    gaps: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in answer.rows]
    spans = [(int(each["from_ms"]) - SLACK_MS, int(each["to_ms"]) + SLACK_MS) for each in gaps]
    silent = sum(not any(begin <= made_ms[each] <= end for begin, end in spans) for each in missing)
    return Found(
        told=len(missing) - silent,
        silent=silent,
        twice=_one(f"SELECT count(*) - count(DISTINCT n) FROM {there}"),
        holes=sum(int(each["records"] or 0) for each in gaps if each["reason"] == NOT_HERE),
    )
