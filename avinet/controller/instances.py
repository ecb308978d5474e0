"""The instances of service engines that a cloud driver runs: made, ended, and kept to what the directory says."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import pause
from avinet.cloud.driver import CloudDriver, Order
from avinet.enrolment.directory import Directory
from avinet.enrolment.engines import Engines
from avinet.enrolment.records import EngineRecord
from avinet.errors import AvinetError, Conflict
from avinet.wire.fleet import Claimed

KEEP_S = 30.0
"""How long it may take until an instance that has ended is started again."""

Bundle = Callable[[str | None, str], Awaitable[bytes]]
"""The bundle of the image of this id, of the newest that is active for None; and who asks."""


class Instances:
    """`clouds` are the drivers by name; a service engine of no driver is left to whoever runs it."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        clouds: Mapping[str, CloudDriver],
        directory: Directory,
        engines: Engines,
        bundle: Bundle,
        claim_s: float,
    ) -> None:
        self._clock = clock
        self._clouds = clouds
        self._directory = directory
        self._engines = engines
        self._bundle = bundle
        self._claim_s = claim_s
        self._at_work: set[str] = set()

    async def create(
        self, ids: Sequence[str], actor: str, *, labels: Mapping[str, str], driver: str, image: str | None
    ) -> list[Claimed]:
        """Expect service engines, and have the driver start them; claims are returned only without a driver."""
        cloud = self._clouds.get(driver)
        with self._working(ids):
            bundle = await self._bundle(image, actor) if cloud is not None else b""
            claimed = await self._engines.expect(ids, actor, labels=labels, driver=driver, claim_s=self._claim_s)
            if cloud is None:
                return claimed
            for each in claimed:
                await cloud.create(Order(each.id, each.generation, bundle, each.claim))
        return [Claimed(id=each.id, generation=each.generation, expires=each.expires) for each in claimed]

    async def reset(self, record: EngineRecord, actor: str) -> Claimed:
        """Expect a service engine anew, and have its driver make its instance anew; a claim only without a driver."""
        cloud = self._clouds.get(record.driver)
        with self._working([record.id]):
            bundle = await self._bundle(None, actor) if cloud is not None else b""
            claimed = await self._engines.reset(record.id, actor, self._claim_s)
            if cloud is None:
                return claimed
            await cloud.delete(record.id)
            await cloud.create(Order(record.id, claimed.generation, bundle, claimed.claim))
        return Claimed(id=claimed.id, generation=claimed.generation, expires=claimed.expires)

    async def delete(self, record: EngineRecord, actor: str, drain: Callable[[], Awaitable[None]]) -> None:
        """`drain` a service engine, end its instance, and forget it."""
        with self._working([record.id]):
            await drain()
            cloud = self._clouds.get(record.driver)
            if cloud is not None:
                await cloud.delete(record.id)
            await self._engines.forget(record.id, actor)

    async def keep(self) -> None:
        """For ever: start what has ended, and finish what a controller that was killed had begun."""
        while True:
            for name, cloud in self._clouds.items():
                with self._said(f"the instances of {name}"):
                    await self._keep_all(name, cloud)
            await pause(self._clock, KEEP_S)

    async def _keep_all(self, name: str, cloud: CloudDriver) -> None:
        running = {each.id: each.generation for each in await cloud.instances() if each.running}
        records = [each for each in self._directory if each.driver == name and each.state != "revoked"]
        for record in records:
            current = running.get(record.id, -1) >= record.generation
            if not current and record.id not in self._at_work:
                with self._said(record.id), self._working([record.id]):
                    await self._keep(record, cloud)

    async def _keep(self, record: EngineRecord, cloud: CloudDriver) -> None:
        instance = next((each for each in await cloud.instances() if each.id == record.id), None)
        if instance is not None and instance.generation < record.generation:
            self.log.warn("{id} was reset, and its instance is of before: ending it", id=record.id)
            await cloud.delete(record.id)
            instance = None
        if instance is not None and not instance.running:
            self.log.warn("the instance {id} has ended: starting it again", id=record.id)
            await cloud.power_on(record.id)
        elif instance is None and record.state == "expected":
            # Whoever expected it died before the instance was made, and its claim is known to nobody.
            self.log.warn("{id} is expected and has no instance: making it", id=record.id)
            bundle = await self._bundle(None, "")
            claimed = await self._engines.claim_anew(record.id, self._claim_s)
            await cloud.create(Order(record.id, claimed.generation, bundle, claimed.claim))

    @contextlib.contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """What fails is said, and tried again next time."""
        try:
            yield
        except AvinetError as error:
            self.log.warn("cannot keep {what}: {why}", what=what, why=str(error))

    @contextlib.contextmanager
    def _working(self, ids: Sequence[str]) -> Iterator[None]:
        """Nobody else creates or deletes these meanwhile. Raises `Conflict`."""
        taken = self._at_work.intersection(ids)
        if taken:
            raise Conflict(f"{', '.join(sorted(taken))}: being created or deleted right now", hint="try again")
        self._at_work.update(ids)
        try:
            yield
        finally:
            self._at_work.difference_update(ids)
