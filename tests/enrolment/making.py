"""A node's side of an enrolment and well-signed requests for it, put together once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.task import Clock

from avinet.aio import Tasks
from avinet.enrolment.audit import AuditLog
from avinet.enrolment.challenge import new_nonce
from avinet.enrolment.engines import Engines
from avinet.enrolment.pending import PendingRequests
from avinet.enrolment.records import ImageRecord
from avinet.enrolment.registrar import Registrar
from avinet.rest.route import Request
from avinet.store.interface import Store
from avinet.trust import keys, signatures
from avinet.trust.document import sign_document
from avinet.trust.domain import Domain, found
from avinet.trust.signatures import SignedRequest
from avinet.wire.enrolment import EnrolmentRequest
from avinet.wire.fleet import EnrolmentPolicy, Event, RulesChange
from avinet.wire.message import encode
from avinet.wire.trust import Node, TrustDocument

PORT = 8443


@cache
def domain() -> Domain:
    """A domain of trust, made once for all tests, which only read it."""
    return found(Path(mkdtemp(prefix="avinet-tests-")) / "domain", "node-1", datetime.now(UTC))


def document(https: str = "127.0.0.1:8443") -> TrustDocument:
    of = domain()
    node = Node(
        id=of.node,
        name=of.name,
        https=[https],
        ssh=["127.0.0.1:2222"],
        ssh_host_keys=[keys.public_line(of.ssh_host_key)],
        avictlruser_keys=[keys.public_line(of.avictlruser_key)],
    )
    return TrustDocument(epoch=1, domain=of.id, roots=[of.root_pem], nodes=[node])


class Office:
    """A registrar on `store`, with the operators' side beside it; `time` is its clock, in seconds since 1970.

    Each look at the clock moves it by a millisecond, so that one event is before another.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.time = domain().created + 60
        issuing = domain().issuing
        self.log = AuditLog(
            store,
            Clock(),
            Tasks(),
            domain=domain().id,
            node="node-1",
            now=self.now,
            sign=lambda text: (sign_document(text, issuing), issuing.chain_pem),
        )
        self.engines = Engines(store, "node-1", self.now)
        self.document = document()
        self.pending = PendingRequests(store, "node-1", self.now)
        self.registrar = Registrar(store, self.pending, domain, lambda: self.document, self.now)

    def now(self) -> float:
        self.time += 0.001
        return self.time

    async def admit_image(self, **changes: Any) -> None:
        first = domain().first_image
        record = {"id": first.id, "public_key": keys.public_line(first.key), "not_after": first.not_after}
        await self.engines.add_image(ImageRecord(**(record | changes)), "operator")

    async def expect(self, id: str = "se-1", *, claim_s: float = 3600) -> str:
        """The claim of a new service engine."""
        [claimed] = await self.engines.expect([id], "operator", labels={}, driver="none", claim_s=claim_s)
        return claimed.claim

    async def policy(self, policy: EnrolmentPolicy, **changes: Any) -> None:
        await self.pending.change_rules(RulesChange(policy=policy, **changes), "operator")

    async def events(self) -> list[Event]:
        await self.log.seal()
        return list((await self.log.events("", 1000)).items)

    async def alarms(self) -> list[str]:
        return [each.outcome for each in await self.events() if each.alarm]


class Newborn:
    """A service engine that asks to be enrolled: its keys, and what it sends; each part can be changed."""

    def __init__(self, id: str, claim: str | None, *, generation: int = 1) -> None:
        self.id, self.claim, self.generation = id, claim, generation
        self.key, self.host_key = keys.generate(), keys.generate()
        self.image, self.image_key = domain().first_image.id, domain().first_image.key
        self.authority = f"{domain().name}:{PORT}"

    @property
    def fingerprint(self) -> str:
        return keys.fingerprint(keys.public_line(self.key))

    def message(self, nonce: str, **changes: Any) -> bytes:
        """The body; `changes` are fields that differ, None takes one away."""
        body = encode(
            EnrolmentRequest(
                id=self.id,
                generation=self.generation,
                nonce=nonce,
                claim=self.claim,
                image=self.image,
                ssh_public_key=keys.public_line(self.key),
                ssh_host_public_key=keys.public_line(self.host_key),
                request_id="a" * 22,
            )
        )
        if not changes:
            return body
        fields = json.loads(body) | changes
        return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()

    def signed(self, now: float, body: bytes | None = None, nonce: str | None = None) -> Request:
        """A request made at `now` and signed by both keys, as the door hands it to the registrar."""
        nonce = nonce or new_nonce(domain().nonce_key, now)
        body = self.message(nonce) if body is None else body
        message = self.unsigned()
        for kind, key, keyid in self.signers():
            signatures.sign(message, body, kind, key, keyid, now=now, nonce=nonce)
        return self.request(message, body)

    def unsigned(self) -> SignedRequest:
        path = f"/v1/service-engines/{self.id}/enrolment"
        headers = {"content-type": "application/json", "host": self.authority}
        return SignedRequest("POST", self.authority, path, headers)

    def signers(self) -> tuple[tuple[signatures.Kind, Ed25519PrivateKey, str], ...]:
        return (
            (signatures.BY_IMAGE, self.image_key, self.image),
            (signatures.BY_ENGINE, self.key, self.fingerprint),
        )

    peer = "192.0.2.7"

    def request(self, message: SignedRequest, body: bytes, repeated: frozenset[str] = frozenset()) -> Request:
        return Request(
            method=message.method,
            path=message.target,
            target=message.target,
            authority=message.authority,
            arguments={"id": self.id},
            query={},
            headers=dict(message.headers),
            repeated=repeated,
            body=body,
            peer=self.peer,
            identity=None,
        )
