"""How requests for enrolments are made: as they are drawn, by service engines that have keys, and with their flaws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st

from avinet.trust import keys
from avinet.trust.signatures import BY_ENGINE, BY_IMAGE
from avinet.wire.enrolment import EnrolmentRequest
from avinet.wire.message import encode
from tests.enrolment import verifier
from tests.enrolment.ledger import Ledger
from tests.enrolment.words import Said
from tests.enrolment.world import Wire

IDS, KEYS = 3, 5
FLAWS = ("image key", "own key", "swapped", "one signature", "body", "path", "node", "nonce", "host key")
STRANGER = keys.generate()


@dataclass(frozen=True)
class Ask:
    """A request as it is drawn; `claim` is the last one of the service engine `of`, or one before that."""

    id: int
    key: int
    claim: str
    of: int
    generation: int
    image: int
    flaw: str


def mostly(usual: Any, *others: Any, weight: int = 8) -> st.SearchStrategy[Any]:
    """`usual`, and now and then one of the others."""
    return st.sampled_from((*[usual] * weight, *others))


ids, key_numbers = st.integers(0, IDS - 1), st.integers(0, KEYS - 1)
asks = st.builds(
    Ask,
    id=ids,
    key=key_numbers,
    claim=mostly("last", "none", "none", "none", "older", "other", "made up"),
    of=ids,
    generation=mostly(0, 1, -1, weight=10),
    image=mostly(0, 1, 1, 1, 2),
    flaw=mostly("", *FLAWS, weight=40),
)


class Hands:
    """Service engines with keys of their own, and images that they were booted from; `authority` is the node's."""

    def __init__(self, ids: tuple[str, ...], images: Mapping[str, Ed25519PrivateKey], authority: str) -> None:
        self.ids = ids
        self.images = (*images, "nobody-s")
        self.keys = [keys.generate() for _ in range(KEYS)]
        self.lines = [keys.public_line(key) for key in self.keys]
        self.prints = [keys.fingerprint(line) for line in self.lines]
        self.claims: dict[str, list[str]] = {id: ["w" * 32] for id in ids}
        self._image_keys = images
        self._authority = authority
        self._host_keys = [keys.public_line(keys.generate()) for _ in range(KEYS)]
        self._made = 0

    def said(self, ask: Ask, ledger: Ledger, nonce: str, made: float) -> tuple[Said, Wire]:
        """The request that was drawn, as it is now."""
        id, of = self.ids[ask.id], self.ids[ask.of]
        life = ledger.lives.get(id)
        claims = {"last": self.claims[id][-1:], "older": self.claims[id][:1], "other": self.claims[of][-1:]}
        claim = None if ask.claim == "none" else next(iter(claims.get(ask.claim, ())), "m" * 32)
        said = Said(
            id,
            self.prints[ask.key],
            claim,
            max(1, (life.generation if life else 1) + ask.generation),
            self.images[ask.image],
            made,
            ask.flaw,
        )
        return said, self.wire(said, ask.key, nonce)

    def wire(self, said: Said, key: int, nonce: str) -> Wire:
        """A request over the wire, with the flaw that it has."""
        own, host = self.keys[key], self._host_keys[key]
        flaw, authority = said.flaw, self._authority
        self._made += 1
        if flaw == "nonce":
            nonce = "A" * len(nonce)
        body = encode(
            EnrolmentRequest(
                id=said.id,
                generation=said.generation,
                nonce=nonce,
                claim=said.claim,
                image=said.image,
                ssh_public_key=self.lines[key],
                ssh_host_public_key=self.lines[key] if flaw == "host key" else host,
                request_id=f"request-{self._made:08}",
            )
        )
        by_image, by_own = self._image_keys.get(said.image, STRANGER), own
        if flaw == "swapped":
            by_image, by_own = by_own, by_image
        by_image = STRANGER if flaw == "image key" else by_image
        by_own = STRANGER if flaw == "own key" else by_own
        if flaw == "node":
            authority = f"node-2.{authority.partition('.')[2]}"
        wire = Wire(said.id, authority, {"content-type": "application/json", "host": authority}, body)
        created = int(said.made)
        signers = {
            kind.label: (
                signer,
                {"created": created, "expires": created + 120, "keyid": keyid, "nonce": nonce, "tag": kind.tag},
            )
            for kind, signer, keyid in ((BY_IMAGE, by_image, said.image), (BY_ENGINE, by_own, self.prints[key]))
        }
        if flaw == "one signature":
            del signers[BY_IMAGE.label]
        derived = {"@method": "POST", "@authority": authority, "@path": wire.path}
        headers = verifier.signed(wire.headers, body, BY_IMAGE.covered, derived, signers)
        if flaw == "body":
            body = body.replace(b'"request_id":"request-', b'"request_id":"Request-')
        other = next(each for each in self.ids if each != said.id)
        return Wire(other if flaw == "path" else said.id, authority, headers, body)
