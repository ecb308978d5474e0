"""What may have happened when several requests were made at once, and what the audit log says of all of it by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations, permutations

from avinet.trust import keys
from tests.enrolment.ledger import Ledger
from tests.enrolment.words import Audited, Reply, Said
from tests.enrolment.world import Look


@dataclass(frozen=True)
class Happened:
    """One way in which several things may have happened: what is true then, and was recorded."""

    ledger: Ledger
    records: tuple[Audited, ...]
    alarms: tuple[Audited, ...]

    def lacks(self, seen: Sequence[Audited]) -> str:
        """What is wrong with the new records of the audit log, or empty. Of an alarm the first must be there."""
        left = Counter(seen)
        left.subtract(Counter(self.records))
        left.subtract({each: left[each] for each in set(self.alarms) if 0 < left[each] <= self.alarms.count(each)})
        wrong = [each for each, count in left.items() if count]
        due = [each for each in self.alarms if (each.outcome or each.kind, each.id) not in self.ledger.alarmed]
        named = {(each.outcome or each.kind, each.id) for each in seen}
        wrong += [each for each in due if (each.outcome or each.kind, each.id) not in named]
        return f"recorded {list(seen)}, and not {list(self.records)} (alarms {list(self.alarms)})" if wrong else ""

    def noted(self) -> Ledger:
        """What is true then, with the alarms that were raised."""
        self.ledger.alarmed.update((each.outcome or each.kind, each.id) for each in self.alarms)
        return self.ledger


def ways(ledger: Ledger, asked: Sequence[Said], replies: Sequence[Reply | None], now: float) -> Iterator[Happened]:
    """Every order of requests that were made at once which explains all of their replies.

    One whose reply was lost may have come, or not.
    """
    lost = [at for at, reply in enumerate(replies) if reply is None]
    for missing in (each for count in range(len(lost) + 1) for each in combinations(lost, count)):
        came = [at for at in range(len(asked)) if at not in missing]
        for order in permutations(came):
            found = _one_by_one(ledger.copy(), [(asked[at], replies[at]) for at in order], now)
            if found is not None:
                yield found


def _one_by_one(ledger: Ledger, happened: Sequence[tuple[Said, Reply | None]], now: float) -> Happened | None:
    records: list[Audited] = []
    alarms: list[Audited] = []
    for said, reply in happened:
        answer = ledger.ask(said, now)
        if not answer.fits(reply):
            return None
        if reply is not None and answer.status in (200, 201):
            ledger.receive(said.id, reply.body)
        records += answer.records
        alarms += answer.alarms
    return Happened(ledger, tuple(records), tuple(alarms))


def differs(ledger: Ledger, look: Look, ids: Sequence[str]) -> str:
    """What the store holds that is not true, or does not hold."""
    for id in ids:
        life, engine = ledger.lives.get(id), look.engine(id)
        if life is None or engine is None:
            if life is not engine:
                return f"{id} is {engine}, and not {life}"
            continue
        wanted = (life.state, life.generation, life.key, life.approved, life.receipt, life.expires)
        there = (
            engine.state,
            engine.generation,
            engine.fingerprint,
            engine.approved,
            engine.receipt.encode() or None,
            engine.claim_expires,
        )
        if there != wanted:
            return f"{id} is {there}, and not {wanted}"
        if engine.claim_sha256 != (sha256(life.claim.encode()).hexdigest() if life.claim else ""):
            return f"{id} has another claim than {life.claim}"
        if tuple(map(keys.fingerprint, engine.former)) != life.former:
            return f"{id} has had {engine.former}, and not {life.former}"
    if look.owners != ledger.owner:
        return f"the keys are of {look.owners}, and not of {ledger.owner}"
    if look.waiting != set(ledger.waiting):
        return f"{look.waiting} wait, and not {set(ledger.waiting)}"
    return "" if look.policy == ledger.policy else f"the policy is {look.policy}, and not {ledger.policy}"


class Trail:
    """What the audit log says by itself: I1 and I2, whatever anybody has answered."""

    def __init__(self) -> None:
        self._enrolled: set[tuple[str, int]] = set()
        self._owner: dict[str, str] = {}

    def follow(self, record: Audited) -> None:
        """The next record."""
        enrolled = record.kind == "enrolment" and record.outcome in ("enrolled", "enrolled-by-image")
        if enrolled:
            assert (record.id, record.generation) not in self._enrolled, f"I1: {record}"
            self._enrolled.add((record.id, record.generation))
        if enrolled or record.kind == "rotate":
            owner = self._owner.setdefault(record.fingerprint, record.id)
            assert owner == record.id, f"I2: {record} belongs to {owner}"
        elif record.kind == "delete":
            self._enrolled = {each for each in self._enrolled if each[0] != record.id}
            self._owner = {key: id for key, id in self._owner.items() if id != record.id}
