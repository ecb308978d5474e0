"""A node's standing in its domain: its record in the store, whose revision is its fence, and the trust document."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from avinet.enrolment.engines import Engines
from avinet.enrolment.records import AuditRecord, ImageRecord, Record, put_audit
from avinet.errors import Unavailable
from avinet.store.interface import Entry, Put, Store, Transaction, Unchanged
from avinet.trust import keys
from avinet.trust.authority import IssuingCA
from avinet.trust.document import sign_document
from avinet.trust.domain import Domain
from avinet.trust.image import fingerprint
from avinet.trust.path import parse_certificates
from avinet.wire.message import encode
from avinet.wire.trust import MOST_ROOTS, Node, SignedTrust, TrustDocument

TRUST, SINCE = b"trust/current", b"trust/since"
_RACES = 10
FORMER = 64
"""How many former keys of nodes are remembered."""


def sign_trust(document: TrustDocument, issuing: IssuingCA) -> SignedTrust:
    """A trust document as it is published."""
    text = encode(document)
    return SignedTrust(document=text.decode("utf-8"), signature=sign_document(text, issuing), issuer=issuing.chain_pem)


def pem(certificate: x509.Certificate) -> str:
    """A certificate as a trust document has it."""
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


class NodeRecord(Record, frozen=True, kw_only=True):
    """A node of the domain, as it was when it last started."""

    node: Node
    started: float


class SinceRecord(Record, frozen=True, kw_only=True):
    """In which epoch what a trust document names came into it: root CAs by fingerprint, keys of nodes by their line.

    `former` are the latest keys of nodes that are in it no longer.
    """

    epochs: dict[str, int] = {}
    former: list[str] = []


class Standing:
    """What this node says of itself and of its domain.

    `domain` is its files, `node` its addresses and keys; `replaced` is called with a domain that took the place of
    another, `published` when there is a newer trust document.
    """

    def __init__(
        self,
        store: Store,
        domain: Domain,
        addresses: tuple[list[str], list[str]],
        now: Callable[[], float],
        replaced: Callable[[Domain], None] = lambda domain: None,
        published: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._addresses = addresses
        self._now = now
        self._replaced = replaced
        self._published = published
        self.domain = domain
        self.fence = 0
        self.signed: SignedTrust
        self.document: TrustDocument
        self._known = False
        self._since = SinceRecord()
        self._owed: dict[tuple[str, str], AuditRecord] = {}

    @property
    def node(self) -> Node:
        """This node, with the keys that it has and those that are to follow."""
        domain, (https, ssh) = self.domain, self._addresses
        hosts, own = (
            [keys.public_line(each) for each in pair if each is not None]
            for pair in (
                (domain.ssh_host_key, domain.next_ssh_host_key),
                (domain.avictlruser_key, domain.next_avictlruser_key),
            )
        )
        return Node(id=domain.node, name=domain.name, https=https, ssh=ssh, ssh_host_keys=hosts, avictlruser_keys=own)

    def replace(self, domain: Domain) -> None:
        """Act with the certificate and the keys of `domain` from now on."""
        self.domain = domain
        self._replaced(domain)

    def since(self, named: str) -> int:
        """The epoch in which a root CA (its fingerprint) or a key (its line) came into the trust document.

        One that none has yet for what is not in it.
        """
        return self._since.epochs.get(named, self.document.epoch + 1)

    @property
    def current(self) -> bool:
        """Whether the trust document says of this node what it is."""
        return not self._owed and self._is_current(self._wanted(self.document, ""), self.document)

    def _is_current(self, wanted: TrustDocument, found: TrustDocument) -> bool:
        return wanted == found and self.signed.issuer == self.domain.issuing.chain_pem

    async def take(self, engines: Engines) -> None:
        """Write this node's record, bring the trust document up to date, and admit the domain's first image."""
        record = NodeRecord(node=self.node, started=self._now())
        place = b"node/" + self.node.id.encode("ascii")
        outcome = await self._store.transact(Transaction((), (Put(place, msgspec.json.encode(record)),)))
        self.fence = outcome.revision
        await self.publish()
        first = self.domain.first_image
        image = ImageRecord(id=first.id, public_key=keys.public_line(first.key), not_after=first.not_after)
        if not any(each.id == image.id for each in await engines.images()):
            await engines.add_image(image, self.node.id)

    async def publish(self, *, without: str = "", above: int = 0, audit: AuditRecord | None = None) -> None:
        """Bring the trust document up to date, `without` a root CA (in PEM) that is in it, in an epoch `above` one.

        It has this node as it is, the root that this node is under and the one that follows, and the signature of its
        issuing CA; one that has all of that stays. `audit` is recorded with it; where the store is away, with the next
        one. Raises `Unavailable`.
        """
        if audit is not None:
            self._owed[audit.kind, audit.outcome] = audit
        for _ in range(_RACES):
            entry, since = await self._read()
            before = self.document if entry is not None else None
            wanted = self._wanted(before, without)
            if before is not None and self._is_current(wanted, before) and above < before.epoch and not self._owed:
                if self._epochs(before) == since:
                    return
                document, signed = before, self.signed  # one of a version that did not count, or of a backup
            else:
                epoch = max(before.epoch if before else 0, above) + 1
                document = msgspec.structs.replace(wanted, epoch=epoch)
                signed = sign_trust(document, self.domain.issuing)
            self._since = self._epochs(document)
            puts = [Put(TRUST, encode(signed)), Put(SINCE, msgspec.json.encode(self._since))]
            if before is not None and document != before:
                owed = list(self._owed.values()) or [self._unasked()]
                puts += [put_audit(self._with_epoch(each, document.epoch)) for each in owed]
            expected = Unchanged(TRUST, entry.revision if entry else 0)
            if (await self._store.transact(Transaction((expected,), tuple(puts)))).succeeded:
                self.signed, self.document = signed, document
                self._owed.clear()
                self._published()
                return
        raise Unavailable("the trust document changes too often")

    async def _read(self) -> tuple[Entry | None, SinceRecord]:
        """The trust document as it is stored now, which another node may have changed, and since when what is in it."""
        entries = (await self._store.read([TRUST, SINCE])).entries
        entry, since = entries.get(TRUST), entries.get(SINCE)
        self._since = msgspec.json.decode(since.value, type=SinceRecord) if since is not None else SinceRecord()
        if entry is not None:
            known = self.document.epoch if self._known else 0
            self.signed = msgspec.json.decode(entry.value, type=SignedTrust)
            self.document = msgspec.json.decode(self.signed.document, type=TrustDocument)
            if self._known and self.document.epoch != known:  # the answer to what wrote it was lost
                self._published()
            self._known = True
        return entry, self._since

    def _wanted(self, before: TrustDocument | None, without: str) -> TrustDocument:
        domain = self.domain
        following = [pem(domain.next_issuing.root)] if domain.next_issuing is not None else []
        own = [domain.root_pem, *following]
        found = [each for each in (before.roots if before else []) if each != without]
        roots = list(dict.fromkeys([*found, *own]))
        for each in found:  # there is always room for those of this node
            if len(roots) > MOST_ROOTS and each not in own:
                roots.remove(each)
        nodes = {each.id: each for each in (before.nodes if before else [])} | {self.node.id: self.node}
        return TrustDocument(
            epoch=before.epoch if before else 0,
            domain=domain.id,
            roots=roots,
            nodes=sorted(nodes.values(), key=lambda each: each.id),
        )

    def _unasked(self) -> AuditRecord:
        """The record of a change that nobody asked for just now: settings, or a step that was cut off."""
        id = self.domain.node
        return AuditRecord(time=self._now(), node=id, kind="trust-document", source=id, notice=True)

    def _with_epoch(self, record: AuditRecord, epoch: int) -> AuditRecord:
        return msgspec.structs.replace(record, outcome=f"{record.outcome}, epoch {epoch}".removeprefix(", "))

    def _epochs(self, document: TrustDocument) -> SinceRecord:
        """Since when everything in `document` is in it, and which keys are in it no longer."""
        node_keys = [key for node in document.nodes for key in (*node.ssh_host_keys, *node.avictlruser_keys)]
        named = [*map(fingerprint, self.roots(document)), *node_keys]
        known = self._since
        gone = [each for each in known.epochs if each.startswith("ssh-") and each not in node_keys]
        former = [*(each for each in known.former if each not in gone), *gone]
        return SinceRecord(
            epochs={each: known.epochs.get(each, document.epoch) for each in named}, former=former[-FORMER:]
        )

    @property
    def keys_since(self) -> int:
        """The epoch in which the keys that this node uses came into the trust document."""
        domain = self.domain
        return max(self.since(keys.public_line(each)) for each in (domain.ssh_host_key, domain.avictlruser_key))

    @property
    def former_keys(self) -> Sequence[str]:
        """Keys that nodes had before: nobody is to have them any more."""
        return self._since.former

    def roots(self, document: TrustDocument | None = None) -> list[x509.Certificate]:
        """The root CAs of a trust document; of the current one when none is given."""
        found = document or self.document
        return parse_certificates("".join(found.roots).encode("ascii"), "the trust document")
