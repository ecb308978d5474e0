"""Three members of etcd on loopback, over mTLS: started, killed, put to sleep, stopped."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avinet.store.etcd.members import MutualTLS, found_members
from demo.machine import free_ports

NAMES = ("etcd-1", "etcd-2", "etcd-3")


class Cluster:
    """The members, each in a folder below `folder`; `endpoints` are where clients reach them, in their order.

    `options` are more of etcd's own, by their names. `hosts` says of a member that is elsewhere what its address is,
    and the beginning of a command that runs there.
    """

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...] = NAMES,
        options: Mapping[str, str] | None = None,
        hosts: Mapping[str, tuple[str, Sequence[str]]] | None = None,
    ) -> None:
        self._options = dict(options or {})
        self._hosts = dict.fromkeys(names, ("127.0.0.1", ())) | dict(hosts or {})
        self.folder = folder
        self.names = names
        ports = free_ports(2 * len(names))
        self._clients = dict(zip(names, ports[::2], strict=True))
        self._peers = dict(zip(names, ports[1::2], strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.certificates = folder / "tls"
        found_members(self.certificates, {name: [host] for name, (host, _) in self._hosts.items()}, datetime.now(UTC))

    @property
    def endpoints(self) -> list[str]:
        return [f"https://{self._hosts[name][0]}:{port}" for name, port in self._clients.items()]

    @property
    def settings(self) -> str:
        """The lines of a node's settings for its store."""
        tls = self.certificates
        files = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
        lines = ['engine = "etcd"', f"endpoints = {self.endpoints}", "patience_s = 3.0"]
        return "\n".join([*lines, *(f'{name} = "{tls / file}"' for name, file in files.items())])

    @property
    def policy(self) -> MutualTLS:
        tls = self.certificates
        return MutualTLS.load(tls / "ca.pem", tls / "client.pem", tls / "client.key", time.time)

    def start(self, *names: str) -> None:
        for name in names or self.names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    self._command(name),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**os.environ, "ETCD_UNSUPPORTED_ARCH": ""},
                )

    def _command(self, name: str) -> list[str]:
        tls, (host, within) = self.certificates, self._hosts[name]
        client, peer = f"https://{host}:{self._clients[name]}", f"https://{host}:{self._peers[name]}"
        files = {"cert-file": f"{name}.pem", "key-file": f"{name}.key", "trusted-ca-file": "ca.pem"}
        options = {
            "name": name,
            "data-dir": str(self.folder / name),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": ",".join(
                f"{each}=https://{self._hosts[each][0]}:{port}" for each, port in self._peers.items()
            ),
            "initial-cluster-state": "new",
            "log-level": "warn",
            **{option: str(tls / file) for option, file in files.items()},
            **{f"peer-{option}": str(tls / file) for option, file in files.items()},
            **self._options,
        }
        return [
            *within,
            "etcd",
            "--client-cert-auth",
            "--peer-client-cert-auth",
            *(f"--{option}={value}" for option, value in options.items()),
        ]

    def leader(self) -> str | None:
        """The member that leads, of those that run; None while there is none."""
        for name in self._processes:
            status = self._status(name)
            if status and status["leader"] == status["header"]["member_id"]:
                return name
        return None

    def _status(self, name: str) -> Any:
        tls = self.certificates
        context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
        context.load_cert_chain(tls / "client.pem", tls / "client.key")
        url = f"{self.endpoint(name)}/v3/maintenance/status"
        try:
            with urllib.request.urlopen(url, data=b"{}", timeout=2, context=context) as answer:
                return json.load(answer)
        except OSError:
            return None

    def endpoint(self, name: str) -> str:
        """Where clients reach this member."""
        return self.endpoints[self.names.index(name)]

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def pause(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGCONT)

    def mend(self) -> None:
        """Wake up who sleeps, and start who is gone."""
        for name in self.names:
            if name in self._processes:
                self.go_on(name)
            else:
                self.start(name)

    def stop(self) -> None:
        for name in list(self._processes):
            self.kill(name)
