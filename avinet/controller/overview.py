"""What operators see of a node and its fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from avinet import __version__
from avinet.aio import BREATH, pause
from avinet.config.desired import Desired
from avinet.config.distribute import Distributor
from avinet.config.states import States
from avinet.controller.certificates.vault import Vault
from avinet.controller.expiry import Expiries
from avinet.controller.sessions import Sessions
from avinet.controller.standing import Standing
from avinet.enrolment.directory import Directory
from avinet.enrolment.records import EngineRecord
from avinet.stalls import Stalls
from avinet.store.interface import Store
from avinet.telemetry.fleet import Fleet
from avinet.wire.fleet import Engine, EngineCounts, Status


class Overview:
    """Views of what a node knows, which starts when this is made. `now` is the time of day in seconds since 1970."""

    def __init__(
        self,
        clock: IReactorTime,
        standing: Standing,
        directory: Directory,
        sessions: Sessions,
        fleet: Fleet,
        desired: Desired,
        states: States,
        distributor: Distributor,
        certificates: Vault,
        expiries: Expiries,
        stalls: Stalls,
        store: Store,
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._standing = standing
        self._directory = directory
        self._sessions = sessions
        self._fleet = fleet
        self._desired = desired
        self._states = states
        self._distributor = distributor
        self._certificates = certificates
        self._expiries = expiries
        self._stalls = stalls
        self._store = store
        self._now = now
        self._started = now()

    def engine(self, record: EngineRecord, *, whole: bool = False) -> Engine:
        """A service engine as operators see it; `whole` with the health of its servers and its traffic."""
        session, latest = self._sessions.find(record.id), self._fleet.get(record.id)
        hello = session.hello if session else None
        return Engine(
            id=record.id,
            state=record.state,
            generation=record.generation,
            labels=record.labels,
            fingerprint=record.fingerprint or None,
            approved=record.approved or None,
            host_key=record.host_key,
            image=record.image,
            driver=record.driver,
            created=record.created,
            enrolled=record.enrolled or None,
            connected_since=session.since if session else None,
            address=session.peer if session else "",
            version=hello.version if hello else "",
            dataplane=hello.dataplane if hello else "",
            hostname=hello.hostname if hello else record.hostname,
            reported=latest.reported or None,
            desired=self._desired.version(record.id),
            problem=self._desired.problem(record.id) or self._distributor.problem(record.id),
            config=self._states.get(record.id),
            servers_up=latest.up,
            servers_down=latest.down,
            health=latest.health if whole else [],
            traffic=latest.traffic(self._now()) if whole else [],
            lost_records=latest.lost_records,
            exports=latest.exports if whole else [],
        )

    async def status(self) -> Status:
        """The node and its fleet in one view; a large fleet is looked through in pieces."""
        counts = await self._counts()
        up, down = self._fleet.servers()
        standing = self._standing
        return Status(
            node=standing.node.id,
            domain=standing.domain.id,
            version=__version__,
            started=self._started,
            ssh=standing.node.ssh,
            https=standing.node.https,
            trust_epoch=standing.document.epoch,
            expiries=self._expiries.shown(),
            revision=self._directory.revision,
            engines=counts,
            servers_up=up,
            servers_down=down,
            certificates=len(certificates := list(self._certificates)),
            certificates_closed=sum(bool(self._certificates.problem(name)) for name in certificates),
            longest_stall_s=round(self._stalls.longest_s, 3),
            store_silent_s=round(self._store.silent_s(), 1),
        )

    async def _counts(self) -> EngineCounts:
        kinds: Counter[str] = Counter()
        for number, record in enumerate(list(self._directory.records()), 1):
            if number % BREATH == 0:
                await pause(self._clock, 0)
            kinds[record.state] += 1
            desired = self._desired.version(record.id)
            if desired is None:
                continue
            state = self._states.get(record.id)
            kinds["refused"] += state.refused == desired
            if state.applied == desired:
                kinds["in sync"] += 1
                session = self._sessions.find(record.id)
                kinds["acknowledged"] += session is not None and session.hello is not None
        return EngineCounts(
            expected=kinds["expected"],
            enrolled=kinds["enrolled"],
            revoked=kinds["revoked"],
            connected=len(self._sessions),
            acknowledged=kinds["acknowledged"],
            in_sync=kinds["in sync"],
            refused=kinds["refused"],
        )
