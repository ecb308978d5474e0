"""Images, and who gets in."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from avinet.config.compile import Target
from avinet.controller.node import Node
from avinet.enrolment.records import ImageRecord, PendingRecord, RulesRecord
from avinet.errors import Invalid, NotFound
from avinet.ids import parse_id
from avinet.rest.route import Reply, Request, Route
from avinet.trust import keys
from avinet.wire.fleet import (
    Approval,
    Engine,
    EnrolmentRules,
    Image,
    ImageBuild,
    ImageList,
    Pending,
    PendingList,
    Readmission,
    Readmitted,
    Rejection,
    RulesChange,
)


class AdmissionApi:
    """What operators do about images, the rules of enrolment, and those who wait."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def images(self, request: Request) -> Reply:
        """All images."""
        let_in = await self._node.engines.let_in()
        items = [_image(each, let_in.get(each.id, 0)) for each in await self._node.engines.images()]
        return Reply(200, ImageList(items=items))

    async def build_image(self, request: Request) -> Reply:
        """A bundle to boot service engines from."""
        wanted = request.decoded(ImageBuild) if request.body else ImageBuild()
        id, bundle = await self._node.images.build(wanted.id, request.identity, days=wanted.days)
        name = f"avinet-{self._node.standing.domain.id}-{id}.tar.gz"
        headers = {"content-type": "application/gzip", "content-disposition": f'attachment; filename="{name}"'}
        return Reply(201, bundle, headers)

    async def retire_image(self, request: Request) -> Reply:
        """Let an image key enrol nothing any more."""
        record = await self._node.engines.retire_image(request.arguments["id"], request.identity)
        await self._node.pending.drop(record.id, request.identity)
        return Reply(200, _image(record, (await self._node.engines.let_in()).get(record.id, 0)))

    async def rules(self, request: Request) -> Reply:
        """The rules of enrolment."""
        return Reply(200, _rules(await self._node.pending.rules()))

    async def change_rules(self, request: Request) -> Reply:
        """Change the rules of enrolment."""
        return Reply(200, _rules(await self._node.pending.change_rules(request.decoded(RulesChange), request.identity)))

    async def pending(self, request: Request) -> Reply:
        """Who waits for an operator."""
        return Reply(200, PendingList(items=[_pending(each) for each in await self._node.pending.all()]))

    async def approve(self, request: Request) -> Reply:
        """Let in one that waits."""
        wanted, id = request.decoded(Approval), parse_id(request.arguments["id"], "service engine id")
        old = self._node.directory.get(id)
        await self._node.documents.check(Target(id, (old.labels if old else {}) | wanted.labels))
        record = await self._node.pending.approve(id, wanted.fingerprint, request.identity, wanted.labels)
        return Reply(200, self._node.overview.engine(record))

    async def reject(self, request: Request) -> Reply:
        """Keep one out that waits."""
        wanted, id = request.decoded(Rejection), parse_id(request.arguments["id"], "service engine id")
        return Reply(200, _pending(await self._node.pending.refuse(id, wanted.fingerprint, request.identity)))

    async def readmit(self, request: Request) -> Reply:
        """Take service engines as they come next."""
        wanted = request.decoded(Readmission)
        if bool(wanted.ids) is wanted.all:
            raise Invalid("name service engines, or say that it is for all of them")
        for id in wanted.ids:
            if self._node.directory.get(id) is None:
                raise NotFound(f"there is no service engine {id}", hint="see avictl se list")
        return Reply(200, Readmitted(count=await self._node.engines.readmit(wanted.ids, request.identity)))


def _image(record: ImageRecord, let_in: int) -> Image:
    return Image(
        id=record.id,
        state=record.state,
        fingerprint=keys.fingerprint(record.public_key),
        not_after=record.not_after,
        let_in=let_in,
    )


def _rules(record: RulesRecord) -> EnrolmentRules:
    return EnrolmentRules(**msgspec.structs.asdict(record))


def _pending(record: PendingRecord) -> Pending:
    fields = msgspec.structs.asdict(record)
    return Pending(**{**fields, "refused": record.refused or None})


def admission_routes(node: Node) -> Sequence[Route]:
    """The routes of images and of enrolment."""
    do = AdmissionApi(node)
    return [
        Route("GET", "/v1/images", do.images, "All images", gives=ImageList),
        Route("POST", "/v1/images", do.build_image, "Build an image bundle", ImageBuild, bytes, status=201),
        Route("POST", "/v1/images/<id>/retirement", do.retire_image, "Retire an image", gives=Image),
        Route("GET", "/v1/enrolment", do.rules, "The rules of enrolment", gives=EnrolmentRules),
        Route("PATCH", "/v1/enrolment", do.change_rules, "Change them", RulesChange, EnrolmentRules),
        Route("POST", "/v1/readmissions", do.readmit, "Forgive outdated secrets", Readmission, Readmitted),
        Route("GET", "/v1/pending", do.pending, "Who waits for an operator", gives=PendingList),
        Route("POST", "/v1/pending/<id>/approval", do.approve, "Let it in", Approval, Engine),
        Route("POST", "/v1/pending/<id>/refusal", do.reject, "Keep it out", Rejection, Pending),
    ]
