"""What can be fuzzed: a module each, imported only when it is wanted, so that a fuzzer can instrument what it imports.

A target's module has `run(data)`, which raises for a finding, and `SEEDS`, inputs made by hand; those of a target whose
inputs are programs are made of whole steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Target:
    """One of the targets."""

    name: str
    what: str
    programs: bool = False
    most_bytes: int = 2048
    share: int = 1
    """How much of the time it gets, beside the others."""
    module: str = ""
    also: tuple[str, ...] = ()
    """Modules that the fuzzer watches beside ours: those of others that read what a peer sends."""

    def load(self) -> tuple[Callable[[bytes], None], Sequence[bytes]]:
        """Its function and its seeds."""
        module = import_module(self.module or f"tests.fuzz.{self.name}")
        return module.run, module.SEEDS


TARGETS = {
    each.name: each
    for each in (
        Target("server", "a node's SSH server and an engine's, under a hostile client", programs=True, share=6),
        Target("client", "an engine's SSH client, under a hostile node", programs=True, share=5),
        Target("packets", "sealed packets in any pieces, for each construction", programs=True, most_bytes=512),
        Target("payloads", "the bodies of SSH messages"),
        Target("sftp", "requests of SFTP", programs=True, most_bytes=1024, also=("twisted.conch.ssh.filetransfer",)),
        Target("wire", "the JSON of every message", programs=True, most_bytes=512),
        Target("requests", "HTTP requests to a door", also=("twisted.web.http",)),
        Target("answers", "HTTP answers to a client", also=("twisted.web",)),
        Target(
            "signatures",
            "signed HTTP requests with hostile headers",
            programs=True,
            most_bytes=1024,
            also=("http_message_signatures", "http_sf"),
        ),
    )
}
PLANTED = Target("planted", "a server with a fault that was put into it", programs=True, module="tests.fuzz.planted")
"""What shows that the fuzzer finds; not among the others."""


def named(name: str) -> Target:
    """The target of this name."""
    return PLANTED if name == PLANTED.name else TARGETS[name]
