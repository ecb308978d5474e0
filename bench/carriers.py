"""What carries the same traffic in turn: a tunnel of ours, OpenSSH's, one with an end of each, and a relay without SSH.

Each has doors on 127.0.0.1 for every target: `near` doors are the client's (`ssh -L`), `far` doors the server's (`-R`).
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from avinet.trust.keys import generate, public_line, save_private
from bench.forwarder import USER
from bench.measure import BenchError
from demo.machine import Machine, StepFailed, free_ports

_SOURCE = Path(__file__).parent / "traffic.c"
_TICKS = os.sysconf("SC_CLK_TCK")
DEFAULT = "the default cipher"
GCM = "aes128-gcm@openssh.com"


@dataclass
class Carrier:
    """Something that stands and carries: its doors by target, and the processes whose work that is."""

    name: str
    near: Mapping[str, int]
    far: Mapping[str, int]
    processes: tuple[int, ...]

    def cpu_s(self) -> float:
        """The seconds of CPU that all its processes have used so far."""
        return sum(map(_cpu_s, self.processes))


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Stage:
    """A folder with keys and the compiled ends of the traffic, and the targets that all carriers lead to."""

    def __init__(self, machine: Machine, targets: Mapping[str, tuple[str, ...]]) -> None:
        self.machine = machine
        compiler = shutil.which("cc")
        if compiler is None:
            raise BenchError("there is no C compiler: install gcc")
        self.traffic = str(machine.folder / "traffic")
        subprocess.run([compiler, "-O2", "-o", self.traffic, str(_SOURCE)], check=True)
        for name in ("host_key", "user_key"):
            key = generate()
            save_private(machine.folder / name, key)
            (machine.folder / f"{name}.pub").write_text(public_line(key) + "\n")
        self.targets = dict(zip(targets, free_ports(len(targets)), strict=True))
        for target, (what, *arguments) in targets.items():
            self._start(f"target-{target}", self.traffic, what, str(self.targets[target]), *arguments)

    def _start(self, name: str, *command: str) -> int:
        """Start a process and wait until it is ready."""
        self.machine.start(name, *command)
        try:
            self.machine.until(f"{name} is ready", lambda: self._ready(name))
        except StepFailed as error:
            raise BenchError(f"{error}: {self.machine.log_tail(name)}") from None
        return self.machine.process(name)

    def _ready(self, name: str) -> bool:
        if self.machine.ended(name):
            raise BenchError(f"{name} has ended: {self.machine.log_tail(name)}")
        return "ready" in self.machine.log_tail(name, 100)

    def run(self, *arguments: str, timeout_s: float = 120) -> list[str]:
        """The lines that one end of the traffic prints."""
        done = subprocess.run(
            [self.traffic, *arguments], capture_output=True, timeout=timeout_s, check=False, text=True
        )
        if done.returncode:
            raise BenchError(f"traffic {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout.splitlines()

    def _linked(self, port: int, link: tuple[float, float] | None) -> int:
        """The port that leads to `port`, over a link of so many bytes/s and so much delay one way, if any."""
        if link is None:
            return port
        (near,) = free_ports(1)
        self._start(f"link-{port}", sys.executable, "-m", "bench.link", f"{near}={port}", *map(str, link))
        return near

    def ours(self, name: str = "ours", link: tuple[float, float] | None = None) -> Carrier:
        """A tunnel with both ends ours."""
        port, near, far = self._ports()
        forwarder = (sys.executable, "-m", "bench.forwarder")
        folder = str(self.machine.folder)
        serving = (*forwarder, "server", folder, str(port))
        server = self._start(f"{name}-server", *serving, *self._services("near"), *self._doors("far", far))
        dialling = (*forwarder, "client", folder, str(self._linked(port, link)))
        client = self._start(f"{name}-client", *dialling, *self._services("far"), *self._doors("near", near))
        return Carrier(name, near, far, (server, client))

    def openssh(self, name: str, *options: str, link: tuple[float, float] | None = None) -> Carrier:
        """A tunnel with both ends OpenSSH's."""
        port, near, far = self._ports()
        program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise BenchError("there is no sshd: install openssh-server")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        folder = self.machine.folder
        settings = (
            f"ListenAddress=127.0.0.1:{port}",
            f"HostKey={folder / 'host_key'}",
            f"AuthorizedKeysFile={folder / 'user_key.pub'}",
            "StrictModes=no",
            "PidFile=none",
            "UsePAM=no",
            "PermitRootLogin=prohibit-password",
        )
        sshd = [program, "-D", "-e", "-f", "/dev/null"]
        for setting in settings:
            sshd += ["-o", setting]
        self.machine.start(f"{name}-sshd", *sshd)
        self._wait_for(f"{name}-sshd", "Server listening")
        client = self._ssh(name, self._linked(port, link), getpass.getuser(), near, far, *options)
        listener = self.machine.process(f"{name}-sshd")
        return Carrier(name, near, far, (*_descendants(listener), client))

    def stock_client(self, name: str = "ours with OpenSSH's client") -> Carrier:
        """A tunnel whose server is ours and whose client is OpenSSH's."""
        port, near, far = self._ports()
        server = self._start(
            "stock-server",
            *(sys.executable, "-m", "bench.forwarder", "server", str(self.machine.folder), str(port)),
            *self._services("near"),
            *self._doors("far", far),
        )
        client = self._ssh("stock", port, USER, near, far, "-c", GCM, ours=True)
        return Carrier(name, near, far, (server, client))

    def plain(self, name: str = "a TCP relay in Twisted") -> Carrier:
        """One hop without SSH."""
        doors = dict(zip(self.targets, free_ports(len(self.targets)), strict=True))
        pairs = [f"{doors[target]}={port}" for target, port in self.targets.items()]
        process = self._start("plain", sys.executable, "-m", "bench.plain", *pairs)
        return Carrier(name, doors, doors, (process,))

    def _ssh(
        self,
        name: str,
        port: int,
        user: str,
        near: Mapping[str, int],
        far: Mapping[str, int],
        *options: str,
        ours: bool = False,
    ) -> int:
        """An OpenSSH client that forwards; a server of ours knows targets by their names."""
        program = shutil.which("ssh")
        if program is None:
            raise BenchError("there is no ssh: install openssh-client")
        folder = self.machine.folder
        known = folder / f"known-{port}"
        known.write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
        command = [program, "-N", "-v", "-F", "none", "-i", str(folder / "user_key"), *options, "-p", str(port)]
        for option in (f"UserKnownHostsFile={known}", "ExitOnForwardFailure=yes"):
            command += ["-o", option]
        for target, place in self.targets.items():
            command += ["-L", f"{near[target]}:{f'{target}:1' if ours else f'127.0.0.1:{place}'}"]
            command += ["-R", f"{f'{target}:2' if ours else f'127.0.0.1:{far[target]}'}:127.0.0.1:{place}"]
        self.machine.start(f"{name}-ssh", *command, f"{user}@127.0.0.1")
        self._wait_for(f"{name}-ssh", "remote forward success", len(self.targets))
        return self.machine.process(f"{name}-ssh")

    def _wait_for(self, name: str, text: str, times: int = 1) -> None:
        try:
            self.machine.until(f"{name} says {text!r}", lambda: self.machine.log_tail(name, 1000).count(text) >= times)
        except StepFailed as error:
            raise BenchError(f"{error}: {self.machine.log_tail(name)}") from None

    def _ports(self) -> tuple[int, dict[str, int], dict[str, int]]:
        count = len(self.targets)
        port, *doors = free_ports(1 + 2 * count)
        near, far = (dict(zip(self.targets, some, strict=True)) for some in (doors[:count], doors[count:]))
        return port, near, far

    def _services(self, side: str) -> list[str]:
        """What an end offers: to the doors of the client (`near`), or of the server."""
        return [f"{target}:{1 if side == 'near' else 2}={port}" for target, port in self.targets.items()]

    def _doors(self, side: str, doors: Mapping[str, int]) -> list[str]:
        return [f"{port}={target}:{1 if side == 'near' else 2}" for target, port in doors.items()]


def _descendants(process: int) -> tuple[int, ...]:
    """The processes below `process`, itself not among them."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return tuple(each for child in map(int, children) for each in (child, *_descendants(child)))


@contextmanager
def stage(targets: Mapping[str, tuple[str, ...]]) -> Iterator[Stage]:
    """A stage whose processes all end with it."""
    machine = Machine()
    try:
        yield Stage(machine, targets)
    finally:
        machine.close()
