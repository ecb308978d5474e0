"""The hello of a service engine: whether it is the one that it was, what it is told, and what it says that is wrong."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from avinet.config.desired import Desired
from avinet.config.distribute import Distributor
from avinet.controller.certificates.supply import Supply
from avinet.controller.epochs import Epochs
from avinet.controller.sessions import Session, Sessions
from avinet.enrolment.audit import AuditLog
from avinet.enrolment.ratchets import Outdated, Ratchets
from avinet.errors import AvinetError, Unavailable
from avinet.wire.audit import LogProof
from avinet.wire.certificates import CertificateState
from avinet.wire.config import ConfigState
from avinet.wire.session import Hello, HelloReply

Alarm = Callable[[str, str, str], None]


class Greetings:
    """Answers hellos for the node `node`. `epoch` is that of the trust document, `now` the time of day.

    `alarm(kind, id, source)` records what an operator should see; `outdated` is told of a session that is to be cut.
    """

    log = Logger()

    def __init__(
        self,
        node: str,
        sessions: Sessions,
        ratchets: Ratchets,
        audit: AuditLog,
        desired: Desired,
        distributor: Distributor,
        supply: Supply,
        epochs: Epochs,
        *,
        epoch: Callable[[], int],
        now: Callable[[], float],
        alarm: Alarm,
        outdated: Callable[[Session], None],
    ) -> None:
        self._node = node
        self._sessions = sessions
        self._ratchets = ratchets
        self._audit = audit
        self._desired = desired
        self._distributor = distributor
        self._supply = supply
        self._epochs = epochs
        self._epoch = epoch
        self._now = now
        self._alarm = alarm
        self._outdated = outdated

    async def hello(self, session: Session, said: Hello) -> HelloReply:
        """The answer to a first request. Raises `Outdated` when somebody else has the key of this one."""
        ratchet = await self._ratchet(session, said.ratchet)
        log = await self._log(session, said.log_size)
        if said.log_problem:
            self.log.error("{id} says of the audit log: {what}", id=session.id, what=said.log_problem)
            self._alarm("log-rewritten", session.id, session.peer)
        session.hello = msgspec.structs.replace(said, config=ConfigState(), certificates=CertificateState(), ratchet="")
        self._epochs.said(session.id, said.trust_epoch)
        self._supply.said(session.id, said.certificates)
        self._distributor.said(session.id, said.config, said.boot)
        version = self._desired.version(session.id)
        return HelloReply(
            node=self._node,
            server_time=self._now(),
            trust_epoch=self._epoch(),
            desired=version.revision if version else 0,
            reconnect_slot_s=self._sessions.slot_s(session),
            ratchet=ratchet,
            log=log,
        )

    async def _ratchet(self, session: Session, shown: str) -> str:
        try:
            return await self._ratchets.turn(session.login, shown)
        except Outdated:
            session.outdated = True
            self._alarm("outdated-ratchet", session.id, session.peer)
            self._outdated(session)
            raise
        except Unavailable as error:  # without its store a node lives on with those that it knows
            self.log.warn("the ratchet of {id} was not turned: {why}", id=session.id, why=str(error))
            return ""

    async def _log(self, session: Session, first: int) -> LogProof | None:
        try:
            return await self._audit.since(first)
        except AvinetError as error:
            self.log.warn("{id} was told nothing of the audit log: {why}", id=session.id, why=str(error))
            return None
