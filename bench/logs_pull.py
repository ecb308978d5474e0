"""From a log on a service engine to an answer: ours, against `ssh cat` into DuckDB's reader of JSON, the same question.

The service engine has sealed the log as it came in. Meanwhile commands go through the same tunnel. And one of several
GB that loses its tunnel twice, and its controller once.
"""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from avinet.wire.answer import LogAnswer
from avinet.wire.command import CommandResult
from avinet.wire.fleet import CommandRun
from avinet.wire.query import LogQuery, Measure, Series
from bench.carriers import Stage, stage
from bench.log_contents import open_files, segments
from bench.log_source import LogSource, rows
from bench.measure import BenchError, Case, Effort, Say, at_least, at_most_always, below, case, memory_mb
from bench.site import Site
from demo.machine import AVICTL, ROOT, free_ports

NAME = "logs-pull"
PING_S = 0.05
PATIENCE_S = 900.0
LOG = "log.jsonl"
GIB = 1024**3
SEGMENT_BYTES = 64 * 1024**2
HOUR_MS = 3_600_000
P99 = Measure(of="percentile", column="total_ms", quantile=0.99)


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    count = effort.choose(500_000, 4_000_000, 4_000_000)
    with Site() as site, stage({}) as peer:
        site.make()
        source = LogSource(site)
        say(f"{count:,} records are sealed")
        log = site.folder / LOG
        first_ms = _an_hour_ago_ms()
        source.fill(open_files(log, count, first_ms))
        site.until("all are sealed", lambda: rows(source.manifests()) == count, timeout_s=PATIENCE_S, every_s=0.2)
        (port,) = free_ports(1)
        peer.sshd("sshd", port)
        ours, theirs, growth, p99_ms = [], [], [], []
        for _ in range(effort.choose(1, 3, 5)):
            say("a pull and a question")
            took_s, more_mb, late_ms, answer = _pulled(site, source, first_ms)
            ours.append(log.stat().st_size / took_s / 1e6)
            growth.append(more_mb)
            p99_ms.append(late_ms)
            say("the same by ssh and DuckDB")
            took_s, expected = _read(peer, port, log)
            theirs.append(log.stat().st_size / took_s / 1e6)
            if not _alike(answer, expected):
                raise BenchError(f"the answers differ: {answer[:3]} and {expected[:3]}")
    name = f"{log_size(count)} of log: pulled, verified, archived, asked"
    yield case(
        NAME,
        name,
        "MB/s",
        ours,
        peer=("ssh cat | DuckDB read_json", theirs),
        must="≥ 10 × the raw bytes per second",
        met=at_least(10.0),
        better="higher",
    )
    yield case(NAME, "the controller grows by", "MB", growth, must="controller RSS ≤ +64 MB", met=at_most_always(64))
    yield case(NAME, "a command meanwhile, p99", "ms", p99_ms, must="control p99 during it < 50 ms", met=below(50))
    yield from _interrupted(effort, say)


def log_size(count: int) -> str:
    """About how much so many records are as lines."""
    return f"{count * 0.5e-6:.2g} GB"


def _an_hour_ago_ms() -> int:
    """A full minute."""
    return (int(time.time()) // 60 - 60) * 60_000


def _pulled(site: Site, source: LogSource, first_ms: int) -> tuple[float, float, float, list[list[float]]]:
    """Into an empty archive: seconds to the answer, MB that the controller grew, p99 of commands in ms, the answer."""
    site.end("controller")  # in order: one that was killed would go on with the pull before, whose end it may not know
    shutil.rmtree(_archive(site), ignore_errors=True)
    site.start_controller()
    source.connected()
    question = LogQuery(since_ms=first_ms, until_ms=first_ms + 2 * HOUR_MS, get=Series(bucket_s=60, measures=[P99]))
    if _come(site):
        raise BenchError("there is something in the archive before the pull")
    with _Watch(site, source) as watch:
        begun = time.monotonic()
        _avictl(site, "logs", "pull", source.id, "--output", "json")
        answer = site.node.ask("POST", "/v1/log-queries", LogAnswer, question, timeout_s=60)
        took_s = time.monotonic() - begun
    if not answer.rows:
        raise BenchError(f"there is no answer: {answer}")
    return took_s, watch.growth_mb, watch.p99_ms, [[float(each or 0) for each in row] for row in answer.rows]


class _Watch:
    """Sends commands through the tunnel, one after the other, and looks at the memory of the controller."""

    def __init__(self, site: Site, source: LogSource) -> None:
        self._site = site
        self._path = f"/v1/service-engines/{source.id}/commands"
        self._ended = threading.Event()
        self._took_ms: list[float] = []
        self._controller = site.pid("controller")
        self._before = self._most = memory_mb(self._controller)
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(PING_S):
            begun = time.monotonic()
            self._site.node.ask("POST", self._path, CommandResult, CommandRun(command="ping"))
            self._took_ms.append(1000 * (time.monotonic() - begun))
            self._most = max(self._most, memory_mb(self._controller))

    @property
    def growth_mb(self) -> float:
        """How much more memory it had than before, at most."""
        return self._most - self._before

    @property
    def p99_ms(self) -> float:
        """How long 99 of 100 commands took at most."""
        ordered = sorted(self._took_ms)
        return ordered[int(0.99 * (len(ordered) - 1))]


def _avictl(site: Site, *arguments: str) -> str:
    done = subprocess.run(
        [*AVICTL, "--socket", site.node.path, *arguments],
        cwd=ROOT,
        env=site.environment,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"avictl {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def _read(peer: Stage, port: int, log: Path) -> tuple[float, list[list[float]]]:
    """What a user would do without us: the seconds to the answer, and the answer."""
    begun = time.monotonic()
    command = [*peer.ssh(port), "-o", "Compression=no", f"{getpass.getuser()}@127.0.0.1", f"cat {log}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as cat:
        said = subprocess.run(
            [sys.executable, "-m", "bench.json_query"], stdin=cat.stdout, capture_output=True, cwd=ROOT, check=False
        )
    if cat.returncode or said.returncode:
        raise BenchError(f"ssh cat | read_json: {said.stderr.decode(errors='replace')[-500:]}")
    return time.monotonic() - begun, json.loads(said.stdout)


def _alike(ours: list[list[float]], theirs: list[list[float]]) -> bool:
    """Whether both have the same minutes with the same percentiles, within 1 %."""
    return [each[0] for each in ours] == [each[0] for each in theirs] and all(
        abs(one - other) <= 0.01 * max(one, other) for (_, one), (_, other) in zip(ours, theirs, strict=True)
    )


def _interrupted(effort: Effort, say: Say) -> Iterator[Case]:
    """Segments that are not to be read: only what is carried counts."""
    size = effort.choose(GIB // 2, 4 * GIB, 4 * GIB)
    with Site() as site:
        site.make()
        source = LogSource(site)
        say(f"segments of {size / GIB:.2g} GiB are made")
        source.fill(segments(size, SEGMENT_BYTES, source.id, _an_hour_ago_ms()))
        total = sum(each.bytes for each in source.manifests())
        say("a pull that loses its tunnel twice, and its controller")
        here = before = 0
        begun = time.monotonic()
        pull = _avictl(site, "logs", "pull", source.id, "--detach").strip()
        for part in (0.2, 0.5, 0.8):
            site.until("some of it has come", lambda part=part: _come(site) >= part * total, timeout_s=PATIENCE_S)  # type: ignore[misc]
            if part == 0.5:
                site.kill("controller")
                here = _come(site)
                site.start_controller()
                site.until("the controller answers", site.status)
                before = int(_seen(site, pull)["bytes"])
            else:
                source.restart()
        seen = site.until("the pull has ended", lambda: _ended(site, pull), timeout_s=PATIENCE_S, every_s=0.1)
        took_s = time.monotonic() - begun
        if seen["state"] != "done":
            raise BenchError(f"the pull did not succeed: {seen}")
        twice = [(int(seen["bytes"]) - before - (total - here)) / 1e6]
    yield case(
        NAME,
        f"{size / GIB:.2g} GiB of segments past two lost tunnels and a killed controller",
        "MB/s",
        [total / took_s / 1e6],
        must="one of 4 GB compressed, with two tunnel losses and a controller restart",
        met=lambda ours, ratio: True,
        better="higher",
    )
    yield case(
        NAME,
        "of these, carried twice",
        "MB",
        twice,
        must="resumes at the byte",
        met=at_most_always(0),
    )


def _archive(site: Site) -> Path:
    return site.folder / "controller" / "archive"


def _come(site: Site) -> int:
    found = (each for kind in ("*.part", "*.parquet") for each in _archive(site).rglob(kind))
    return sum(each.stat().st_size for each in found if each.exists())


def _seen(site: Site, pull: str) -> dict[str, str]:
    seen: dict[str, dict[str, str]] = json.loads(_avictl(site, "-o", "json", "logs", "pulls", pull))
    return {"bytes": "0", "state": "running", **seen["pull"]}


def _ended(site: Site, pull: str) -> dict[str, str] | None:
    seen = _seen(site, pull)
    return seen if seen["state"] != "running" else None
