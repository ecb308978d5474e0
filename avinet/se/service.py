"""The service engine's service: starts headless on what it has, enrols if it must, and keeps its tunnels."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import Tasks, in_turn
from avinet.config.apply import Applier
from avinet.dataplane.choose import choose_dataplane
from avinet.enrolment.client import Enrolment, read_trust, tls_client
from avinet.enrolment.identity import Identity
from avinet.errors import AvinetError, Unauthenticated, Unavailable
from avinet.files import FolderLock, private_folder, sweep
from avinet.rest.door import Door
from avinet.rest.table import Table
from avinet.se.authority import NodeAuthority
from avinet.se.clock import EngineClock
from avinet.se.control import control_routes
from avinet.se.custody import Custody
from avinet.se.diagnose import Probe
from avinet.se.engine import ServiceEngine
from avinet.se.exports import Exports
from avinet.se.keystore import Keystore
from avinet.se.link import CONTROL, LOGS, SSH, Link
from avinet.se.logs import LIMITS as LOG_LIMITS
from avinet.se.logs import LogService, log_routes
from avinet.se.operators import OperatorKeys
from avinet.se.records import losses_of, request_logs
from avinet.se.settings import EngineSettings
from avinet.se.shell import shell_server
from avinet.se.significant import SignificantRecords
from avinet.se.tunnels import Tunnels
from avinet.se.witness import Witness
from avinet.ssh.login import WrongHostKey
from avinet.stalls import Stalls
from avinet.telemetry.reports import Reporter
from avinet.trust import keys, signatures
from avinet.trust.signatures import SignedRequest
from avinet.wire.config import Config
from avinet.wire.session import HelloReply, KeyRotation

TUNNELS = 2
"""To how many nodes a service engine keeps a tunnel at most."""
TRUST_RETRY_S = 60.0
OTHER_KEY_S = 10.0
"""How often at most the other one of two keys is tried."""
ROTATED_S = 0.5
"""How long the answer has to leave through the tunnel of the old key."""


class EngineService(Service):
    """`failed` is called with the error that makes it impossible to go on."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: EngineSettings,
        folder: Path,
        *,
        wall: Callable[[], float],
        random: Callable[[], float],
        failed: Callable[[AvinetError], None],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._random = random
        self._failed = failed
        self._wall = wall
        self._tasks = Tasks()
        self._tunnels: Tunnels | None = None
        self._trust_asked = -TRUST_RETRY_S
        self._changed_key = -OTHER_KEY_S
        state = private_folder(folder / settings.state)
        self._lock = FolderLock(state)
        self._lock.acquire()
        sweep(state)
        self._identity = Identity(state, folder / settings.image, folder / settings.user_data, settings.id)
        manifest = self._identity.manifest
        self._clock = EngineClock(wall, manifest.built)
        self._boot = os.urandom(8).hex()
        self._dataplane = choose_dataplane(
            reactor, settings.dataplane.engine, state / "dataplane", folder / settings.dataplane.keys
        )
        in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
        self._in_thread = in_thread
        self._spool = request_logs(
            reactor, state, settings.spool, self._dataplane, in_thread, self._clock.now, wall, self._tasks
        )
        self._custody = Custody(
            reactor, Keystore(state), self._dataplane, in_thread, self._tasks, self._certificates_changed
        )
        self._significant = SignificantRecords(reactor, settings.significant, self._boot, self._tasks)
        self._dataplane.records = self._significant.take
        self._exports = Exports(reactor, settings.export, folder, self._id, self._clock.now, random, self._tasks)
        self._exports.listen(self._dataplane, self._significant)
        self._applier = Applier(
            reactor, self._dataplane, state / "configuration.json", in_thread, random, self._applied
        )
        operators = OperatorKeys(self._identity.nodes, self._clock.now)
        self._reporter = Reporter(
            reactor,
            self._dataplane,
            lambda: self._applier.state,
            lambda: self._custody.state,
            boot=self._boot,
            interval_s=settings.report_interval_s,
            wall=self._clock.now,
            tasks=self._tasks,
            lost=losses_of(self._spool),
            exports=lambda: self._exports.states,
        )
        self._stalls = Stalls(reactor)
        self._witness = Witness(state / "audit-log.json")
        self._engine = ServiceEngine(
            reactor,
            self._identity,
            self._dataplane,
            self._applier,
            operators,
            state=state,
            boot=self._boot,
            clock=self._clock,
            custody=self._custody,
            witness=self._witness,
            programs=settings.commands,
            tasks=self._tasks,
            links=self._connected,
            rotate=self._rotate,
            trust_changed=self._dial,
            spool=self._spool,
            exports=self._exports,
            stalls=self._stalls,
        )
        self._shell = shell_server(
            reactor, self._identity.host_key, operators, self._engine.run_line, folder / settings.logs
        )
        self._state = state

    def _id(self) -> str:
        """Its id; empty before it has one."""
        receipt = self._identity.receipt
        return receipt.id if receipt is not None else ""

    def _applied(self, config: Config) -> None:
        self._custody.applied(config)
        self._significant.configure(config)

    def _certificates_changed(self) -> None:
        self._reporter.changed()
        self._applier.try_again()

    @override
    def startService(self) -> None:
        super().startService()
        self._stalls.start()
        self._tasks.spawn(self._run(), "the service engine", self._gave_up)

    def _gave_up(self, failure: Failure) -> None:
        if isinstance(failure.value, AvinetError):
            self._failed(failure.value)

    async def _run(self) -> None:
        self._keep_logs()
        self._exports.start()
        await self._custody.start()
        begun = self._applier.start()
        if self._applier.config is not None:  # records that have waited for us come before it is applied
            self._significant.configure(self._applier.config)
        await begun
        if self._identity.receipt is None:
            await Enrolment(self._reactor, self._identity, now=self._wall, random=self._random).run()
        else:
            self._identity.wipe()
        self._keep_logs()
        receipt = self._identity.receipt
        assert receipt is not None
        authority = NodeAuthority(receipt.id, self._identity.nodes, self._clock.now, self._state / "fence")
        control = Door(self._reactor, Table(control_routes(self._engine, authority)), tasks=self._tasks)
        logs = LogService(lambda: self._spool, authority, self._in_thread)
        log_door = Door(self._reactor, Table(log_routes(logs)), tasks=self._tasks, limits=LOG_LIMITS)
        self._tunnels = Tunnels(
            self._reactor,
            self._settings.tunnel,
            self._identity.key,
            {CONTROL: control, SSH: self._shell, LOGS: log_door},
            hello=self._engine.hello,
            answered=self._answered,
            greeted=self._greeted,
            refused=self._refused,
            reporter=self._reporter,
            significant=self._significant,
            random=self._random,
            tasks=self._tasks,
        )
        self._dial()

    def _keep_logs(self) -> None:
        """Start the spool, once it is known whose it is."""
        receipt = self._identity.receipt
        if self._spool is not None and receipt is not None and not self._spool.started:
            self._spool.start(receipt.id, receipt.generation)

    async def _rotate(self) -> None:
        """Change the key, at the node that there is a tunnel to; then come back with it."""
        tunnels = self._tunnels
        link = tunnels.link if tunnels is not None else None
        if tunnels is None or link is None:
            raise Unavailable("there is no tunnel to a node")
        old, new = self._identity.key, self._identity.make_next_key()

        def sign(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
            request = SignedRequest(method, headers["host"], path, headers)
            for kind, key in ((signatures.BY_OLD_KEY, old), (signatures.BY_NEW_KEY, new)):
                keyid = keys.fingerprint(keys.public_line(key))
                signatures.sign(request, body, kind, key, keyid, now=self._clock.now())

        await link.control.request("POST", "/v1/key", KeyRotation(ssh_public_key=keys.public_line(new)), sign=sign)
        self.log.info("the key of this service engine was changed")
        self._reactor.callLater(ROTATED_S, tunnels.use, new)

    def _connected(self) -> dict[str, Probe]:
        """The probes of the tunnels that stand, by the ids of their nodes."""
        return self._tunnels.probes if self._tunnels is not None else {}

    def _dial(self) -> None:
        """Keep a tunnel to those nodes that the trust document names now."""
        if self._tunnels is not None:
            self._tunnels.dial(list(self._identity.nodes())[:TUNNELS])

    def _answered(self, key: Ed25519PrivateKey, reply: HelloReply) -> None:
        try:
            self._identity.settle(key)
            if reply.ratchet:
                self._identity.keep_ratchet(reply.ratchet)
            if reply.log is not None:
                self._witness.told(reply.log)
        except AvinetError as error:  # its tunnel is what such a disk is mended through: the next hello says the same
            self.log.error("the answer to the hello was not kept: {why}", why=str(error))

    async def _greeted(self, link: Link, reply: HelloReply) -> None:
        """A node has answered the first request: it may know the time better, and whom to trust."""
        if self._clock.learn(reply.server_time):
            self.log.warn("the clock of this machine is wrong: the time of node {node} is used", node=link.node.id)
        try:
            self._identity.keep_time(reply.server_time)
            if reply.trust_epoch > self._identity.epoch:
                await self._engine.trust(await read_trust(link.control))
        except AvinetError as error:  # the node is the one that is pinned: what it is for goes on without this
            self.log.error("the trust document of node {node} was not taken: {why}", node=link.node.id, why=str(error))

    def _refused(self, error: AvinetError) -> None:
        """A node that does not admit us, or is not the one we know: its keys may have changed. Ask over HTTPS."""
        identity, tunnels, now = self._identity, self._tunnels, self._reactor.seconds()
        if not isinstance(error, (WrongHostKey, Unauthenticated)):
            return
        if tunnels is not None and identity.next_key is not None and now - self._changed_key >= OTHER_KEY_S:
            # Whether the node took the new key is what was lost when this process ended, or a tunnel did.
            self._changed_key = now
            tunnels.use(identity.key if tunnels.key is identity.next_key else identity.next_key)
        if not self._connected() and now - self._trust_asked >= TRUST_RETRY_S:
            self._trust_asked = now
            self._tasks.spawn(self._ask_trust(), "reading the trust document again")

    async def _ask_trust(self) -> None:
        for node in self._identity.nodes():
            for address in node.https:
                at = self._identity.time(self._clock.now())
                client = tls_client(self._reactor, node, address, self._identity.roots(), at)
                try:
                    await self._engine.trust(await read_trust(client))
                    return
                except AvinetError as error:
                    self.log.warn("no trust document from {node}: {why}", node=node.id, why=str(error))
                finally:
                    await client.close()

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        await in_turn(
            self._stalls.stop,
            self._reporter.stop,
            self._significant.stop,
            self._applier.stop,
            self._custody.stop,
            *([self._tunnels.stop] if self._tunnels is not None else []),
            self._dataplane.detach,
            self._exports.stop,
            *([self._spool.stop] if self._spool is not None else []),
            self._tasks.stop,
            self._lock.release,
        )
