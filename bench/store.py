"""A node's store: SQLite and etcd side by side, etcd beside its own command line, and how soon it writes again.

etcd is three members on loopback, over mTLS. The node's store is a process of its own (`bench.storing`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec

from avinet.store.choose import StoreSettings
from bench.latency import quantile
from bench.measure import BenchError, Case, Effort, Figures, Say, at_least, at_most_always, case
from bench.storing import IN_FLIGHT, KEYS, VALUE_BYTES, Measured
from demo.machine import ROOT
from demo.members import Cluster

NAME = "store"
SIDE_BY_SIDE = "side by side"
PEER = f"etcdctl, {IN_FLIGHT} processes"
PATIENCE_S = 60.0
WRITES_BEFORE = 50
_ENDLESS = 10**9
_THROUGHPUT = re.compile(r"Throughput (?:is|too low:) (\d+) writes/s")


class Place:
    """Where both stores are: `etcd` and `sqlite` are folders with the settings of a store."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder)
        self.etcd, self.sqlite = folder / "node", folder / "sqlite"
        self._count = 0
        tls = self.cluster.certificates
        settings = StoreSettings(
            engine="etcd",
            endpoints=tuple(self.cluster.endpoints),
            ca=str(tls / "ca.pem"),
            certificate=str(tls / "client.pem"),
            key=str(tls / "client.key"),
        )
        for place, each in ((self.etcd, settings), (self.sqlite, StoreSettings())):
            place.mkdir()
            (place / "store.json").write_bytes(msgspec.json.encode(each))
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "ETCDCTL_API": "3"}
        self._etcdctl = [
            "etcdctl",
            f"--cacert={settings.ca}",
            f"--cert={settings.certificate}",
            f"--key={settings.key}",
            f"--endpoints={','.join(settings.endpoints)}",
        ]

    def led(self) -> str:
        """The leader, once all members are up."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            healthy = self._run("endpoint", "health").returncode == 0
            if healthy and (leader := self.cluster.leader()) is not None:
                return leader
            time.sleep(0.05)
        raise BenchError(f"etcd's members are not up within {PATIENCE_S:g} s")

    def storing(self, task: str, folder: Path, count: int) -> subprocess.Popen[str]:
        """A store at work; see `bench.storing`."""
        command = [sys.executable, "-m", "bench.storing", task, str(folder), str(count)]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )

    def measured(self, folder: Path, count: int) -> Measured:
        """What a store does on its own."""
        with self.storing("measure", folder, count) as process:
            said, errors = process.communicate()
        try:
            return msgspec.json.decode(said, type=Measured)
        except msgspec.DecodeError:
            raise BenchError(f"the store has failed: {errors[-2000:]}") from None

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._etcdctl, *arguments], capture_output=True, text=True, env=self._environment, check=False
        )

    def etcdctl(self, count: int, *arguments: str) -> float:
        """How many processes of etcdctl do this in a second, a key each, as many at once as ours are in flight."""

        def one(number: int) -> None:
            done = self._run(arguments[0], f"peer/{number % KEYS}", *arguments[1:])
            if done.returncode != 0:
                raise BenchError(f"etcdctl has failed: {done.stderr[-500:]}")

        began = time.perf_counter()
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            list(threads.map(one, range(count)))
        return count / (time.perf_counter() - began)

    def perf(self) -> float:
        """Writes a second by etcdctl's own check, which takes a minute."""
        self._count += 1
        said = self._run("check", "perf", "--load=l", f"--prefix=check/{self._count}/", "--auto-compact")
        if (found := _THROUGHPUT.search(said.stdout + said.stderr)) is None:
            raise BenchError(f"etcdctl check perf has failed: {(said.stdout + said.stderr)[-500:]}")
        return float(found[1])

    def written_again_s(self) -> float:
        """Seconds from `kill -9` of the leader to the end of the first write that began after it."""
        with self.storing("steady", self.etcd, _ENDLESS) as process:
            assert process.stdout is not None
            lines = iter(process.stdout)
            for _ in range(WRITES_BEFORE):
                next(lines)
            leader = self.led()
            killed = time.monotonic()
            self.cluster.kill(leader)
            while True:
                began, ended = map(float, next(lines).split())
                if began > killed:
                    break
            process.communicate()
        self.cluster.start(leader)
        self.led()
        return ended - killed


@contextmanager
def placed() -> Iterator[Place]:
    """Three members that run."""
    for program, package in (("etcd", "etcd-server"), ("etcdctl", "etcd-client")):
        if shutil.which(program) is None:
            raise BenchError(f"there is no {program}: install {package}")
    folder = Path(tempfile.mkdtemp(prefix="avinet-bench-"))
    try:
        place = Place(folder)
        try:
            place.cluster.start()
            place.led()
            yield place
        finally:
            place.cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    runs, count = effort.choose(2, 5, 9), effort.choose(1000, 4000, 8000)
    etcd: list[Measured] = []
    sqlite: list[Measured] = []
    peer: dict[str, list[float]] = defaultdict(list)
    with placed() as place:
        for number in range(runs):
            say(f"run {number + 1} of {runs}")
            etcd.append(place.measured(place.etcd, count))
            peer["put"].append(place.etcdctl(count // 10, "put", "x" * VALUE_BYTES))
            peer["get"].append(place.etcdctl(count // 10, "get"))
            sqlite.append(place.measured(place.sqlite, count))
        yield from rates(etcd, sqlite, peer)
        yield from delays(etcd, sqlite)
        if not effort.quick:
            say("etcdctl check perf, a minute each time")
            checked = [place.perf() for _ in range(effort.choose(0, 2, 5))]
            beside = ("etcdctl check perf, 500 in flight over gRPC", checked)
            yield shown("etcd: transactions, 32 in flight", "1/s", [each.writes for each in etcd], beside)
        say("kill -9 of the leader")
        again = [place.written_again_s() for _ in range(effort.choose(3, 10, 20))]
        must = "≤ 3 s"
        yield case(
            NAME, "etcd: written again after kill -9 of the leader", "s", again, must=must, met=at_most_always(3)
        )


def rates(etcd: Sequence[Measured], sqlite: Sequence[Measured], peer: dict[str, list[float]]) -> Iterator[Case]:
    """With 32 in flight."""
    for name, field, command in (("transactions", "writes", "put"), ("reads", "reads", "get")):
        ours = [getattr(each, field) for each in etcd]
        title = f"etcd: {name}, {IN_FLIGHT} in flight"
        yield case(
            NAME,
            title,
            "1/s",
            ours,
            must="≥ 0.7 ×",
            met=at_least(0.7),
            better="higher",
            peer=(f"{PEER}, {command}", peer[command]),
        )
        yield shown(title, "1/s", ours, ("SQLite", [getattr(each, field) for each in sqlite]))


def delays(etcd: Sequence[Measured], sqlite: Sequence[Measured]) -> Iterator[Case]:
    """One after the other."""
    for name, field in (("a write", "write_s"), ("a read", "read_s"), ("from a write to its event", "watch_s")):
        for part, said in ((0.5, "p50"), (0.99, "p99")):
            ours, theirs = (
                [quantile(sorted(getattr(each, field)), part) * 1000 for each in engine] for engine in (etcd, sqlite)
            )
            yield shown(f"etcd: {name}, {said}", "ms", ours, ("SQLite", theirs))


def shown(name: str, unit: str, ours: Sequence[float], peer: tuple[str, Sequence[float]]) -> Case:
    """Figures for which nothing was asked but that they stand side by side."""
    better = "higher" if unit == "1/s" else "lower"

    def always(ours: Figures, ratio: float | None) -> bool:
        return True

    return case(NAME, name, unit, ours, must=SIDE_BY_SIDE, met=always, better=better, peer=peer)  # type: ignore[arg-type]
