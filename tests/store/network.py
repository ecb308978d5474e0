"""A network of its own for each member of a cluster, which can be cut off from all, or from the other members alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from tests.peers import missing, require


class Network:
    """A namespace for each of `names`, joined by a bridge at which this process is too.

    `hosts` are what `demo.members.Cluster` wants. Skips the test where only root could make it, or nobody.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._ip = require("ip")
        if os.geteuid() != 0:
            missing("only root can make networks")
        mark = os.urandom(3)  # what was there a moment ago may not be gone yet
        number = int.from_bytes(mark, "big") % 250
        self._bridge = f"avb-{mark.hex()}"
        self._spaces = {name: f"avinet-{mark.hex()}-{index}" for index, name in enumerate(names)}
        self._ports = {name: f"avs-{mark.hex()}-{index}" for index, name in enumerate(names)}
        self._addresses = {name: f"10.232.{number}.{index + 10}" for index, name in enumerate(names)}
        try:
            self._make(f"10.232.{number}.1")
        except subprocess.CalledProcessError as error:
            self.close()
            missing(f"this machine makes no networks: {error.stderr.decode(errors='replace').strip()}")

    @property
    def hosts(self) -> dict[str, tuple[str, Sequence[str]]]:
        return {
            name: (self._addresses[name], (self._ip, "netns", "exec", space)) for name, space in self._spaces.items()
        }

    def _run(self, line: str) -> None:
        subprocess.run([self._ip, *line.split()], check=True, capture_output=True, timeout=20)

    def _make(self, near: str) -> None:
        self._run(f"link add {self._bridge} type bridge")
        self._run(f"addr add {near}/24 dev {self._bridge}")
        self._run(f"link set {self._bridge} up")
        for name, space in self._spaces.items():
            self._run(f"netns add {space}")
            self._run(f"link add {self._ports[name]} type veth peer name eth0 netns {space}")
            self._run(f"link set {self._ports[name]} master {self._bridge} up")
            self._run(f"-n {space} addr add {self._addresses[name]}/24 dev eth0")
            for link in ("lo", "eth0"):
                self._run(f"-n {space} link set {link} up")

    def swallow(self, name: str) -> None:
        """Have what this member sends and is sent disappear in silence."""
        self._run(f"link set {self._ports[name]} nomaster")

    def part(self, name: str) -> None:
        """Cut this member off from the others, but not from its clients: a black hole on each side."""
        self._holes("replace", name)

    def heal(self, name: str) -> None:
        """As before, whatever it was."""
        self._run(f"link set {self._ports[name]} master {self._bridge}")
        self._holes("del", name)

    def _holes(self, verb: str, name: str) -> None:
        for other in self._spaces:
            if other != name:
                for near, far in ((name, other), (other, name)):
                    line = f"-n {self._spaces[near]} route {verb} blackhole {self._addresses[far]}/32"
                    subprocess.run([self._ip, *line.split()], check=verb == "replace", capture_output=True, timeout=20)

    def close(self) -> None:
        links = [f"link del {link}" for link in (*self._ports.values(), self._bridge)]
        for line in (*links, *(f"netns del {space}" for space in self._spaces.values())):
            subprocess.run([self._ip, *line.split()], check=False, capture_output=True, timeout=20)
