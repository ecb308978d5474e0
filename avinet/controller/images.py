"""The images of service engines: made, admitted, and packed into bundles that machines boot from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from twisted.internet.threads import deferToThreadPool

from avinet.cloud.bundle import domain_bundle
from avinet.controller.standing import Standing
from avinet.enrolment.engines import Engines
from avinet.enrolment.records import ImageRecord
from avinet.errors import Conflict
from avinet.ids import parse_id
from avinet.trust import keys
from avinet.trust.domain import IMAGE_LIFE


class Images:
    """The images of the domain; `keys` are their public ones. `now` is the time of day in seconds since 1970."""

    def __init__(self, reactor: Any, engines: Engines, standing: Standing, now: Callable[[], float]) -> None:
        self._reactor = reactor
        self._engines = engines
        self._standing = standing
        self._now = now
        self.keys: frozenset[str] = frozenset()

    async def start(self) -> None:
        """Read which there are."""
        self.keys = frozenset(each.public_key for each in await self._engines.images())

    async def build(self, id: str | None, actor: str, *, days: int | None = None) -> tuple[str, bytes]:
        """The id and the bundle of an image: the newest that is active, or the one named, made when it is new.

        A new one is good for `days`. Raises `Conflict`.
        """
        images = {each.id: each for each in await self._engines.images()}
        domain = self._standing.domain
        if id is None:
            active = [each for each in images.values() if each.state == "active" and each.not_after > self._now()]
            if not active:
                raise Conflict("no image is active", hint="name a new one: avictl image build --id NAME")
            image = max(active, key=lambda each: each.not_after)
        elif id in images:
            image = images[id]
        else:
            image = await self._new(id, actor, IMAGE_LIFE if days is None else timedelta(days=days))
            days = None
        if days is not None:
            raise Conflict(f"the image {image.id} has its end already", hint="name a new one: --id NAME --days DAYS")
        if image.state != "active" or image.not_after <= self._now():
            raise Conflict(
                f"the image {image.id} is retired or has expired", hint="name a new one: avictl image build --id NAME"
            )
        key = domain.image_key(image.id)
        bundle = await deferToThreadPool(
            self._reactor,
            self._reactor.getThreadPool(),
            lambda: domain_bundle(
                self._standing.document,
                domain.issuing,
                image=image.id,
                image_key=key,
                not_after=image.not_after,
                built=self._now(),
            ),
        )
        return image.id, bundle

    async def bundle(self, id: str | None, actor: str) -> bytes:
        """The bundle alone."""
        return (await self.build(id, actor))[1]

    async def _new(self, id: str, actor: str, life: timedelta) -> ImageRecord:
        domain = self._standing.domain
        path = domain.folder / "images" / f"{parse_id(id, 'image id')}.key"
        key = keys.load_or_make(path)
        not_after = datetime.fromtimestamp(self._now(), UTC) + life
        record = ImageRecord(id=id, public_key=keys.public_line(key), not_after=not_after.timestamp())
        await self._engines.add_image(record, actor)
        self.keys |= {record.public_key}
        return record
