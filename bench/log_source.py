"""A service engine that gets lines of request logs from the ring of an HAProxy of the benchmark's own.

The HAProxy takes lines that were made beforehand from a socket (`log-forward`) into its ring, as fast as they are
offered, and the ring has the intake of a real service engine as its server: what is not taken in time is lost, and
counted.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

from avinet.dataplane.render import LINE_BYTES, RECORDS_SOCKET, RING_BYTES
from avinet.se.records import FOLDER
from avinet.wire.command import CommandResult
from avinet.wire.fleet import CommandRun
from avinet.wire.segment import Manifest, read_manifest
from bench.measure import BenchError, cpu_s, private_mb
from bench.site import Site, acknowledged
from demo.machine import free_ports

TURN_S = 0.01
LOOK_S = 0.5
PRIORITY = b"<134>"
"""What begins a line of syslog."""
HAPROXY, SEALER = "ring", b"avinet.logs.spool.sealer"
_SETTINGS = """
[spool]
keep = "always"
segment_age_s = {age_s}
cap_mib = 65536
"""
_HAPROXY = f"""\
ring records
    format raw
    maxlen {LINE_BYTES}
    size {RING_BYTES}
    timeout connect 5s
    timeout server 10s
    server engine unix@{{intake}}
log-forward offered
    bind 127.0.0.1:{{port}}
    timeout client 60s
    log ring@records len {LINE_BYTES} format raw local0
"""


class LogSource:
    """The service engine `id` of `site`, which is made here, and the HAProxy before it."""

    def __init__(self, site: Site, age_s: float = 2.0) -> None:
        self._site = site
        ((self.id, command),) = site.expect(1, "haproxy")
        folder = site.instance(self.id)
        with (folder / "se.toml").open("a", encoding="utf-8") as file:
            file.write(_SETTINGS.format(age_s=age_s))
        self._command = command
        self.logs = folder / "state" / FOLDER
        self._intake = folder / "state" / "dataplane" / RECORDS_SOCKET
        site.start(self.id, command)
        site.until(f"{self.id} has acknowledged", lambda: acknowledged(site.engine(self.id)))

    def restart(self) -> None:
        """Kill it, and start it again."""
        self._site.kill(self.id)
        self._site.start(self.id, self._command)

    def connected(self) -> None:
        """Wait until it can be asked."""
        self._site.until(f"{self.id} answers", lambda: self._run("ping").startswith("pong"), every_s=0.1)

    def _run(self, command: str) -> str:
        path = f"/v1/service-engines/{self.id}/commands"
        return self._site.node.ask("POST", path, CommandResult, CommandRun(command=command)).output

    def fill(self, write: Callable[[Path], None]) -> None:
        """End it, have `write` put something into its spool, and start it again."""
        self._site.kill(self.id)
        write(self.logs)
        self._site.start(self.id, self._command)
        self.connected()

    def _start_haproxy(self, intake: Path) -> socket.socket:
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if program is None:
            raise BenchError("there is no HAProxy: install haproxy")
        (port,) = free_ports(1)
        # A way to the socket that is short enough for one.
        (self._site.folder / "intake").symlink_to(intake)
        path = self._site.folder / "ring.cfg"
        path.write_text(_HAPROXY.format(intake="intake", port=port))
        self._site.start(HAPROXY, [program, "-db", "-C", str(self._site.folder), "-f", str(path)])
        return self._site.until("HAProxy takes lines", lambda: _connected(port))

    def offer(
        self, made: Iterator[bytes], per_s: float, seconds: float, look: Callable[[], None] = lambda: None
    ) -> int:
        """Offer lines as they are `made`, for `seconds`, calling `look` from time to time; how many that were."""
        offered = self._start_haproxy(self._intake)
        sent, begun, looked = 0, time.monotonic(), 0.0
        while (elapsed := time.monotonic() - begun) < seconds:
            some = list(islice(made, int(elapsed * per_s) - sent))
            offered.sendall(b"".join(some))
            sent += len(some)
            if elapsed - looked >= LOOK_S:
                looked = elapsed
                look()
            time.sleep(TURN_S)
        offered.close()
        return sent

    def manifests(self) -> list[Manifest]:
        """Those of the segments that there are."""
        return [read_manifest(each.read_bytes()) for each in sorted(self.logs.glob("[0-9]*-*.json"))]

    def whole_segments(self) -> list[Manifest]:
        """The segments that there are, when nothing but the open file waits to be sealed."""
        self._site.until("all but the last are sealed", lambda: len(list(self.logs.glob("open-*[0-9].jsonl"))) <= 1)
        return self.manifests()

    def counted(self) -> int:
        """How many lines are sealed, or counted as missing."""
        found = self.manifests()
        return rows(found) + sum(gap.records or 0 for each in found for gap in each.gaps)

    def sealer_cpu_s(self) -> float:
        """The seconds of CPU that its sealer has used; it ends when it had nothing to do for half a minute."""
        return sum(map(cpu_s, children(self._site.pid(self.id), SEALER)))

    def longest_stall_s(self) -> float:
        """The longest turn of its loop, of the last minute or two."""
        return float(json.loads(self._run("status"))["longest_stall_s"])

    def memory_mb(self) -> float:
        """The memory of the service engine and its sealer (PSS)."""
        process = self._site.pid(self.id)
        return sum(private_mb(each) for each in (process, *children(process, SEALER)))


def again_and_again(lines: Iterable[bytes]) -> Iterator[bytes]:
    """`lines` as they are offered."""
    return cycle([PRIORITY + line + b"\n" for line in lines])


def rows(manifests: Iterable[Manifest]) -> int:
    """How many records these segments have."""
    return sum(each.rows for each in manifests)


def children(process: int, named: bytes) -> list[int]:
    """The children of `process` whose command line has `named`."""
    found = map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return [each for each in found if named in Path(f"/proc/{each}/cmdline").read_bytes()]


def _connected(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port))
    except OSError:
        return None
