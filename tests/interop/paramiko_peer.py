"""paramiko, which Ansible and many scripts use; it is slow."""

from __future__ import annotations

import os
from collections.abc import Mapping

from typing_extensions import override

from tests.interop.algorithms import Offers, each_once
from tests.interop.asyncssh_peer import script
from tests.interop.peers import ClientPeer, Dialled


class ParamikoClient(ClientPeer):
    """A script that does what `ssh -N -L -R` does; with `strict` off, as it was before it knew strict key exchange."""

    name = "paramiko"
    program = "paramiko"
    ready = b"ready"
    asks = True
    ends_in_order = True
    strays = 1  # one thread adjusts a window that another one has just closed
    combine = staticmethod(each_once)
    least = Offers(
        frozenset({"mlkem768x25519-sha256", "curve25519-sha256@libssh.org"}),
        frozenset({"aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr"}),
        frozenset({"hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"}),
    )

    def __init__(self, *, strict: bool = True) -> None:
        self._strict = strict

    @override
    def offers(self) -> Offers:
        import paramiko

        kinds = paramiko.Transport
        lists = (kinds._preferred_kex, kinds._preferred_ciphers, kinds._preferred_macs)
        return Offers(*map(frozenset, lists))

    @override
    def command(self, dialled: Dialled) -> tuple[list[str], Mapping[str, str]]:
        settings = {**dialled.settings(), "strict": self._strict}
        del settings["rekey_s"]
        return script("paramiko_client.py", settings), os.environ
