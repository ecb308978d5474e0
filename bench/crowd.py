"""Many service engines in one process, as a controller sees them: python -m bench.crowd FOLDER FIRST COUNT

Each has a key, a tunnel, a control service and reports of its own, by the code of `avinet.se`; what it is configured
with, and the data plane that would run it, are in memory only. FOLDER has `trust.json`, the trust document. The keys
are those of `bench.site`, and they dial from addresses of 127.0.0.0/8. FIRST is the number of the first one.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from random import random
from time import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IConnector
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from zope.interface import directlyProvides, providedBy

from avinet import __version__, loop
from avinet.aio import Tasks, as_deferred
from avinet.config.apply import Applier
from avinet.dataplane.interface import Lines, Missed, Records, ServerState
from avinet.errors import AvinetError, Invalid
from avinet.rest.door import Door
from avinet.rest.table import Table
from avinet.se.authority import NodeAuthority
from avinet.se.commands import Console
from avinet.se.control import control_routes
from avinet.se.link import CONTROL, SSH, Link
from avinet.se.operators import OperatorKeys
from avinet.se.settings import EngineSettings
from avinet.se.shell import shell_server
from avinet.se.significant import SignificantRecords
from avinet.se.tunnels import Tunnels
from avinet.sockets import direct
from avinet.ssh.server import Server
from avinet.taps.process import fewer_collections, keep_memory, more_files
from avinet.telemetry.reports import Reporter
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.certificates import CertificatePush, CertificateState
from avinet.wire.command import CommandEvent, CommandRequest, Ended, OperatorKey
from avinet.wire.config import Config, ConfigPush, ConfigState
from avinet.wire.message import decode
from avinet.wire.report import Histogram, ServerHealth, ServiceTraffic
from avinet.wire.session import Hello, HelloReply
from avinet.wire.trust import SignedTrust, TrustDocument
from bench.identities import engine_id, private_key, source

reactor: Any = loop.reactor()
SETTINGS = EngineSettings()
STARTING = 16
"""How many may be on their way to their first configuration."""
tasks = Tasks()


class Memory:
    """A data plane that runs nothing, with healthy servers and a little traffic at all times."""

    name = "in memory"
    changed: Callable[[], None]
    lines: Lines
    records: Records
    missed: Missed

    def __init__(self) -> None:
        self._config = Config()
        self._since = round(time(), 3)

    async def start(self, config: Config) -> None:
        self._config = config

    async def check(self, config: Config) -> None:
        """Any will do."""

    async def apply(self, config: Config) -> None:
        self._config = config

    async def take_certificate(self, name: str, certificate: ServerCertificate) -> None:
        """It serves none."""

    def drop_certificate(self, name: str) -> None:
        """It serves none."""

    def health(self) -> Sequence[ServerHealth]:
        return [
            ServerHealth(pool=pool.name, server=server.name, state="up", since=self._since)
            for pool in self._config.pools
            for server in pool.servers
        ]

    async def traffic(self) -> Sequence[ServiceTraffic]:
        return [
            ServiceTraffic(
                name=service.name,
                connections=2,
                new_connections=3,
                requests=12,
                status={"2xx": 11, "4xx": 1},
                bytes_in=4000,
                bytes_out=90000,
                latency=Histogram(buckets=[(350, 4), (361, 5), (402, 3)]),
            )
            for service in self._config.virtual_services
        ]

    def lost_records(self) -> int:
        return 0

    async def set_server(self, pool: str, server: str, state: ServerState) -> None:
        """There is none."""

    def describe(self) -> dict[str, object]:
        return {}

    async def detach(self) -> None:
        """There is nothing to leave."""

    async def shut_down(self, drain_s: float) -> None:
        """There is nothing to end."""


class From:
    """A reactor whose TCP connections come from one address."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._dialling = direct(reactor)
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def connectTCP(  # noqa: N802
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,  # noqa: N803
    ) -> IConnector:
        connector: IConnector = self._dialling.connectTCP(host, port, factory, timeout, (self._address, 0))
        return connector


class Member:
    """One service engine; see `avinet.se.control.Engine` for what is asked of it."""

    def __init__(self, number: int, trusted: TrustDocument, folder: Path, shell: Server) -> None:
        self._boot = f"{number:016x}"
        self._started = time()
        self._epoch = trusted.epoch
        self._ratchet = ""
        self.configured: Deferred[None] = Deferred()
        """Fires with the first configuration."""
        dataplane = Memory()
        self._applier = Applier(reactor, dataplane, folder / "none", _in_memory, random, lambda config: None)
        reporter = Reporter(
            reactor,
            dataplane,
            lambda: self._applier.state,
            CertificateState,
            boot=self._boot,
            interval_s=SETTINGS.report_interval_s,
            wall=time,
            tasks=tasks,
        )
        authority = NodeAuthority(engine_id(number), lambda: trusted.nodes, time, folder / f"fence-{number}")
        self._nodes = trusted.nodes
        self._tunnels = Tunnels(
            From(source(number)),
            SETTINGS.tunnel,
            private_key(number),
            {CONTROL: Door(reactor, Table(control_routes(self, authority)), tasks=tasks), SSH: shell},
            hello=self._hello,
            answered=self._answered,
            greeted=self._greeted,
            refused=_refused,
            reporter=reporter,
            significant=SignificantRecords(reactor, SETTINGS.significant, self._boot, tasks),
            random=random,
            tasks=tasks,
        )

    def start(self) -> None:
        """Begin as a service engine does that has enrolled."""
        self._applier.start()
        self._tunnels.dial(self._nodes)

    def _hello(self) -> Hello:
        return Hello(
            boot=self._boot,
            started=self._started,
            version=__version__,
            dataplane=Memory.name,
            hostname=f"host-{self._boot}",
            config=self._applier.state,
            trust_epoch=self._epoch,
            ratchet=self._ratchet,
        )

    def _answered(self, key: Ed25519PrivateKey, reply: HelloReply) -> None:
        self._ratchet = reply.ratchet

    async def _greeted(self, link: Link, reply: HelloReply) -> None:
        """The clock is right, and the trust document known."""

    async def rotate(self) -> None:
        raise Invalid("a member of the crowd has one key")

    async def configure(self, push: ConfigPush) -> ConfigState:
        state = await self._applier.configure(push)
        if not self.configured.called:
            self.configured.callback(None)
        return state

    async def take_certificates(self, push: CertificatePush) -> CertificateState:
        return CertificateState(held=[each.version for each in push.certificates])

    async def command(self, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        raise Invalid("there are no commands here")

    async def output(self, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        raise Invalid("there are no commands here")

    def cancel(self, job: str) -> None:
        raise Invalid("there are no commands here")

    async def trust(self, signed: SignedTrust) -> int:
        """A document of the node that it is with may be taken as it is."""
        self._epoch = decode(signed.document.encode(), TrustDocument, limit_bytes=10**6).epoch
        return self._epoch

    def admit_operator(self, key: OperatorKey) -> str:
        raise Invalid("there is no shell here")

    async def depart(self, drain_s: float) -> None:
        """There is nothing to drain."""

    def status(self) -> dict[str, object]:
        return {"boot": self._boot}


async def start(members: Iterator[Member]) -> None:
    """Start one after the other, each when the one before has its configuration."""
    for member in members:
        member.start()
        await member.configured


def _in_memory(call: Callable[[], None]) -> Deferred[None]:
    """What would be written to a disk is not."""
    return succeed(None)


async def _no_shell(line: str, console: Console) -> Ended:
    console.write_error(b"there is no shell here")
    return Ended(exit_status=1)


def _refused(error: AvinetError) -> None:
    """The link says so in the log."""


def main(place: str, first: str, count: str) -> None:
    """Run them until the process is ended; they start one after the other."""
    quiet = LogLevelFilterPredicate(LogLevel.error)
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [quiet])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    more_files()
    fewer_collections()
    keep_memory()
    folder = Path(place)
    trusted = decode((folder / "trust.json").read_bytes(), TrustDocument, limit_bytes=10**6)
    shell = shell_server(reactor, private_key(0), OperatorKeys(lambda: trusted.nodes, time), _no_shell, folder)
    members = iter([Member(number, trusted, folder, shell) for number in range(int(first), int(first) + int(count))])
    tasks.spawn(gatherResults([as_deferred(start(members)) for _ in range(STARTING)]), "starting all")
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
