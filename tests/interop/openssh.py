"""OpenSSH, which most people have."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typing_extensions import override

from tests.interop.algorithms import Combination, Offers, product
from tests.interop.peers import ClientPeer, Dialled, Peer, ServerPeer, write_key
from tests.peers import require
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, line_of


def client_options(folder: Path, port: int, *settings: str, key: Ed25519PrivateKey = USER_KEY) -> list[str]:
    """The options of a stock client that knows our host key at `port`, and no file but those that it is given."""
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {line_of(HOST_KEY)}\n")
    options = ["-F", "/dev/null"]
    for setting in (
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known}",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        f"IdentityFile={write_key(folder / 'key', key)}",
        "BatchMode=yes",
        *settings,
    ):
        options += ["-o", setting]
    return options


def whoami() -> str:
    """Who a stock server lets in: whoever runs the test."""
    return getpass.getuser()


def server_command(folder: Path, port: int, *settings: str) -> list[str]:
    """A stock server that lets `USER_KEY` in, as whoever runs the test; it says "Server listening" when it is ready."""
    if os.getuid() == 0:
        # Where root's sshd locks its children in; its own start script makes it just so.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (folder / "authorized_keys").write_text(line_of(USER_KEY) + "\n")
    config = folder / "sshd_config"
    lines = (
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {write_key(folder.absolute() / 'host_key', HOST_KEY)}",
        f"AuthorizedKeysFile {(folder / 'authorized_keys').absolute()}",
        "StrictModes no",
        "PidFile none",
        "UsePAM no",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        *settings,
    )
    config.write_text("\n".join(lines) + "\n")
    return [require("sshd"), "-D", "-e", "-f", str(config.absolute())]


def _settings(combination: Combination | None, rekey_bytes: int | None, rekey_s: int | None = None) -> dict[str, str]:
    """Both programs call them by the same names."""
    settings = {}
    if combination is not None:
        settings = {"KexAlgorithms": combination.exchange, "Ciphers": combination.cipher}
        if combination.mac:
            settings["MACs"] = combination.mac
    if rekey_bytes is not None or rekey_s is not None:
        settings["RekeyLimit"] = f"{rekey_bytes or 'default'} {rekey_s or 'none'}"
    return settings


class _OpenSSH(Peer):
    name = "OpenSSH"
    combine = staticmethod(product)
    least = Offers(
        frozenset({"curve25519-sha256", "curve25519-sha256@libssh.org"}),
        frozenset(
            {
                "aes128-gcm@openssh.com",
                "aes256-gcm@openssh.com",
                "chacha20-poly1305@openssh.com",
                "aes128-ctr",
                "aes256-ctr",
            }
        ),
        frozenset({"hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"}),
    )

    @override
    def offers(self) -> Offers:
        program = require("ssh")
        kex, cipher, mac = (
            frozenset(subprocess.run([program, "-Q", what], capture_output=True, text=True, check=True).stdout.split())
            for what in ("kex", "cipher", "mac")
        )
        return Offers(kex, cipher, mac)


class OpenSSHClient(_OpenSSH, ClientPeer):
    """`ssh -N -L -R`."""

    program = "ssh"
    ready = b""
    asks = True
    ends_in_order = True

    @override
    def command(self, dialled: Dialled) -> tuple[list[str], Mapping[str, str]]:
        settings = _settings(dialled.combination, dialled.rekey_bytes, dialled.rekey_s)
        chosen = [f"{name}={value}" for name, value in {**settings, "ExitOnForwardFailure": "yes"}.items()]
        return [
            require("ssh"),
            *client_options(dialled.folder, dialled.port, *chosen),
            *("-N", "-p", str(dialled.port)),
            *("-L", f"127.0.0.1:{dialled.local}:api:80", "-R", f"api:80:127.0.0.1:{dialled.target}"),
            f"{USER}@127.0.0.1",
        ], os.environ


class OpenSSHServer(_OpenSSH, ServerPeer):
    """`sshd`."""

    program = "sshd"
    ready = b"Server listening"

    @override
    def command(self, folder: Path, port: int, combination: Combination, rekey_bytes: int) -> list[str]:
        settings = _settings(combination, rekey_bytes)
        return server_command(folder, port, *(f"{name} {value}" for name, value in settings.items()))
