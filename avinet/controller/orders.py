"""What operators ask a node for that concerns several abilities: service engines, and targets of jobs and pulls."""

from __future__ import annotations

from twisted.logger import Logger

from avinet.config.compile import Target
from avinet.config.documents import Documents
from avinet.controller.instances import Instances
from avinet.controller.reverse import Reverse
from avinet.controller.sessions import Sessions
from avinet.enrolment.directory import Directory
from avinet.enrolment.records import EngineRecord
from avinet.errors import AvinetError, Invalid, NotFound
from avinet.ids import parse_id
from avinet.labels import parse_selector
from avinet.wire.fleet import Claimed, EngineCreate
from avinet.wire.jobs import JobOrder
from avinet.wire.log_pulls import LogPullOrder


class Orders:
    """Carries out what is asked for; each raises what stands in its way, and has changed nothing then."""

    log = Logger()

    def __init__(
        self, directory: Directory, documents: Documents, instances: Instances, sessions: Sessions, reverse: Reverse
    ) -> None:
        self._directory = directory
        self._documents = documents
        self._instances = instances
        self._sessions = sessions
        self._reverse = reverse

    async def create(self, order: EngineCreate, actor: str) -> list[Claimed]:
        """Expect service engines, and have the driver start them; claims are returned only without a driver."""
        ids = [parse_id(each) for each in order.ids] or self._free_ids(order.prefix, order.count)
        if order.ids and order.count not in (1, len(order.ids)):
            raise Invalid("count and ids say different numbers")
        for id in ids:
            await self._documents.check(Target(id, order.labels))
        return await self._instances.create(ids, actor, labels=order.labels, driver=order.driver, image=order.image)

    def _free_ids(self, prefix: str, count: int) -> list[str]:
        found: list[str] = []
        number = 0
        while len(found) < count:
            number += 1
            if self._directory.get(f"{prefix}-{number}") is None:
                found.append(parse_id(f"{prefix}-{number}"))
        return found

    def targets(self, order: JobOrder | LogPullOrder) -> list[str]:
        """The service engines that it is for, in the order of their ids. Raises `Invalid` or `NotFound`."""
        if bool(order.ids) is bool(order.selector.strip(" ,")):
            what = "job" if isinstance(order, JobOrder) else "pull"
            raise Invalid(f"a {what} needs service engines by their ids, or by a label expression")
        if order.ids:
            missing = [each for each in order.ids if self._directory.get(each) is None]
            if missing:
                raise NotFound(f"there is no service engine {missing[0]}", hint="see avictl se list")
            return sorted(set(order.ids))
        selector = parse_selector(order.selector)
        found = [each.id for each in self._directory if each.state == "enrolled" and selector.matches(each.labels)]
        if not found:
            raise NotFound(f"no service engine that is enrolled matches {order.selector}", hint="see avictl se list")
        return found

    async def delete(self, record: EngineRecord, actor: str, drain_s: float) -> None:
        """Drain a service engine that is connected, end its instance, and forget it."""

        async def drain() -> None:
            if self._sessions.find(record.id) is not None:
                try:
                    await self._reverse.depart(record.id, drain_s)
                except AvinetError as error:
                    self.log.warn("{id} was not drained: {why}", id=record.id, why=str(error))

        await self._instances.delete(record, actor, drain)
        self._sessions.cut(record.id, "the service engine was deleted")
