"""A node's standing in its domain: its record in the store, whose revision is its fence, and the trust document."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from avinet.enrolment.engines import Engines
from avinet.enrolment.records import ImageRecord, Record
from avinet.errors import Unavailable
from avinet.store.interface import Put, Store, Transaction, Unchanged
from avinet.trust import keys
from avinet.trust.authority import IssuingCA
from avinet.trust.document import sign_document
from avinet.trust.domain import Domain
from avinet.wire.message import encode
from avinet.wire.trust import Node, SignedTrust, TrustDocument

TRUST = b"trust/current"


def sign_trust(document: TrustDocument, issuing: IssuingCA) -> SignedTrust:
    """A trust document as it is published."""
    text = encode(document)
    return SignedTrust(
        document=text.decode("utf-8"),
        signature=sign_document(text, issuing),
        issuer=issuing.chain_pem,
    )


class NodeRecord(Record, frozen=True, kw_only=True):
    """A node of the domain, as it was when it last started."""

    node: Node
    started: float


class Standing:
    """What this node says of itself and of its domain. `domain` is its files, `node` its addresses and keys."""

    def __init__(self, store: Store, domain: Domain, addresses: tuple[list[str], list[str]], now: Callable[[], float]):
        self._store = store
        self._now = now
        self.domain = domain
        self.fence = 0
        self.signed: SignedTrust
        self.document: TrustDocument
        https, ssh = addresses
        self.node = Node(
            id=domain.node,
            name=domain.name,
            https=https,
            ssh=ssh,
            ssh_host_keys=[keys.public_line(domain.ssh_host_key)],
            avictlruser_keys=[keys.public_line(domain.avictlruser_key)],
        )

    async def take(self, engines: Engines) -> None:
        """Write this node's record, bring the trust document up to date, and admit the domain's first image."""
        record = NodeRecord(node=self.node, started=self._now())
        place = b"node/" + self.node.id.encode("ascii")
        outcome = await self._store.transact(Transaction((), (Put(place, msgspec.json.encode(record)),)))
        self.fence = outcome.revision
        await self._bring_up_to_date()
        first = self.domain.first_image
        image = ImageRecord(id=first.id, public_key=keys.public_line(first.key), not_after=first.not_after)
        if not any(each.id == image.id for each in await engines.images()):
            await engines.add_image(image, self.node.id)

    async def _bring_up_to_date(self) -> None:
        for _ in range(10):
            entry = (await self._store.read([TRUST])).entries.get(TRUST)
            before = None
            if entry is not None:
                self.signed = msgspec.json.decode(entry.value, type=SignedTrust)
                before = self.document = msgspec.json.decode(self.signed.document, type=TrustDocument)
            nodes = {each.id: each for each in (before.nodes if before else [])} | {self.node.id: self.node}
            wanted = TrustDocument(
                epoch=before.epoch if before else 1,
                domain=self.domain.id,
                roots=[self.domain.root_pem],
                nodes=sorted(nodes.values(), key=lambda each: each.id),
            )
            if wanted == before:
                return
            document = msgspec.structs.replace(wanted, epoch=wanted.epoch + 1) if before else wanted
            signed = sign_trust(document, self.domain.issuing)
            outcome = await self._store.transact(
                Transaction((Unchanged(TRUST, entry.revision if entry else 0),), (Put(TRUST, encode(signed)),))
            )
            if outcome.succeeded:
                self.signed, self.document = signed, document
                return
        raise Unavailable("the trust document changes too often")
