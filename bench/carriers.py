"""What carries the same traffic in turn: tunnels of ours, of OpenSSH, of Conch, with an end of each, or no SSH at all.

Each has doors on 127.0.0.1 for every target: `near` doors are the client's (`ssh -L`), `far` doors the server's (`-R`).
Between client and server there may be a link; at the end of a path of packets is a network of its own.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from avinet.trust.keys import generate, public_line, save_private
from bench.forwarder import USER
from bench.link import FAR_ADDRESS, Link, enter, networks
from bench.measure import BenchError, cpu_s
from demo.machine import Machine, StepFailed, free_ports

_SOURCES = Path(__file__).parent
_LOCAL = "127.0.0.1"
DEFAULT = "the default cipher"
GCM = "aes128-gcm@openssh.com"
_SERVER, _CLIENT = 1, 2
"""What services are called behind the name of their target: those of the server, and those of its first client."""


Door = int | str
"""A port of 127.0.0.1, or ADDRESS:PORT."""


@dataclass
class Carrier:
    """Something that stands and carries: its doors by target, and the processes whose work that is."""

    name: str
    near: Mapping[str, Door]
    far: Mapping[str, Door]
    processes: tuple[int, ...]

    def cpu_s(self) -> float:
        """The seconds of CPU that all its processes have used so far."""
        return sum(map(cpu_s, self.processes))


def compiled(name: str, folder: Path) -> str:
    """The program that `name`.c beside this file makes, put into `folder`."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("there is no C compiler: install gcc")
    program = str(folder / name)
    subprocess.run([compiler, "-O2", "-o", program, str(_SOURCES / f"{name}.c")], check=True)
    return program


class Stage:
    """A folder with keys and the compiled ends of the traffic, the targets that all carriers lead to, and a link."""

    def __init__(self, machine: Machine, targets: Mapping[str, tuple[str, ...]], link: Link | None = None) -> None:
        self.machine = machine
        self._link = link
        self._near: tuple[str, ...] = ()
        self._far: tuple[str, ...] = ()
        self._address = _LOCAL
        self._traffic = compiled("traffic", machine.folder)
        if link is not None:
            self._link_program = compiled("link", machine.folder)
            if link.packets:
                self._part(link)
        for name in ("host_key", "user_key"):
            key = generate()
            save_private(machine.folder / name, key)
            (machine.folder / f"{name}.pub").write_text(public_line(key) + "\n")
        self._offered = targets
        self.targets = self._ports()
        for target, (what, *arguments) in targets.items():
            self.start(f"target-{target}", *self._far, self._traffic, what, str(self.targets[target]), *arguments)

    def _part(self, link: Link) -> None:
        """Have servers and targets in one network from now on, clients in another, and a path between them."""
        nsenter = enter()
        path = self.start("link", self._link_program, "packets", *link.arguments)
        self._near, self._far = networks(nsenter, path)
        self._address = FAR_ADDRESS

    def start(self, name: str, *command: str) -> int:
        """Start a process and wait until it is ready; returns its id."""
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

    def traffic(self, *arguments: str) -> list[str]:
        """The command for a client of the traffic."""
        return [*self._near, self._traffic, *arguments]

    def run(self, *arguments: str, timeout_s: float = 120) -> list[str]:
        """The lines that a client of the traffic prints."""
        command = self.traffic(*arguments)
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False, text=True)
        if done.returncode:
            raise BenchError(f"traffic {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout.splitlines()

    def _linked(self, port: int) -> tuple[str, int]:
        """The address and the port at which a client finds the server's `port`."""
        if self._link is None or self._link.packets:
            return self._address, port
        (near,) = free_ports(1)
        self.start(f"link-{port}", self._link_program, "relay", str(near), str(port), *self._link.arguments)
        return _LOCAL, near

    def ours(self, name: str = "ours") -> Carrier:
        """A tunnel with both ends ours."""
        (port,) = free_ports(1)
        (carrier,) = self.ours_together(1, port, name)
        return carrier

    def ours_together(self, count: int, port: int, name: str = "ours") -> Sequence[Carrier]:
        """Tunnels with both ends ours, all to one server at `port`; its process is the first of each."""
        doors = dict(enumerate(((self._ports(), self._ports()) for _ in range(count)), _CLIENT))
        forwards = [door for number, (_, far) in doors.items() for door in self._doors(number, far)]
        server = self.our_server(f"{name}-server", port, *forwards)
        place = "{}:{}".format(*self._linked(port))
        return [
            Carrier(name, near, far, (server, self._our_client(f"{name}-client-{number}", place, number, near)))
            for number, (near, far) in doors.items()
        ]

    def our_server(self, name: str, port: int, *doors: str) -> int:
        """A server of ours that offers all targets."""
        command = self._forwarder("server", f"{self._address}:{port}")
        return self.start(name, *self._far, *command, *self._services(_SERVER), *doors)

    def _our_client(self, name: str, place: str, number: int, near: Mapping[str, int]) -> int:
        command = self._forwarder("client", place)
        return self.start(name, *self._near, *command, *self._services(number), *self._doors(_SERVER, near))

    def _forwarder(self, role: str, place: str) -> tuple[str, ...]:
        return sys.executable, "-m", "bench.forwarder", role, str(self.machine.folder), place

    def conch(self, name: str, window_bytes: int) -> Carrier:
        """A tunnel with both ends Twisted Conch as it comes, whose channels have windows of `window_bytes`."""
        (port,) = free_ports(1)
        near = self._ports()
        command = (sys.executable, "-m", "bench.conch")
        settings = (str(self.machine.folder), str(window_bytes))
        server = self.start(f"{name}-server", *self._far, *command, "server", f"{self._address}:{port}", *settings)
        pairs = [f"{near[target]}={place}" for target, place in self.targets.items()]
        place = "{}:{}".format(*self._linked(port))
        client = self.start(f"{name}-client", *self._near, *command, "client", place, *settings, *pairs)
        return Carrier(name, near, {}, (server, client))

    def raw(self, name: str = "TCP itself") -> Carrier:
        """Nothing but the link: targets of their own at the other end of a path of packets."""
        doors = {target: f"{self._address}:{port}" for target, port in self._ports().items()}
        processes = [
            self.start(f"raw-{target}", *self._far, self._traffic, what, doors[target], *arguments)
            for target, (what, *arguments) in self._offered.items()
        ]
        return Carrier(name, doors, {}, tuple(processes))

    def openssh(self, name: str, *options: str) -> Carrier:
        """A tunnel with both ends OpenSSH's."""
        (port,) = free_ports(1)
        near, far = self._ports(), self._ports()
        listener = self.sshd(f"{name}-sshd", port)
        client = self._ssh(name, self._linked(port), getpass.getuser(), near, far, *options)
        return Carrier(name, near, far, (*descendants(listener), client))

    def idle_openssh(self, count: int) -> tuple[int, ...]:
        """The processes of sshd for `count` connections on which nothing happens."""
        (port,) = free_ports(1)
        listener = self.sshd("idle-sshd", port)
        for number in range(count):
            self._ssh(f"idle-{number}", (_LOCAL, port), getpass.getuser(), {}, {})
            self._wait_for(f"idle-{number}-ssh", "Entering interactive session")
        return descendants(listener)

    def sshd(self, name: str, port: int) -> int:
        """A server of OpenSSH's, which lets this user in."""
        program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise BenchError("there is no sshd: install openssh-server")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        folder = self.machine.folder
        settings = (
            f"ListenAddress={self._address}:{port}",
            f"HostKey={folder / 'host_key'}",
            f"AuthorizedKeysFile={folder / 'user_key.pub'}",
            "StrictModes=no",
            "PidFile=none",
            "UsePAM=no",
            "PermitRootLogin=prohibit-password",
        )
        command = [program, "-D", "-e", "-f", "/dev/null"]
        for setting in settings:
            command += ["-o", setting]
        self.machine.start(name, *self._far, *command)
        self._wait_for(name, "Server listening")
        return self.machine.process(name)

    def stock_client(self, name: str = "ours with OpenSSH's client") -> Carrier:
        """A tunnel whose server is ours and whose client is OpenSSH's."""
        (port,) = free_ports(1)
        near, far = self._ports(), self._ports()
        server = self.our_server("stock-server", port, *self._doors(_CLIENT, far))
        client = self._ssh("stock", self._linked(port), USER, near, far, "-c", GCM, ours=True)
        return Carrier(name, near, far, (server, client))

    def plain(self, name: str = "a TCP relay in Twisted") -> Carrier:
        """One hop without SSH."""
        doors = self._ports()
        pairs = [f"{doors[target]}={port}" for target, port in self.targets.items()]
        process = self.start("plain", sys.executable, "-m", "bench.plain", *pairs)
        return Carrier(name, doors, doors, (process,))

    def ssh(self, port: int, *options: str, address: str = _LOCAL) -> list[str]:
        """The command line of OpenSSH's client, but for where it goes and what it does there."""
        program = shutil.which("ssh")
        if program is None:
            raise BenchError("there is no ssh: install openssh-client")
        folder = self.machine.folder
        known = folder / f"known-{port}"
        known.write_text(f"[{address}]:{port} {(folder / 'host_key.pub').read_text()}")
        key = str(folder / "user_key")
        return [program, "-F", "none", "-i", key, "-p", str(port), "-o", f"UserKnownHostsFile={known}", *options]

    def _ssh(
        self,
        name: str,
        place: tuple[str, int],
        user: str,
        near: Mapping[str, int],
        far: Mapping[str, int],
        *options: str,
        ours: bool = False,
    ) -> int:
        """An OpenSSH client that forwards; a server of ours knows targets by their names."""
        address, port = place
        command = [*self.ssh(port, *options, address=address), "-N", "-v", "-o", "ExitOnForwardFailure=yes"]
        for target, there in self.targets.items():
            command += ["-L", f"{near[target]}:{f'{target}:{_SERVER}' if ours else f'127.0.0.1:{there}'}"]
            command += ["-R", f"{f'{target}:{_CLIENT}' if ours else f'127.0.0.1:{far[target]}'}:127.0.0.1:{there}"]
        self.machine.start(f"{name}-ssh", *self._near, *command, f"{user}@{address}")
        self._wait_for(f"{name}-ssh", "remote forward success", len(self.targets))
        return self.machine.process(f"{name}-ssh")

    def _wait_for(self, name: str, text: str, times: int = 1) -> None:
        try:
            self.machine.until(f"{name} says {text!r}", lambda: self.machine.log_tail(name, 1000).count(text) >= times)
        except StepFailed as error:
            raise BenchError(f"{error}: {self.machine.log_tail(name)}") from None

    def _ports(self) -> dict[str, int]:
        """A free port for each target."""
        return dict(zip(self._offered, free_ports(len(self._offered)), strict=True))

    def _services(self, number: int) -> list[str]:
        """What an end offers: the targets, called after its `number`."""
        return [f"{target}:{number}={port}" for target, port in self.targets.items()]

    def _doors(self, number: int, doors: Mapping[str, int]) -> list[str]:
        """Where an end listens for connections to the services of the other, called after its `number`."""
        return [f"{port}={target}:{number}" for target, port in doors.items()]


def descendants(process: int) -> tuple[int, ...]:
    """The processes below `process`, itself not among them."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return tuple(each for child in map(int, children) for each in (child, *descendants(child)))


@contextmanager
def stage(targets: Mapping[str, tuple[str, ...]], link: Link | None = None) -> Iterator[Stage]:
    """A stage whose processes all end with it."""
    machine = Machine()
    try:
        yield Stage(machine, targets, link)
    finally:
        machine.close()
