"""Where enrolments happen in a test: what a machine sends, what operators do there, and what can be seen of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.enrolment.audit import AuditLog
from avinet.enrolment.directory import Login
from avinet.enrolment.pending import rules_in
from avinet.enrolment.records import RULES, EngineRecord, engine_key, owner_key, pending_key
from avinet.store.interface import Store
from avinet.trust import keys
from avinet.trust.merkle import Frontier, leaf
from avinet.trust.signatures import BY_NEW_KEY, BY_OLD_KEY
from avinet.wire.fleet import Claimed, EnrolmentPolicy, Event
from avinet.wire.message import encode
from avinet.wire.session import KeyRotation
from tests.enrolment import verifier
from tests.enrolment.words import Audited, Reply

LIMITS: dict[str, Any] = {"pending_s": 3000.0, "pending_from_one": 3, "by_image": 3}
"""The rules of each world, beside its policy."""


@dataclass(frozen=True)
class Wire:
    """A request for an enrolment, as it goes over the wire."""

    id: str
    authority: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Where it goes."""
        return f"/v1/service-engines/{self.id}/enrolment"


def rotation(old: Ed25519PrivateKey, new: Ed25519PrivateKey, now: float) -> tuple[dict[str, str], bytes]:
    """Headers and body of the request that changes a key, signed by both."""
    body = encode(KeyRotation(ssh_public_key=keys.public_line(new)))
    signers: dict[str, Any] = {
        kind.label: (
            key,
            {
                "created": int(now),
                "expires": int(now) + 120,
                "keyid": keys.fingerprint(keys.public_line(key)),
                "nonce": "n" * 22,
                "tag": kind.tag,
            },
        )
        for kind, key in ((BY_OLD_KEY, old), (BY_NEW_KEY, new))
    }
    derived = {"@method": "POST", "@path": "/v1/key"}
    headers = {"content-type": "application/json", "host": "control"}
    return verifier.signed(headers, body, BY_NEW_KEY.covered, derived, signers), body


@dataclass(frozen=True)
class Done:
    """What became of what an operator did: a status, and the claim that was given for it."""

    status: int
    claimed: Claimed | None = None


@dataclass(frozen=True)
class Look:
    """What a node holds of some ids and keys (fingerprints), and what was recorded since the last look."""

    engines: Mapping[str, bytes]
    owners: Mapping[str, str]
    waiting: frozenset[tuple[str, str]]
    policy: str
    recorded: Sequence[Audited]

    def engine(self, id: str) -> EngineRecord | None:
        """The record of a service engine."""
        return msgspec.json.decode(self.engines[id], type=EngineRecord) if id in self.engines else None


class Reader:
    """Reads a store, and follows its audit log: each record has to be under the root that is signed then (I5)."""

    def __init__(self, store: Store, log: AuditLog) -> None:
        self._store, self._log = store, log
        self._tree = Frontier()

    def again(self, store: Store, log: AuditLog) -> None:
        """Go on with the same log after its node was started again."""
        self._store, self._log = store, log

    async def look(self, ids: Sequence[str], fingerprints: Sequence[str]) -> Look:
        """What there is now."""
        head = (await self._log.seal()).head
        recorded: list[Audited] = []
        while self._tree.size < head.size:
            entries = await self._log.entries(self._tree.size, min(500, head.size - self._tree.size))
            for entry in entries:
                event = msgspec.json.decode(entry, type=Event)
                assert event.seq == self._tree.size
                self._tree.add(leaf(entry))
                recorded.append(
                    Audited(event.kind, event.id or event.image, event.generation, event.fingerprint, event.outcome)
                )
        assert self._tree.root().hex() == head.root, "I5: the log does not verify"
        places = {engine_key(id): id for id in ids}
        owned = {owner_key(each): each for each in fingerprints}
        pending = {pending_key(id, each): (id, each) for id in ids for each in fingerprints}
        entries = (await self._store.read([RULES, *places, *owned, *pending])).entries
        return Look(
            {id: entries[place].value for place, id in places.items() if place in entries},
            {each: entries[place].value.decode() for place, each in owned.items() if place in entries},
            frozenset(each for place, each in pending.items() if place in entries),
            rules_in(entries.get(RULES)).policy,
            recorded,
        )


class World(Protocol):
    """A node, and those who come to it. Between `begin` and `end` it is one run of a machine."""

    sessions: bool
    """Whether a tunnel stands in the way of a second one of the same service engine."""
    authority: str
    ids: tuple[str, ...]
    images: Mapping[str, Ed25519PrivateKey]

    def begin(self, ids: int) -> None:
        """Ids and images that nothing happened to yet, and the policy `claim`."""

    def end(self) -> None:
        """What was begun is over."""

    def restart(self) -> None:
        """End the node, and start it again."""

    def now(self) -> float: ...
    def pass_time(self, seconds: float) -> None: ...
    def challenge(self) -> tuple[str, float]:
        """A nonce, and when it was made."""

    def send(self, wires: Sequence[Wire], order: Sequence[int], lost: frozenset[int]) -> list[Reply | None]:
        """The replies to requests that are made at once, but for those that are `lost`.

        Where their order can be chosen, it is by the numbers in `order`.
        """

    def expect(self, id: str) -> Done: ...
    def claim_anew(self, id: str) -> Done: ...
    def reset(self, id: str) -> Done: ...
    def revoke(self, id: str) -> int: ...
    def forget(self, id: str) -> int: ...
    def approve(self, id: str, fingerprint: str) -> int: ...
    def refuse(self, id: str, fingerprint: str) -> int: ...
    def change_policy(self, policy: EnrolmentPolicy) -> int: ...
    def retire(self, image: str) -> int: ...

    def look(self, ids: Sequence[str], fingerprints: Sequence[str]) -> Look: ...
    def login(self, public_key: str) -> Login | None:
        """Who may log in with this key."""

    def dial(self, key: Ed25519PrivateKey) -> Any:
        """A tunnel; None when the node does not let it in."""

    def hello(self, tunnel: Any, ratchet: str) -> tuple[int, str]:
        """Status and new secret."""

    def rotate(self, tunnel: Any, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> int: ...
    def is_lost(self, tunnel: Any, within_s: float) -> bool:
        """Whether a tunnel has ended, at the latest `within_s` from now."""

    def opens(self, tunnel: Any) -> bool:
        """Whether a channel can be opened through a tunnel."""
