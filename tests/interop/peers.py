"""What a stock peer is: what it offers, and how it is told what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.interop.algorithms import Combination, Offers
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, line_of


def write_key(path: Path, key: Ed25519PrivateKey) -> str:
    """The path of a new file with `key` as OpenSSH keeps it."""
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return str(path)


@dataclass(frozen=True)
class Dialled:
    """A tunnel as a stock client is to hold it; what it needs for that goes to `folder`.

    Port `local` of 127.0.0.1 is to lead to our service `api:80` (`-L`), and ours are to reach port `target` as the
    client's own `api:80` (`-R`).
    """

    folder: Path
    port: int
    local: int
    target: int
    combination: Combination | None = None
    rekey_bytes: int | None = None
    rekey_s: int | None = None

    def settings(self) -> dict[str, Any]:
        """It for the scripts of clients that are libraries."""
        return {
            "port": self.port,
            "user": USER,
            "key": write_key(self.folder / "key", USER_KEY),
            "host_key": line_of(HOST_KEY),
            "local": self.local,
            "target": self.target,
            "rekey_bytes": self.rekey_bytes,
            "rekey_s": self.rekey_s,
            **named(self.combination),
        }


def named(combination: Combination | None) -> dict[str, Any]:
    """A combination for the scripts of peers that are libraries."""
    if combination is None:
        return {"exchange": None, "cipher": None, "mac": None}
    return {"exchange": combination.exchange, "cipher": combination.cipher, "mac": combination.mac}


class Peer(Protocol):
    """What clients and servers share."""

    name: str
    program: str
    """The program or package that has to be there, as `tests.peers` knows it."""
    least: Offers
    """What every version that is supported has of ours."""
    combine: Callable[[Offers], list[Combination]]
    """Which combinations it is fast enough for."""

    def offers(self) -> Offers:
        """What it says that it has; only where it is there."""


class ClientPeer(Peer, Protocol):
    """A stock client."""

    ready: bytes
    """What it says after its service is on offer and can be used; empty, where that is the same moment."""
    asks: bool
    """Whether it can be told to ask for new keys."""
    ends_in_order: bool
    """Whether EOF goes before CLOSE also where its end is the last to end."""
    strays: int = 0
    """How many messages at most it sends for a channel that it has closed already."""

    def command(self, dialled: Dialled) -> tuple[list[str], Mapping[str, str]]:
        """Its command line, and its environment."""


class ServerPeer(Peer, Protocol):
    """A stock server, whoever runs the test being its user."""

    ready: bytes
    """What it says when it listens."""

    def command(self, folder: Path, port: int, combination: Combination, rekey_bytes: int) -> list[str]:
        """Its command line; it lets `USER_KEY` in and forwards to wherever it is asked to."""
