"""asyncssh, which has everything that we have."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from avinet.ssh.policy import Policy
from tests.interop.algorithms import Combination, Offers, product
from tests.interop.peers import ClientPeer, Dialled, Peer, ServerPeer, named, write_key
from tests.ssh.pair import HOST_KEY, USER_KEY, line_of


def script(name: str, settings: Mapping[str, object]) -> list[str]:
    """The command line of a script beside this module, which takes its settings as JSON."""
    return [sys.executable, "-P", str(Path(__file__).with_name(name)), json.dumps(settings)]


class _Asyncssh(Peer):
    name = "asyncssh"
    program = "asyncssh"
    combine = staticmethod(product)
    least = Offers(
        *(frozenset(map(bytes.decode, names)) for names in (Policy.key_exchanges, Policy.ciphers, Policy.macs))
    )

    @override
    def offers(self) -> Offers:
        from asyncssh.encryption import get_encryption_algs
        from asyncssh.kex import get_kex_algs
        from asyncssh.mac import get_mac_algs

        lists = (get_kex_algs(), get_encryption_algs(), get_mac_algs())
        return Offers(*(frozenset(map(bytes.decode, names)) for names in lists))


class AsyncsshClient(_Asyncssh, ClientPeer):
    """A script that does what `ssh -N -L -R` does."""

    ready = b"ready"
    asks = True
    ends_in_order = False

    @override
    def command(self, dialled: Dialled) -> tuple[list[str], Mapping[str, str]]:
        return script("asyncssh_client.py", dialled.settings()), os.environ


class AsyncsshServer(_Asyncssh, ServerPeer):
    """A script that forwards what it is asked to."""

    ready = b"listening"

    @override
    def command(self, folder: Path, port: int, combination: Combination, rekey_bytes: int) -> list[str]:
        (folder / "authorized_keys").write_text(line_of(USER_KEY) + "\n")
        return script(
            "asyncssh_server.py",
            {
                "port": port,
                "host_key": write_key(folder / "host_key", HOST_KEY),
                "authorized": str(folder / "authorized_keys"),
                "rekey_bytes": rekey_bytes,
                **named(combination),
            },
        )
