"""A controller as it is served: its doors on loopback, its store on a disk, and a clock that a test can move.

It runs in the reactor of the test, whose steps run in a thread.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import random
from tempfile import mkdtemp
from typing import Any

from twisted.internet.threads import blockingCallFromThread

from avinet.aio import as_deferred, pause
from avinet.controller.service import ControllerService
from avinet.controller.settings import ControllerSettings, Enrolment, Https, Ssh
from avinet.errors import AvinetError
from avinet.trust.domain import found
from avinet.wire.trust import Node
from tests.enrolment.line import PATIENCE_S

DEAD_S = 600.0
"""A machine that is busy is not a tunnel that is dead, nor a slow login."""
AHEAD_S = 3600.0
"""The node's clock goes before that of the machine, so that it can be put back."""


class Served:
    """One controller in a folder of its own; `open`, `stop` and `close` are called in the reactor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._folder = Path(mkdtemp(prefix="avinet-served-"))
        self._ahead_s = AHEAD_S
        self._ports = (0, 0)
        self.domain = found(self._folder / "controller" / "trust", "node-1", datetime.now(UTC))

    async def open(self) -> None:
        """Start the controller."""
        ssh, https = self._ports
        settings = ControllerSettings(
            node="node-1",
            state="controller",
            socket="controller.sock",
            ssh=Ssh(listen=("127.0.0.1",), port=ssh, dead_after_s=DEAD_S, login_s=DEAD_S),
            https=Https(listen=("127.0.0.1",), port=https),
            enrolment=Enrolment(calls_at_once=1e6, calls_per_second=1e6),
        )
        failures: list[AvinetError] = []
        self.service = ControllerService(
            self._reactor, settings, self._folder, wall=self.now, random=random, failed=failures.append
        )
        self.service.startService()
        while not (self._folder / "controller.sock").exists():
            assert not failures, failures
            await pause(self._reactor, 0.005)
        assert self.service._node is not None
        self.node = self.service._node
        self.node.sessions._probe_s = PATIENCE_S
        self.here: Node = self.node.standing.node
        self._ports = (int(self.here.ssh[0].rpartition(":")[2]), int(self.here.https[0].rpartition(":")[2]))
        self.authority = f"{self.here.name}:{self._ports[1]}"

    async def close(self) -> None:
        """Stop the controller."""
        await self.stop()
        shutil.rmtree(self._folder)

    async def stop(self) -> None:
        """Stop it; `open` starts it again."""
        await self.service.stopService()

    def in_reactor(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What comes of `work` in the reactor; called in a thread."""
        return blockingCallFromThread(self._reactor, lambda: as_deferred(work(*arguments)))

    def now(self) -> float:
        """The node's time."""
        return time.time() + self._ahead_s

    def pass_time(self, seconds: float) -> None:
        """Put the node's clock on, or back."""
        self._ahead_s += seconds

    def dial_tls(self) -> socket.socket:
        """A connection to its door for enrolments."""
        context = ssl.create_default_context(cadata=self.domain.root_pem)
        plain = socket.create_connection(("127.0.0.1", self._ports[1]), PATIENCE_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=self.here.name)

    def dial_unix(self) -> socket.socket:
        """A connection to the operators' door."""
        dialled = socket.socket(socket.AF_UNIX)
        dialled.connect(str(self._folder / "controller.sock"))
        return dialled

    def read_only(self, so: bool) -> None:
        """Whether SQLite refuses to write the store, as on a file system that is full or was remounted."""

        async def set() -> None:
            await self.service._store._ask(
                lambda: self.service._store._tables._connection.execute(f"PRAGMA query_only = {int(so)}")
            )

        self.in_reactor(set)
