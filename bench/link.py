"""What `link.c` puts between the client and the server of a carrier, and how to enter the ends of a path of packets."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from bench.measure import BenchError

FAR_ADDRESS = "192.0.2.2"
_NEAR_FD, _FAR_FD = 10, 11

Command = tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """In each direction: bytes/s, seconds, and a queue before them.

    It is a relay that ends TCP, or a path of `packets` between two networks, which only root can make.
    """

    rate: float
    delay_s: float
    queue_bytes: int
    packets: bool

    @property
    def arguments(self) -> Command:
        """On the command line."""
        return str(self.rate), str(self.delay_s), str(self.queue_bytes)


def enter() -> str:
    """The program that enters a network. Raises `BenchError` where there can be no path of packets."""
    if os.geteuid() != 0:
        raise BenchError("a path of packets takes network namespaces and tun devices: run it as root")
    if not os.path.exists("/dev/net/tun"):
        raise BenchError("there is no /dev/net/tun: load the kernel's module tun")
    nsenter = shutil.which("nsenter")
    if nsenter is None:
        raise BenchError("there is no nsenter: install util-linux")
    return nsenter


def networks(nsenter: str, path: int) -> tuple[Command, Command]:
    """What to put before a command at the near and at the far end of a path, by the id of its process."""
    near, far = ((nsenter, f"--net=/proc/{path}/fd/{end}", "--") for end in (_NEAR_FD, _FAR_FD))
    return near, far
