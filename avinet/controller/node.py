"""A node: the abilities put together, and what each has to do when something happens to another."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from avinet.aio import BREATH, Tasks, in_turn, pause, within
from avinet.cloud.bundle import LocalBoot
from avinet.cloud.local import LocalCloud
from avinet.config.desired import Desired
from avinet.config.distribute import Distributor
from avinet.config.documents import Documents
from avinet.config.rollouts import Rollouts
from avinet.config.states import States
from avinet.controller.certificates.overview import CertificateOverview
from avinet.controller.certificates.reseal import Resealing
from avinet.controller.certificates.seals import Seals
from avinet.controller.certificates.supply import Supply
from avinet.controller.certificates.vault import Vault
from avinet.controller.epochs import Epochs
from avinet.controller.expiry import EARLY, Early, Expiries, endings
from avinet.controller.greetings import Greetings
from avinet.controller.images import Images
from avinet.controller.instances import Instances
from avinet.controller.jobs import Jobs
from avinet.controller.known import Known
from avinet.controller.misuse import Alarms, Misuse
from avinet.controller.node_keys import KeySuccession
from avinet.controller.orders import Orders
from avinet.controller.overview import Overview
from avinet.controller.request_logs import RequestLogs
from avinet.controller.reverse import Reverse
from avinet.controller.rollouts.driver import RolloutDriver
from avinet.controller.rollouts.observed import Observed
from avinet.controller.roots import Roots
from avinet.controller.sessions import Session, Sessions
from avinet.controller.settings import ControllerSettings
from avinet.controller.standing import Standing
from avinet.controller.steps import Steps
from avinet.enrolment.audit import AuditLog
from avinet.enrolment.directory import Directory
from avinet.enrolment.engines import Engines
from avinet.enrolment.pending import PendingRequests
from avinet.enrolment.ratchets import Ratchets
from avinet.enrolment.records import AuditRecord, EngineRecord, put_audit
from avinet.enrolment.registrar import Registrar
from avinet.enrolment.rotation import Rotations
from avinet.errors import TimedOut
from avinet.stalls import Stalls
from avinet.store.interface import Put, Store
from avinet.telemetry.counted import Counted
from avinet.telemetry.fleet import Fleet
from avinet.telemetry.rollups.keeper import Rollups
from avinet.trust.document import sign_document
from avinet.trust.domain import Domain
from avinet.wire.report import Report

T = TypeVar("T")
TOLD_S = 1.0
"""How long a peer that is cut off has to read why."""
ROLLUPS_S = 5.0
"""How long a slow disk holds up the end."""
ROTATED_S = 2.0
"""How long the tunnel of a key stays that was rotated: nobody opens a channel with it longer."""
CONTROL_SERVICES = ("control:80", "api:80", "reports:80", "logs:80")


class Node:
    """What the doors of a node act on. `now` is the time of day in seconds since 1970.

    `replaced` is called with the files of the domain when a certificate or a key of the node took another's place.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: ControllerSettings,
        folder: Path,
        store: Store,
        domain: Domain,
        seals: Seals,
        *,
        addresses: tuple[list[str], list[str]],
        now: Callable[[], float],
        random: Callable[[], float],
        replaced: Callable[[Domain], None],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._store = store
        self.now = now
        self.tasks = Tasks()
        self._recorded_last = 0.0
        self.standing = Standing(store, domain, addresses, now, replaced, self._published)
        self.audit = AuditLog(
            store,
            reactor,
            self.tasks,
            domain=domain.id,
            node=domain.node,
            now=now,
            sign=self._sign_head,
        )
        self.engines = Engines(store, domain.node, now)
        self.directory = Directory(store, reactor, self.tasks, self._engine_changed)
        self.fleet = Fleet()
        self.counted = Counted()
        self.pending = PendingRequests(store, domain.node, now)
        self.registrar = Registrar(
            store,
            self.pending,
            lambda: self.standing.domain,
            lambda: self.standing.document,
            now,
            self._reserved,
        )
        known = Known(lambda: self.directory)

        def in_thread(work: Callable[[], T]) -> Deferred[T]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), work)

        self.certificates = Vault(
            reactor,
            store,
            self.tasks,
            seals,
            domain.node,
            lambda: self.documents,
            self._certificate_changed,
            in_thread,
            now,
        )
        self.resealing = Resealing(store, self.certificates, seals, domain.node, in_thread, now)
        self.documents = Documents(reactor, store, known, self.certificates, now, self._recorded)
        self.states = States(reactor, store)
        self.desired = Desired(reactor, store, self.documents, known, self._desired_changed, random)
        self.sessions = Sessions(
            reactor,
            self.directory,
            alarm=self._alarm,
            ready=self._ready,
            gone=self._gone,
            logins_per_second=settings.ssh.logins_per_second,
        )
        self.reverse = Reverse(
            self.sessions, lambda: self.standing.domain.avictlruser_key, lambda: self.standing.fence, now
        )
        self.epochs = Epochs(
            reactor,
            store,
            self.reverse,
            live=lambda: [each.id for each in self.sessions if each.can_be_asked and each.hello is not None],
            current=lambda: (self.standing.document.epoch, self.standing.signed),
            tasks=self.tasks,
            refused=self._signature_refused,
        )
        steps = Steps(self.standing, self.epochs, self._enrolled, now)
        self.roots, self.keys = Roots(steps), KeySuccession(reactor, steps)
        self.jobs = Jobs(
            reactor,
            store,
            self.tasks,
            self.reverse,
            self._can_be_asked,
            now,
            secrets.token_bytes,
        )
        self.supply = Supply(reactor, self.reverse, self.desired, self.certificates)
        self.distributor = Distributor(reactor, self.reverse, self.desired, self.supply, self.states, random)
        self.certificate_overview = CertificateOverview(
            reactor, self.certificates, self.supply, self.documents, lambda: [each.id for each in known.targets()]
        )
        self.rotations = Rotations(store, domain.node, now, self._reserved)
        self.ratchets = Ratchets(store, reactor, self.tasks)
        self.greetings = Greetings(
            domain.node,
            self.sessions,
            self.ratchets,
            self.audit,
            self.desired,
            self.distributor,
            self.supply,
            self.epochs,
            epoch=lambda: self.standing.document.epoch,
            now=now,
            alarm=self._alarm,
            outdated=self._outdated,
        )
        self.images = Images(reactor, self.engines, self.standing, now)
        boot = LocalBoot(settings.cloud.engine)
        self.instances = Instances(
            reactor,
            {"local": LocalCloud(reactor, folder / settings.cloud.folder, boot)},
            self.directory,
            self.engines,
            self.images.bundle,
            settings.enrolment.claim_s,
        )
        self.orders = Orders(self.directory, self.documents, self.instances, self.sessions, self.reverse)
        self.observed = Observed(reactor, self.sessions.find, self.desired, self.states.get, self.fleet.get, now)
        self.rollouts = RolloutDriver(
            reactor,
            self.tasks,
            domain.node,
            Rollouts(store, self.documents.versions, now, self._recorded),
            self.documents,
            self.desired,
            self.observed,
            known.enrolled,
        )
        self.logs = RequestLogs(
            reactor,
            folder,
            settings,
            self.tasks,
            domain.node,
            store,
            self.sessions,
            self.reverse,
            self.directory,
            self._recorded,
            now,
            random,
        )
        self.rollups = Rollups(
            reactor,
            folder / settings.rollups.folder if settings.rollups.folder else folder / settings.state / "rollups",
            settings.rollups,
            in_thread,
            now,
        )
        self.stalls = Stalls(reactor)
        early = {**EARLY, "certificate": Early(settings.certificates.soon_s, settings.certificates.urgent_s)}
        self.expiries = Expiries(
            reactor, store, domain.node, lambda: endings(self.standing.domain, self.certificates), now, early
        )
        self.overview = Overview(
            reactor,
            self.standing,
            self.directory,
            self.sessions,
            self.fleet,
            self.desired,
            self.states,
            self.distributor,
            self.certificates,
            self.expiries,
            self.stalls,
            store,
            now,
        )
        self.alarms = Alarms(now, self._record_alarm)
        self.misuse = Misuse(
            self.directory,
            lambda: self.images.keys,
            lambda: self.standing.document.nodes,
            lambda: (self.standing.node.id, self.standing.domain.server.public_line),
            lambda: self.standing.former_keys,
            self.alarms,
        )

    async def start(self) -> None:
        """Take this node's place in the domain, and read what the store remembers."""
        self.stalls.start()
        for id, (boot, seq) in (await self.rollups.start()).items():
            self.counted.is_new(id, boot, seq)
        await self.standing.take(self.engines)
        await self.states.start()
        await self.directory.start()
        await self.epochs.start()
        await self.certificates.start()
        await self.desired.start()
        await self.images.start()
        await self.jobs.start()
        await self.logs.start()
        self.audit.start()
        self.rollouts.start()
        self.tasks.spawn(self.rollups.keep(), "keeping rollups")
        self.tasks.spawn(self.resealing.go_on(), "sealing the private keys of certificates anew")
        self.tasks.spawn(self.expiries.keep(), "looking what expires")
        self.tasks.spawn(self.instances.keep(), "keeping the instances")
        self.tasks.spawn(self.keys.keep(), "keeping the keys of this node")

    async def stop(self) -> None:
        """Write what is unsaved, and end all work."""
        await in_turn(
            self.stalls.stop,
            self.logs.stop,
            self.distributor.stop,
            self.desired.stop,
            self.certificates.stop,
            self.directory.stop,
            self.audit.stop,
            self._cut_all,
            self.states.stop,
            self.epochs.stop,
            self._rollups_written,
            self.tasks.stop,
            self.logs.close,
        )

    def _cut_all(self) -> None:
        for session in self.sessions:
            self.sessions.cut(session.id, "the controller stops")

    async def _rollups_written(self) -> None:
        with contextlib.suppress(TimedOut):
            await within(self._reactor, ROLLUPS_S, self.rollups.stop(), "the file of the rollups")

    def _can_be_asked(self, id: str) -> bool:
        session = self.sessions.find(id)
        return session is not None and session.can_be_asked

    def _sign_head(self, text: bytes) -> tuple[str, str]:
        issuing = self.standing.domain.issuing
        return sign_document(text, issuing), issuing.chain_pem

    # What happens

    def _engine_changed(self, id: str, record: EngineRecord | None) -> None:
        session = self.sessions.find(id)
        if session is not None:
            if record is None or record.state != "enrolled" or record.generation != session.login.generation:
                self.sessions.cut(id, "the key may not log in any more")
            elif record.fingerprint != session.login.fingerprint:  # it will dial with the new one by itself
                self._cut_after(ROTATED_S, session, "it has another key by now")
        if record is None:
            self.fleet.forget(id)
            self.counted.forget(id)
            self.logs.forget(id)
            self.states.forget(id)
            self.epochs.forget(id)
            self.supply.forget(id)
            self.observed.forget(id)
        self.desired.reconsider(id)

    def _desired_changed(self, id: str) -> None:
        self.distributor.reconsider(id)

    def _certificate_changed(self, name: str) -> None:
        self.tasks.spawn(self._renew(name), f"looking who is to be sent certificate {name}")

    async def _renew(self, name: str) -> None:
        self.expiries.wake()
        for index, session in enumerate(self.sessions):
            if index % BREATH == BREATH - 1:
                await pause(self._reactor, 0)
            if name in self.supply.needed(session.id):
                self.distributor.reconsider(session.id)

    def _published(self) -> None:
        self.epochs.wake()

    def _signature_refused(self, id: str) -> None:
        """Where that is because the keys of this node are new to it, it reads of them when it dials anew."""
        if self.epochs.get(id) < self.standing.keys_since:
            self.sessions.cut(id, "it does not know the keys of this node")

    def _enrolled(self) -> Iterable[str]:
        return (each.id for each in self.directory if each.state == "enrolled")

    def _ready(self, session: Session) -> None:
        self.observed.ready(session.id)
        self.epochs.opened(session.id)
        self.supply.opened(session.id)
        if session.hello is not None:
            self.distributor.opened(session.id)
        elif not session.outdated:
            self.tasks.spawn(self._ready_without_hello(session), f"looking whether {session.id} has left out its hello")

    async def _ready_without_hello(self, session: Session) -> None:
        """A stock client has no hello to say. One that has said it before has, and may be a copy that hides it."""
        if await self.ratchets.known(session.login):
            self._alarm("no-hello", session.id, session.peer)
        if self.sessions.find(session.id) is session:
            self.distributor.opened(session.id)

    def _reserved(self, key: str) -> bool:
        """Whether a public key is that of an image, of a node, or of an SSH service."""
        nodes = self.standing.document.nodes
        return (
            key in self.images.keys
            or any(key in (*node.ssh_host_keys, *node.avictlruser_keys) for node in nodes)
            or key in self.standing.former_keys
            or self.directory.is_host_key(key)
        )

    def reported(self, id: str, report: Report, is_new: bool) -> None:
        """A service engine has reported; `is_new` when that was not counted before."""
        self.observed.reported(id, report)
        if is_new:
            self.rollups.take(id, report)

    def _gone(self, session: Session) -> None:
        self.observed.gone(session.id)
        self.distributor.closed(session.id)

    def _alarm(self, kind: str, id: str, source: str) -> None:
        self.log.warn("alarm: {kind} of {id} from {source}", kind=kind, id=id, source=source)
        self.alarms.raise_for(kind, id, source)

    def _outdated(self, session: Session) -> None:
        """A service engine has a key of ours, and not the memory that belongs to it: it is told so, and cut off."""
        self._cut_after(TOLD_S, session, "its ratchet is outdated")

    def _cut_after(self, seconds: float, session: Session, why: str) -> None:
        async def cut() -> None:
            await pause(self._reactor, seconds)
            self.sessions.cut_off(session, why)

        self.tasks.spawn(cut(), f"ending a session of {session.id}")

    def _record_alarm(self, kind: str, id: str, source: str) -> None:
        self.tasks.spawn(self.engines.alarm(kind, id, source), "recording an alarm")

    def _recorded(self, kind: str, actor: str, name: str, outcome: str) -> Put:
        """The record of a change of the document `name`; those of one transaction are in the order they are made in."""
        self._recorded_last = max(self.now(), self._recorded_last + 0.0015)
        record = AuditRecord(
            time=self._recorded_last,
            node=self.standing.node.id,
            kind=kind,
            source=actor,
            id=name,
            outcome=outcome,
            notice=kind in ("rollout-stopped", "rollout-rolled-back"),
        )
        return put_audit(record)
