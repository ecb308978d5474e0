"""What must be true of enrolments: a second opinion on every answer, which shares no code with what it judges.

A `Ledger` says how each request and each change by an operator is answered, what the store holds then, and what the
audit log says of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from tests.enrolment.words import Answer, Audited, Life, Said, Turned, Waiting

FRESH_S = 120
GIVEN = 4


@dataclass
class Ledger:
    """All that is known of a few service engines."""

    images: dict[str, bool]
    """Which image keys there are, and whether they are active."""
    policy: str = "claim"
    pending_s: float = 3000.0
    pending_from_one: int = 3
    by_image: int = 3
    lives: dict[str, Life] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    waiting: dict[tuple[str, str], Waiting] = field(default_factory=dict)
    ratchets: dict[str, Turned] = field(default_factory=dict)
    let_in: dict[str, int] = field(default_factory=dict)
    alarmed: set[tuple[str, str]] = field(default_factory=set)

    def copy(self) -> Ledger:
        """The same again, to be written on."""
        return replace(
            self,
            images=dict(self.images),
            lives=dict(self.lives),
            owner=dict(self.owner),
            waiting=dict(self.waiting),
            ratchets=dict(self.ratchets),
            let_in=dict(self.let_in),
            alarmed=set(self.alarmed),
        )

    # requests

    def ask(self, said: Said, now: float) -> Answer:
        """A request for an enrolment."""
        if said.image not in self.images:
            return Answer(403)
        if said.flaw or not -5 <= now - said.made <= FRESH_S:
            return Answer(401)
        life = self.lives.get(said.id)
        same = life is not None and life.state == "enrolled" and life.generation == said.generation
        if life is not None and same and life.key == said.key:
            return Answer(200, receipt=life.receipt)
        if not self.images[said.image]:
            return Answer(403)
        if same:
            return self._alarm(409, said, "enrolled-twice")
        if life is not None and (life.state != "expected" or life.generation != said.generation):
            return Answer(410)
        found = self._without(said, life, now) if said.claim is None else self._with(said, life, now)
        if isinstance(found, Answer):
            return found
        if said.key in self.owner:
            return self._alarm(409, said, "key-of-another")
        if found == "waits":
            return self._wait(said, now)
        if found == "enrolled-by-image":
            count = self.let_in.get(said.image, 0)
            if count >= self.by_image:
                return self._used_up(said)
            self.let_in[said.image] = count + 1
        return self._enrol(said, life, found)

    def _used_up(self, said: Said) -> Answer:
        """One alarm for each image, whatever they ask to be."""
        answer, mark = self._alarm(429, said, "image-used-up"), ("image-used-up", said.image)
        if mark in self.alarmed:
            self.alarmed.add((mark[0], said.id))
        self.alarmed.add(mark)
        return answer

    def _with(self, said: Said, life: Life | None, now: float) -> Answer | str:
        if life is None:
            return Answer(410)
        if said.claim != life.claim:
            return Answer(401)
        return "enrolled" if now <= life.expires else Answer(410)

    def _without(self, said: Said, life: Life | None, now: float) -> Answer | str:
        if life is None:
            if self.policy == "claim" or said.generation != 1:
                return Answer(410)
            return "waits" if self.policy == "approve" else "enrolled-by-image"
        if life.approved == said.key:
            return "enrolled"
        if life.approved:
            return self._alarm(409, said, "approved-for-another")
        if self.policy == "claim" or now <= life.expires:
            return Answer(401)
        return "waits" if self.policy == "approve" else Answer(410)

    def _enrol(self, said: Said, life: Life | None, outcome: str) -> Answer:
        former = life.former if life is not None else ()
        self.lives[said.id] = Life("enrolled", said.generation, key=said.key, former=former)
        self.owner[said.key] = said.id
        self.waiting.pop((said.id, said.key), None)
        return Answer(201, (Audited("enrolment", said.id, said.generation, said.key, outcome),))

    def _wait(self, said: Said, now: float) -> Answer:
        before = self.waiting.get((said.id, said.key))
        if before is not None and not self._over(before, now):
            return Answer(403 if before.refused else 202)
        live = [each for each in self.waiting.values() if not (each.refused or self._over(each, now))]
        if len(live) >= self.pending_from_one:
            return Answer(429)
        for place in [each for each, found in self.waiting.items() if self._over(found, now)]:
            del self.waiting[place]
        self.waiting[said.id, said.key] = Waiting(said.generation, said.image, now)
        return Answer(202, (Audited("enrolment", said.id, said.generation, said.key, "waits"),))

    def _over(self, each: Waiting, now: float) -> bool:
        return now > max(each.since, each.refused) + self.pending_s

    def _alarm(self, status: int, said: Said, outcome: str) -> Answer:
        return Answer(status, alarms=(Audited("enrolment", said.id, said.generation, said.key, outcome),))

    def receive(self, id: str, receipt: bytes) -> None:
        """What was answered to the request that enrolled it, and is answered from now on."""
        self.lives[id] = replace(self.lives[id], receipt=receipt)

    # what operators do

    def expect(self, id: str, claim: str, expires: float) -> Answer:
        """Expect it, with this claim."""
        if id in self.lives:
            return Answer(409)
        self.lives[id] = Life("expected", 1, claim, expires)
        return Answer(201, (Audited("expect", id, 1, "", "expected"),))

    def claim_anew(self, id: str, claim: str, expires: float) -> Answer:
        """Give it another claim while it is expected."""
        life = self.lives.get(id)
        if life is None:
            return Answer(404)
        if life.state != "expected":
            return Answer(409)
        self.lives[id] = replace(life, claim=claim, expires=expires, approved="")
        return Answer(200, (Audited("claim", id, life.generation, "", "expected"),))

    def reset(self, id: str, claim: str, expires: float) -> Answer:
        """Expect its next generation."""
        life = self.lives.get(id)
        if life is None:
            return Answer(404)
        former = self._former(life)
        self.lives[id] = Life("expected", life.generation + 1, claim, expires, former=former)
        if life.key:
            self.ratchets.pop(id, None)
        return Answer(200, (Audited("reset", id, life.generation + 1, "", "expected"),))

    @staticmethod
    def _former(life: Life) -> tuple[str, ...]:
        return (*(each for each in life.former if each != life.key), life.key) if life.key else life.former

    def revoke(self, id: str) -> Answer:
        """Let its key open nothing any more."""
        life = self.lives.get(id)
        if life is None:
            return Answer(404)
        revoked = self.lives[id] = replace(life, state="revoked", claim=None, expires=0.0)
        if revoked == life:
            return Answer(200)
        return Answer(200, (Audited("revoke", id, life.generation, life.key, "revoked"),))

    def forget(self, id: str) -> Answer:
        """Forget it, and whose its keys were."""
        life = self.lives.pop(id, None)
        if life is None:
            return Answer(404)
        for key in {life.key, *life.former} - {""}:
            del self.owner[key]
        self.ratchets.pop(id, None)
        return Answer(204, (Audited("delete", id, life.generation, life.key, life.state),))

    def approve(self, id: str, key: str, now: float) -> Answer:
        """Let it in by its key."""
        waiting, life = self.waiting.get((id, key)), self.lives.get(id)
        if waiting is None or self._over(waiting, now):
            return Answer(404)
        if key in self.owner or not self.images[waiting.image]:
            return Answer(409)
        if life is None:
            life = Life("expected", waiting.generation)
        elif life.state != "expected" or life.generation != waiting.generation or now <= life.expires:
            return Answer(409)
        self.lives[id] = replace(life, approved=key, claim=None, expires=0.0)
        for place in [each for each in self.waiting if each[0] == id]:
            del self.waiting[place]
        return Answer(200, (Audited("approve", id, waiting.generation, key, "expected"),))

    def refuse(self, id: str, key: str, now: float) -> Answer:
        """Keep it out."""
        waiting = self.waiting.get((id, key))
        if waiting is None or self._over(waiting, now):
            return Answer(404)
        self.waiting[id, key] = replace(waiting, refused=now)
        return Answer(200, (Audited("refuse", id, waiting.generation, key, "refused"),))

    def change_policy(self, policy: str) -> Answer:
        """Another policy."""
        if policy == self.policy:
            return Answer(200)
        self.policy = policy
        return Answer(200, (Audited("enrolment-rules", "", 0, "", f"policy {policy}"),))

    def retire(self, image: str) -> Answer:
        """Let an image key enrol nothing any more."""
        self.images[image] = False
        records = [Audited("image-retire", image, 0, "", "")]
        dropped = [place for place, each in self.waiting.items() if each.image == image]
        for place in dropped:
            del self.waiting[place]
        if dropped:
            records.append(Audited("pending-drop", image, 0, "", f"{len(dropped)} requests forgotten"))
        return Answer(200, tuple(records))

    # what service engines do through their tunnels

    def login(self, key: str) -> tuple[str, int] | None:
        """Whose key it is, and of which generation; None for one that may not log in."""
        id = self.owner.get(key, "")
        life = self.lives.get(id)
        return (id, life.generation) if life is not None and life.state == "enrolled" and life.key == key else None

    def dial(self, key: str, connected: Collection[str]) -> Answer:
        """A login with this key, while those in `connected` have a tunnel that answers."""
        login = self.login(key)
        if login is None:
            owner = self.owner.get(key)
            return Answer(403, alarms=(Audited("engine-key-as-login", owner, 0, "", ""),) if owner else ())
        if login[0] in connected:
            return Answer(503, alarms=(Audited("clone", login[0], 0, "", ""),))
        return Answer(200)

    def rotate(self, id: str, old: str, new: str) -> Answer:
        """Change its key, over a tunnel of the old one."""
        life = self.lives[id]
        if life.key == new:
            return Answer(204)
        if life.key != old:
            return Answer(410)
        if new in self.owner:
            return Answer(409)
        self.lives[id] = replace(life, key=new, former=self._former(life))
        self.owner[new] = id
        if id in self.ratchets and self.ratchets[id].key == old:
            self.ratchets[id] = self.ratchets[id]._replace(key=new)
        return Answer(204, (Audited("rotate", id, life.generation, new, f"instead of {old}"),))

    def turn(self, id: str, key: str, shown: str) -> Answer:
        """A hello that shows this secret."""
        before = self.ratchets.get(id)
        if before is None or before.key != key or shown in before.given:
            self.ratchets[id] = Turned(key, shown, ())
        elif shown == before.shown:
            self.ratchets[id] = before._replace(given=before.given[1 - GIVEN :])
        else:
            return Answer(409, alarms=(Audited("outdated-ratchet", id, 0, "", ""),))
        return Answer(200)

    def given(self, id: str, secret: str) -> None:
        """What the hello was answered with."""
        before = self.ratchets[id]
        self.ratchets[id] = before._replace(given=(*before.given, secret))
