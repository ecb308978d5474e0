"""The controller's service: its ports, the doors behind them, and the node that they act on."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import Tasks, in_turn, pause
from avinet.backoff import Backoff
from avinet.controller.api.silence import told_of_silence
from avinet.controller.certificates.seals import Seals
from avinet.controller.doors import enrolment_door, free_socket, tunnel_door
from avinet.controller.node import Node
from avinet.controller.operators import operator_routes, peer_name
from avinet.controller.renewal import Renewal
from avinet.controller.settings import ControllerSettings
from avinet.controller.upgrade import upgrade
from avinet.errors import AvinetError, LocalError, Unavailable
from avinet.files import FolderLock, files_missing, private_folder, sweep
from avinet.rest.door import Door
from avinet.rest.table import Table
from avinet.sockets import direct
from avinet.ssh.policy import BACKLOG
from avinet.ssh.server import Server
from avinet.store.choose import choose_store
from avinet.trust.domain import Domain
from avinet.trust.domain import load as load_domain
from avinet.trust.sealing import SECRETS_KEY
from avinet.trust.succession import settled
from avinet.trust.tls import ServerTLS

SPARE_FILES = 200
"""What a node needs beside one open file for each tunnel: its own, its doors, and those who are logging in."""


class _Behind(Factory):
    """Stands behind a port that is bound and not open yet."""

    noisy = False
    factory: Any = None

    @override
    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self.factory.buildProtocol(addr)


STORE_RETRY = Backoff(first_s=0.5, cap_s=5)
_Door = tuple[Any, _Behind]


class ControllerService(Service):
    """A controller with the settings in `folder`.

    `failed` is called with the error that makes it impossible to go on.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: ControllerSettings,
        folder: Path,
        *,
        wall: Callable[[], float],
        random: Callable[[], float],
        failed: Callable[[AvinetError], None],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._folder = folder
        self._wall = wall
        self._random = random
        self._failed = failed
        self._tasks = Tasks()
        self._ports: list[IListeningPort] = []
        self._node: Node | None = None
        state = private_folder(folder / settings.state)
        self._lock = FolderLock(state)
        self._lock.acquire()
        sweep(state)
        for step in upgrade(state):
            self.log.info(
                "the state folder {state} has format {to} now: {what}", state=state, to=step.to, what=step.what
            )
        domain = load_domain(state / "trust")
        if domain.node != settings.node:
            raise LocalError(
                f"the settings say node {settings.node}, and the domain of trust in {state} is of {domain.node}",
                hint=f'set node = "{domain.node}"',
            )
        now = datetime.fromtimestamp(wall(), UTC)
        self._domain = settled(domain, now).renewed(now)
        secrets_key = self._domain.folder / SECRETS_KEY
        self._seals = Seals(secrets_key)
        if self._seals.lost:
            self.log.error(
                "{path} is lost: another key is made, and what that one sealed stays closed", path=secrets_key
            )
        self._tls = ServerTLS(self._domain.server, self._domain.issuing.chain)
        self._tunnel_server: Server | None = None
        self._store = choose_store(reactor, settings.store, folder, state, domain=domain.id, node=domain.node, now=wall)

    @override
    def privilegedStartService(self) -> None:
        """Take the ports, before the process gives its privileges up; nothing is accepted yet."""
        super().privilegedStartService()
        self._ssh = self._listen(self._settings.ssh.listen, self._settings.ssh.port, "ssh")
        self._https = self._listen(self._settings.https.listen, self._settings.https.port, "https")

    def _listen(self, interfaces: tuple[str, ...], port: int, door: str) -> list[_Door]:
        """Bind `port` of each interface; with port 0 the first one decides."""
        doors = []
        for interface in interfaces:
            factory = _Behind()
            try:
                listening = direct(self._reactor).listenTCP(port, factory, backlog=BACKLOG, interface=interface)
            except CannotListenError as error:
                reason = getattr(error.socketError, "strerror", None) or str(error.socketError)
                raise SystemExit(
                    f"avi-controller: the {door} door cannot listen on {interface}:{port}: {reason}; "
                    f"free the port, or set another one under [{door}]"
                ) from error
            listening.stopReading()
            port = listening.getHost().port
            doors.append((listening, factory))
            self._ports.append(listening)
        return doors

    @override
    def startService(self) -> None:
        super().startService()
        if not self._ports:  # `twist` starts services without the privileged part
            self.privilegedStartService()
        self._tasks.spawn(self._run(), "the controller", self._gave_up)

    def _gave_up(self, failure: Failure) -> None:
        if isinstance(failure.value, AvinetError):
            self._failed(failure.value)

    async def _run(self) -> None:
        settings = self._settings
        await self._store_opened()
        node = self._node = Node(
            self._reactor,
            settings,
            self._folder,
            self._store,
            self._domain,
            self._seals,
            addresses=(self._addresses(self._https), self._addresses(self._ssh)),
            now=self._wall,
            random=self._random,
            replaced=self._serve,
        )
        await node.start()
        if files_missing(len(node.directory) + SPARE_FILES):
            self.log.warn(
                "this process may not open enough files for a tunnel of each of {count} service engines: "
                "raise LimitNOFILE in its unit, or ulimit -n",
                count=len(node.directory),
            )
        self._open(self._https, TLSMemoryBIOFactory(self._tls, False, enrolment_door(self._reactor, settings, node)))
        self._tunnel_server = tunnel_door(self._reactor, settings, node, self._random)
        self._open(self._ssh, self._tunnel_server)
        self._open_socket(node)
        renewal = Renewal(self._reactor, node.standing, self._wall)
        self._tasks.spawn(renewal.keep(), "renewing the node's certificate")
        self.log.info("node {node} is ready", node=node.standing.node.id)

    async def _store_opened(self) -> None:
        """Wait until the store answers: without it this node knows nobody."""
        said, failures = "", 0
        while True:
            try:
                return await self._store.open()
            except Unavailable as error:
                if said != (said := str(error)):
                    self.log.warn("this node waits for its store: {why}", why=said)
            await pause(self._reactor, STORE_RETRY.delay_s(failures, self._random))
            failures += 1

    def _addresses(self, doors: list[_Door]) -> list[str]:
        port = doors[0][0].getHost().port
        return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in self._settings.addresses]

    def _open(self, doors: list[_Door], factory: Any) -> None:
        """From now on what dials is accepted, what has dialled already included."""
        for listening, behind in doors:
            behind.factory = factory
            listening.startReading()

    def _open_socket(self, node: Node) -> None:
        """The operators' UNIX socket: who may open it is a matter of its folder's and its own permissions."""
        path = self._folder / self._settings.socket
        path.parent.mkdir(parents=True, exist_ok=True)
        free_socket(path)
        routes = told_of_silence(operator_routes(node), self._store.silent_s)
        door = Door(self._reactor, Table(routes), tasks=node.tasks, identify=peer_name)
        before = os.umask(0o117)
        try:
            self._ports.append(self._reactor.listenUNIX(str(path), door, mode=0o660))
        except CannotListenError as error:
            raise LocalError(f"cannot listen on {path}: {error.socketError}") from error
        finally:
            os.umask(before)

    def _serve(self, domain: Domain) -> None:
        """Show who dials from now on the certificate and the host key of `domain`; what is open stays as it is."""
        self._tls.replace(domain.server, domain.issuing.chain)
        if self._tunnel_server is not None:
            self._tunnel_server.prove_with(domain.ssh_host_key)

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        await in_turn(
            *(port.stopListening for port in self._ports),
            *([self._node.stop] if self._node is not None else []),
            self._tasks.stop,
            self._store.close,
            self._lock.release,
        )
