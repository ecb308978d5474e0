"""The operators' door: fleet, images, configuration and commands over REST, for `avictl` on the node's UNIX socket."""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from avinet import __version__
from avinet.config.compile import Target
from avinet.controller.node import CONTROL_SERVICES, Node
from avinet.controller.sessions import Session
from avinet.enrolment.records import EngineRecord, ImageRecord, PendingRecord, RulesRecord
from avinet.errors import Invalid, NotFound, Unavailable
from avinet.ids import parse_id
from avinet.relay import Relay
from avinet.rest.openapi import openapi
from avinet.rest.route import Pipe, Reply, Request, Route
from avinet.trust import keys
from avinet.wire.audit import LogEntries, LogHead, LogProof
from avinet.wire.command import CommandResult, OperatorKey
from avinet.wire.config import DOCUMENT_LIMIT_BYTES, Document, DocumentVersion
from avinet.wire.fleet import (
    Approval,
    Claimed,
    CommandRun,
    Compiled,
    DocumentApplied,
    DocumentList,
    Engine,
    EngineCreate,
    EngineList,
    EnginesCreated,
    EnrolmentRules,
    Event,
    EventList,
    Image,
    ImageBuild,
    ImageList,
    KeyAdmission,
    KeyAdmitted,
    LabelChange,
    Pending,
    PendingList,
    Readmission,
    Readmitted,
    Rejection,
    RulesChange,
    Status,
)
from avinet.wire.jobs import Job, JobList, JobOrder, JobResults
from avinet.wire.message import schemas
from avinet.wire.trust import SignedTrust

KEY_LIFE_S = 300.0
PAGE = 500
LONGEST_WAIT_S = 30


def peer_name(transport: Any) -> str:
    """The user at the other end of a UNIX socket, as the kernel says (SO_PEERCRED)."""
    raw = transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", raw)[1]
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


class Operators:
    """What the routes do; each takes the request, and returns the reply."""

    _log = Logger()

    def __init__(self, node: Node) -> None:
        self._node = node

    # The node

    async def status(self, request: Request) -> Reply:
        """The node and its fleet in one view."""
        return Reply(200, self._node.status())

    async def trust(self, request: Request) -> Reply:
        """The trust document."""
        return Reply(200, self._node.standing.signed)

    async def openapi(self, request: Request) -> Reply:
        """The description of this door."""
        return Reply(200, openapi("avinet", __version__, operator_routes(self._node)))

    async def events(self, request: Request) -> Reply:
        """The audit log, up to this moment; `kind`, `id`, `since` and `alarms` say which records of it."""
        query, log = request.query, self._node.audit
        limit, since = request.number("limit", 100, PAGE) or 1, request.number("since", 0, 2**40)
        kind, id, alarms = query.get("kind", ""), query.get("id", ""), bool(request.number("alarms", 0, 1))

        def wanted(event: Event) -> bool:
            return (
                (not kind or event.kind == kind)
                and (not id or id in (event.id, event.image))
                and (event.alarm or not alarms)
            )

        try:
            await log.seal()
        except Unavailable as error:  # what is sealed can be read all the same
            self._log.warn("the audit log is shown as it was last sealed: {why}", why=str(error))
        return Reply(200, await log.events(query.get("after", ""), limit, wanted, since))

    async def log_head(self, request: Request) -> Reply:
        """The signed head of the audit log."""
        return Reply(200, (await self._node.audit.seal()).head)

    async def log_entries(self, request: Request) -> Reply:
        """The leaves of the audit log, from a number on."""
        first, limit = request.number("first", 0, 2**48), request.number("limit", 100, PAGE) or 1
        items = await self._node.audit.entries(first, limit)
        return Reply(200, LogEntries(first=first, items=[each.decode("utf-8") for each in items]))

    async def log_proof(self, request: Request) -> Reply:
        """The proof that the audit log begins with one of `first` records."""
        first, head = request.number("first", 0, 2**48), await self._node.audit.head()
        hashes = await self._node.audit.proof(first, head.size)
        return Reply(200, LogProof(first=first, size=head.size, root=head.root, hashes=hashes))

    async def authorized_keys(self, request: Request) -> Reply:
        """The keys of `aviseuser` in OpenSSH's format."""
        text = self._node.directory.authorized_keys(CONTROL_SERVICES, ["control:80", "api:80", "logs:80", "ssh:22"])
        return Reply(200, text.encode("ascii"), {"content-type": "text/plain; charset=utf-8"})

    # Images

    async def images(self, request: Request) -> Reply:
        """All images."""
        return Reply(200, ImageList(items=[_image(each) for each in await self._node.engines.images()]))

    async def build_image(self, request: Request) -> Reply:
        """A bundle to boot service engines from."""
        wanted = request.decoded(ImageBuild) if request.body else ImageBuild()
        id, bundle = await self._node.build_image(wanted.id, request.identity, days=wanted.days)
        name = f"avinet-{self._node.standing.domain.id}-{id}.tar.gz"
        headers = {"content-type": "application/gzip", "content-disposition": f'attachment; filename="{name}"'}
        return Reply(201, bundle, headers)

    async def retire_image(self, request: Request) -> Reply:
        """Let an image key enrol nothing any more."""
        record = await self._node.engines.retire_image(request.arguments["id"], request.identity)
        await self._node.pending.drop(record.id, request.identity)
        return Reply(200, _image(record))

    # Who gets in

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
        return Reply(200, self._node.engine(record))

    async def reject(self, request: Request) -> Reply:
        """Keep one out that waits."""
        wanted, id = request.decoded(Rejection), parse_id(request.arguments["id"], "service engine id")
        return Reply(200, _pending(await self._node.pending.refuse(id, wanted.fingerprint, request.identity)))

    # Service engines

    async def engines(self, request: Request) -> Reply:
        """Service engines in the order of their ids."""
        limit, after = request.number("limit", 100, PAGE) or 1, request.query.get("after", "")
        key, _, value = request.query.get("label", "").partition("=")
        found = [
            each for each in self._node.directory if each.id > after and (not key or each.labels.get(key) == value)
        ]
        items = [self._node.engine(each) for each in found[:limit]]
        return Reply(200, EngineList(items=items, next=items[-1].id if len(found) > limit else ""))

    async def create(self, request: Request) -> Reply:
        """Expect service engines, and have the driver start them."""
        return Reply(
            201, EnginesCreated(items=await self._node.create(request.decoded(EngineCreate), request.identity))
        )

    async def engine(self, request: Request) -> Reply:
        """One service engine, with health and traffic."""
        record = self._record(request)
        return Reply(200, self._node.engine(record, whole=True))

    async def label(self, request: Request) -> Reply:
        """Change labels."""
        change = request.decoded(LabelChange)
        old = self._record(request)
        id = old.id
        labels = {key: value for key, value in old.labels.items() if key not in change.remove} | change.set
        await self._node.documents.check(Target(id, labels))
        record = await self._node.engines.label(id, request.identity, change.set, change.remove)
        return Reply(200, self._node.engine(record, whole=True))

    async def revoke(self, request: Request) -> Reply:
        """Let its key open nothing any more, and end its session."""
        record = await self._node.engines.revoke(self._record(request).id, request.identity)
        self._node.sessions.cut(record.id, "the key was revoked")
        return Reply(200, self._node.engine(record))

    async def reset(self, request: Request) -> Reply:
        """Expect it anew, in its next generation, and end its session."""
        record = self._record(request)
        claimed = await self._node.instances.reset(record, request.identity)
        self._node.sessions.cut(record.id, "the service engine was reset")
        return Reply(200, claimed)

    async def readmit(self, request: Request) -> Reply:
        """Take service engines as they come next."""
        wanted = request.decoded(Readmission)
        if bool(wanted.ids) is wanted.all:
            raise Invalid("name service engines, or say that it is for all of them")
        for id in wanted.ids:
            if self._node.directory.get(id) is None:
                raise NotFound(f"there is no service engine {id}", hint="see avictl se list")
        return Reply(200, Readmitted(count=await self._node.engines.readmit(wanted.ids, request.identity)))

    async def rotate(self, request: Request) -> Reply:
        """Have it change its key."""
        record = self._record(request)
        await self._node.reverse.rotate(record.id)
        return Reply(200, self._node.engine(self._record(request)))

    async def delete(self, request: Request) -> Reply:
        """Drain it, end it, forget it."""
        drain_s = float(request.number("drain_s", 5, 3600))
        await self._node.delete(self._record(request), request.identity, drain_s)
        return Reply(204)

    async def engine_configuration(self, request: Request) -> Reply:
        """What it should run, and what it said it runs."""
        id, desired = self._record(request).id, self._node.desired
        compiled = desired.compiled(id)
        return Reply(
            200,
            Compiled(
                id=id,
                desired=desired.version(id),
                config=compiled.config if compiled else None,
                state=self._node.states.get(id),
            ),
        )

    async def command(self, request: Request) -> Reply:
        """Run a command on it, and wait for the answer."""
        run, id = request.decoded(CommandRun), self._record(request).id
        order = JobOrder(command=run.command, arguments=run.arguments, ids=[id], timeout_s=run.timeout_s)
        return Reply(200, await self._node.jobs.one(order, id, request.identity))

    async def begin_job(self, request: Request) -> Reply:
        """Begin a command on several."""
        order = request.decoded(JobOrder)
        return Reply(202, await self._node.jobs.begin(order, self._node.targets(order), request.identity))

    async def jobs(self, request: Request) -> Reply:
        """The jobs, the latest first."""
        limit = request.number("limit", 50, PAGE) or 1
        return Reply(200, await self._node.jobs.latest(limit=limit, before=request.query.get("after", "")))

    async def job(self, request: Request) -> Reply:
        """A job, and its results behind a number."""
        after, wait_s = request.number("after", 0, 10**6), request.number("wait_s", 0, LONGEST_WAIT_S)
        return Reply(200, await self._node.jobs.results(_job(request), after, wait_s))

    async def cancel_job(self, request: Request) -> Reply:
        """Begin no more of a job."""
        self._node.jobs.cancel(_job(request))
        return Reply(204)

    async def admit_key(self, request: Request) -> Reply:
        """Let an operator's key log in to its SSH service for 5 minutes."""
        record, line = self._record(request), request.decoded(KeyAdmission).public_key
        keys.parse_public_line(line)
        key = OperatorKey(public_key=line, operator=request.identity, expires=self._node.now() + KEY_LIFE_S)
        await self._node.reverse.admit(record.id, key)
        return Reply(200, KeyAdmitted(user="avictlruser", host_key=record.host_key, expires=key.expires))

    async def pipe(self, request: Request) -> Reply | Pipe:
        """A byte pipe to one of its services."""
        if request.headers.get("upgrade", "").lower() != "avinet-pipe":
            raise Invalid("this is a byte pipe", hint="ask with Upgrade: avinet-pipe, or use avictl connect")
        session: Session = self._node.sessions.get(self._record(request).id)
        service = request.arguments["service"]
        name = {"ssh": "ssh:22"}.get(service, service if ":" in service else f"{service}:80")
        factory = Factory.forProtocol(Relay)
        factory.noisy = False
        far: Any = await session.tunnel.endpoint(name).connect(factory)
        return Pipe(far)

    # Configuration

    async def documents(self, request: Request) -> Reply:
        """The configuration documents."""
        limit = request.number("limit", 100, PAGE) or 1
        return Reply(200, await self._node.documents.list(limit=limit, after=request.query.get("after", "")))

    async def document(self, request: Request) -> Reply:
        """One document, in its current version."""
        found = await self._node.documents.get(request.arguments["name"])
        return Reply(200, found, {"etag": f'"{found.version}"'})

    async def apply(self, request: Request) -> Reply:
        """Create or replace a document."""
        document = request.decoded(Document)
        if document.name != request.arguments["name"]:
            raise Invalid("the name in the document is not the name in the path")
        done = await self._node.documents.apply(document, request.identity, expected=_expected(request))
        return Reply(200, done)

    async def remove(self, request: Request) -> Reply:
        """Delete a document."""
        await self._node.documents.delete(request.arguments["name"], request.identity, expected=_expected(request))
        return Reply(204)

    async def history(self, request: Request) -> Reply:
        """The versions of a document."""
        limit = request.number("limit", 100, PAGE) or 1
        after = request.query.get("after", "")
        return Reply(200, await self._node.documents.history(request.arguments["name"], limit=limit, after=after))

    async def version(self, request: Request) -> Reply:
        """One version of a document."""
        number = request.arguments["version"]
        if not (number.isascii() and number.isdigit() and len(number) < 9):
            raise NotFound(f"there is no version {number[:40]!r}", hint="versions are numbers: see its history")
        return Reply(200, await self._node.documents.get(request.arguments["name"], int(number)))

    async def schema(self, request: Request) -> Reply:
        """The JSON schema of a configuration document."""
        found, components = schemas([Document])
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **found[0]}
        return Reply(
            200, {**schema, "components": {"schemas": components}}, {"content-type": "application/schema+json"}
        )

    def _record(self, request: Request) -> EngineRecord:
        id = parse_id(request.arguments["id"], "service engine id")
        record = self._node.directory.get(id)
        if record is None:
            raise NotFound(f"there is no service engine {id}", hint="see avictl se list")
        return record


def _expected(request: Request) -> int | None:
    """The version in If-Match; None when any will do."""
    tag = request.headers.get("if-match", "*").strip('"')
    if tag == "*":
        return None
    if not tag.isdigit() or len(tag) > 15:
        raise Invalid("If-Match must be the ETag of a version")
    return int(tag)


def _job(request: Request) -> str:
    id = request.arguments["id"]
    if len(id) > 64 or not id.isascii():
        raise NotFound("there is no such job", hint="see avictl jobs")
    return id


def _image(record: ImageRecord) -> Image:
    return Image(
        id=record.id, state=record.state, fingerprint=keys.fingerprint(record.public_key), not_after=record.not_after
    )


def _rules(record: RulesRecord) -> EnrolmentRules:
    return EnrolmentRules(**msgspec.structs.asdict(record))


def _pending(record: PendingRecord) -> Pending:
    fields = msgspec.structs.asdict(record)
    return Pending(**{**fields, "refused": record.refused or None})


def operator_routes(node: Node) -> Sequence[Route]:
    """The routes of the operators' door."""
    do = Operators(node)
    engine, document = "/v1/service-engines/<id>", "/v1/configurations/<name>"
    pages = ("limit", "after")
    return [
        Route("GET", "/v1/status", do.status, "The node and its fleet", gives=Status),
        Route("GET", "/v1/openapi.json", do.openapi, "This description"),
        Route("GET", "/v1/trust", do.trust, "The trust document", gives=SignedTrust),
        Route(
            "GET",
            "/v1/events",
            do.events,
            "The audit log",
            gives=EventList,
            query=(*pages, "kind", "id", "since", "alarms"),
        ),
        Route("GET", "/v1/log/head", do.log_head, "The signed head of the audit log", gives=LogHead),
        Route("GET", "/v1/log/entries", do.log_entries, "Its leaves", gives=LogEntries, query=("first", "limit")),
        Route("GET", "/v1/log/consistency", do.log_proof, "That it only grew", gives=LogProof, query=("first",)),
        Route("GET", "/v1/authorized-keys", do.authorized_keys, "The keys of aviseuser", gives=bytes),
        Route("GET", "/v1/images", do.images, "All images", gives=ImageList),
        Route("POST", "/v1/images", do.build_image, "Build an image bundle", ImageBuild, bytes, status=201),
        Route("POST", "/v1/images/<id>/retirement", do.retire_image, "Retire an image", gives=Image),
        Route("GET", "/v1/enrolment", do.rules, "The rules of enrolment", gives=EnrolmentRules),
        Route("PATCH", "/v1/enrolment", do.change_rules, "Change them", RulesChange, EnrolmentRules),
        Route("POST", "/v1/readmissions", do.readmit, "Forgive outdated secrets", Readmission, Readmitted),
        Route("GET", "/v1/pending", do.pending, "Who waits for an operator", gives=PendingList),
        Route("POST", "/v1/pending/<id>/approval", do.approve, "Let it in", Approval, Engine),
        Route("POST", "/v1/pending/<id>/refusal", do.reject, "Keep it out", Rejection, Pending),
        Route(
            "GET", "/v1/service-engines", do.engines, "All service engines", gives=EngineList, query=(*pages, "label")
        ),
        Route(
            "POST", "/v1/service-engines", do.create, "Create service engines", EngineCreate, EnginesCreated, status=201
        ),
        Route("GET", engine, do.engine, "One service engine", gives=Engine),
        Route("PATCH", engine, do.label, "Change its labels", LabelChange, Engine),
        Route("DELETE", engine, do.delete, "Drain, end and forget it", status=204, query=("drain_s",)),
        Route("POST", engine + "/revocation", do.revoke, "Revoke its key", gives=Engine),
        Route("POST", engine + "/reset", do.reset, "Expect it anew, with another key", gives=Claimed),
        Route("POST", engine + "/key-rotation", do.rotate, "Have it change its key", gives=Engine),
        Route("GET", engine + "/configuration", do.engine_configuration, "Desired and applied", gives=Compiled),
        Route("POST", engine + "/commands", do.command, "Run a command on it", CommandRun, CommandResult),
        Route(
            "POST", "/v1/jobs", do.begin_job, "Begin a command on several", JobOrder, Job, status=202, limit_bytes=10**6
        ),
        Route("GET", "/v1/jobs", do.jobs, "The jobs, the latest first", gives=JobList, query=pages),
        Route("GET", "/v1/jobs/<id>", do.job, "A job and its results", gives=JobResults, query=("after", "wait_s")),
        Route("POST", "/v1/jobs/<id>/cancellation", do.cancel_job, "Begin no more of it", status=204),
        Route("POST", engine + "/ssh-keys", do.admit_key, "Admit an SSH key for 5 minutes", KeyAdmission, KeyAdmitted),
        Route("GET", engine + "/services/<service>", do.pipe, "A byte pipe to a service", status=101),
        Route("GET", "/v1/configurations", do.documents, "All documents", gives=DocumentList, query=pages),
        Route("GET", document, do.document, "One document", gives=DocumentVersion),
        Route(
            "PUT",
            document,
            do.apply,
            "Create or replace a document",
            Document,
            DocumentApplied,
            limit_bytes=2 * DOCUMENT_LIMIT_BYTES,
        ),
        Route("DELETE", document, do.remove, "Delete a document", status=204),
        Route("GET", document + "/versions", do.history, "Its versions", gives=DocumentList, query=pages),
        Route("GET", document + "/versions/<version>", do.version, "One of them", gives=DocumentVersion),
        Route("GET", "/v1/schemas/configuration", do.schema, "The JSON schema of a document"),
    ]
