"""The invariants of an enrolment (ENROLMENT.md, I1-I3 and I6), held through any order of requests and operators' changes."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.enrolment.decision import claim_digest, decide
from avinet.enrolment.records import EngineRecord, engine_key
from avinet.enrolment.registrar import Waits
from avinet.errors import AvinetError, Conflict, Gone, Unauthenticated
from avinet.trust import keys
from avinet.wire.enrolment import EnrolmentRequest
from avinet.wire.fleet import EnrolmentPolicy
from tests.enrolment.making import Newborn, Office, domain
from tests.store.memory import MemoryStore

IDS = ("se-1", "se-2")
KEYS = tuple(keys.generate() for _ in range(3))
LINES = {keys.fingerprint(keys.public_line(key)): key for key in KEYS}


class Invariants(RuleBasedStateMachine):
    """Three keys and two ids, and everything that may happen to them."""

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore(Clock())
        self.office = Office(self.store)
        self.done(self.office.admit_image())
        self.done(self.office.policy("claim", pending_s=3000))
        self.claims: dict[str, list[str]] = {id: ["w" * 32] for id in IDS}
        self.enrolled: dict[tuple[str, str], str] = {}
        """The key of each (id, claim) that was enrolled: a claim is issued once for each life of an id."""
        self.receipts: dict[tuple[str, str], bytes] = {}
        self.policy: EnrolmentPolicy = "claim"

    def done(self, awaitable: Any) -> Any:
        results: list[Any] = []
        as_deferred(awaitable).addBoth(results.append)
        [result] = results
        if hasattr(result, "value"):
            result.trap(AvinetError)
            return result.value
        return result

    def generation(self, id: str) -> int:
        record = self.record(id)
        return record.generation if record is not None else 1

    def record(self, id: str) -> EngineRecord | None:
        entry = self.done(self.store.read([engine_key(id)])).entries.get(engine_key(id))
        return msgspec.json.decode(entry.value, type=EngineRecord) if entry else None

    @rule(id=st.sampled_from(IDS))
    def expect(self, id: str) -> None:
        claim = self.done(self.office.expect(id))
        if not isinstance(claim, Conflict):
            self.claims[id].append(claim)

    @rule(id=st.sampled_from(IDS))
    def claim_anew(self, id: str) -> None:
        before = self.record(id)
        claimed = self.done(self.office.engines.claim_anew(id, 3600))
        if isinstance(claimed, AvinetError):
            assert before is None or before.state != "expected"
            assert self.record(id) == before
        else:
            self.claims[id].append(claimed.claim)

    @rule(policy=st.sampled_from(get_args(EnrolmentPolicy)))
    def change_policy(self, policy: EnrolmentPolicy) -> None:
        self.done(self.office.policy(policy))
        self.policy = policy

    @rule(id=st.sampled_from(IDS), key=st.sampled_from(KEYS))
    def approve(self, id: str, key: Any) -> None:
        fingerprint = keys.fingerprint(keys.public_line(key))
        before, revision = self.record(id), self.store.revision
        waiting = {(each.id, each.fingerprint) for each in self.done(self.office.pending.all())}
        approved = self.done(self.office.pending.approve(id, fingerprint, "operator", {}))
        if isinstance(approved, AvinetError):
            assert self.store.revision == revision
        else:
            assert (id, fingerprint) in waiting
            assert before is None or (before.state == "expected" and self.office.time > before.claim_expires)
            assert approved == self.record(id)
            assert (approved.state, approved.approved) == ("expected", fingerprint)

    @rule(id=st.sampled_from(IDS), key=st.sampled_from(KEYS))
    def refuse(self, id: str, key: Any) -> None:
        before = self.record(id)
        self.done(self.office.pending.refuse(id, keys.fingerprint(keys.public_line(key)), "operator"))
        assert self.record(id) == before

    @rule(id=st.sampled_from(IDS), key=st.sampled_from(KEYS))
    def ask_without_claim(self, id: str, key: Any) -> None:
        se = Newborn(id, None, generation=self.generation(id))
        se.key = key
        before, policy = self.record(id), self.policy
        result = self.done(self.office.registrar.enrol(se.signed(self.office.time)))
        after = self.record(id)
        if isinstance(result, (AvinetError, Waits)):
            assert after == before
            if isinstance(result, Waits):
                assert policy == "approve"
                assert before is None or (before.state == "expected" and not before.approved)
        elif result[0]:
            assert after is not None
            assert (after.state, after.fingerprint, after.approved) == ("enrolled", se.fingerprint, "")
            if before is None:
                assert policy == "image"
            else:
                assert before.state == "expected"
                assert before.approved == se.fingerprint  # H10: what was expected takes a claim, or an operator
        else:
            assert before is not None
            assert before.fingerprint == se.fingerprint

    @rule(id=st.sampled_from(IDS))
    def reset(self, id: str) -> None:
        before = self.record(id)
        claimed = self.done(self.office.engines.reset(id, "operator", 3600))
        if isinstance(claimed, AvinetError):
            assert before is None
            return
        after = self.record(id)
        assert before is not None
        assert after is not None
        assert (after.state, after.generation, after.fingerprint) == ("expected", before.generation + 1, "")
        self.claims[id].append(claimed.claim)

    @rule(id=st.sampled_from(IDS))
    def revoke(self, id: str) -> None:
        self.done(self.office.engines.revoke(id, "operator"))

    @rule(id=st.sampled_from(IDS))
    def forget(self, id: str) -> None:
        self.done(self.office.engines.forget(id, "operator"))

    @rule(seconds=st.sampled_from((1, 1800, 4000, -600)))
    def pass_time(self, seconds: int) -> None:
        self.office.time += seconds

    @rule(
        id=st.sampled_from(IDS),
        of=st.sampled_from(IDS),
        key=st.sampled_from(KEYS),
        newest=st.booleans(),
        generation=st.sampled_from((0, 0, 0, 1, 2)),
    )
    def enrol(self, id: str, of: str, key: Any, newest: bool, generation: int) -> None:
        claim = self.claims[of][-1 if newest else 0]
        se = Newborn(id, claim, generation=generation or self.generation(id))
        se.key = key
        before, revision = self.record(id), self.store.revision
        result = self.done(self.office.registrar.enrol(se.signed(self.office.time)))
        after = self.record(id)
        if isinstance(result, AvinetError):
            assert after == before
            return
        first, receipt = result
        assert after is not None
        assert after.state == "enrolled"
        assert after.fingerprint == se.fingerprint
        if first:
            assert before is not None
            assert before.state == "expected"  # I3: nothing but an expected one is changed
            assert claim_digest(claim) == before.claim_sha256
            assert (id, claim) not in self.enrolled  # I1
            self.enrolled[id, claim] = se.fingerprint
        else:
            assert self.store.revision == revision
            assert receipt.decode() == after.receipt

    @invariant()
    def a_key_belongs_to_one(self) -> None:
        if not hasattr(self, "office"):
            return
        records = [record for record in map(self.record, IDS) if record is not None and record.fingerprint]
        fingerprints = [record.fingerprint for record in records]
        assert len(set(fingerprints)) == len(fingerprints)  # I2
        owned = {entry.key[4:].decode(): entry.value.decode() for entry in self.done(self.store.range(b"key/")).entries}
        former = {
            keys.fingerprint(key): record.id for record in map(self.record, IDS) if record for key in record.former
        }
        assert owned == {record.fingerprint: record.id for record in records} | former

    @invariant()
    def a_retry_gets_the_same_receipt(self) -> None:
        if not hasattr(self, "office"):
            return
        for id in IDS:
            record = self.record(id)
            if record is None or record.state != "enrolled":
                continue
            se = Newborn(id, "x" * 32, generation=record.generation)
            se.key = LINES[record.fingerprint]
            revision = self.store.revision
            assert self.done(self.office.registrar.enrol(se.signed(self.office.time))) == (
                False,
                record.receipt.encode(),
            )  # I6
            assert self.store.revision == revision

    @invariant()
    def each_change_has_one_record(self) -> None:
        if not hasattr(self, "office"):
            return
        for written in self.store.written:
            audits = [each.key for each in written.then if each.key.startswith(b"audit/")]
            assert len(audits) == 1  # I5


class InvariantTests(SynchronousTestCase):
    def test_they_hold(self) -> None:
        domain()
        case = Invariants.TestCase()
        case.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
        case.runTest()


class DecideTests(SynchronousTestCase):
    """The rule itself, line by line."""

    CLAIM = "c" * 32

    def setUp(self) -> None:
        self.line = keys.public_line(KEYS[0])
        self.mine = keys.fingerprint(self.line)
        self.expected = EngineRecord(
            id="se-1",
            state="expected",
            generation=3,
            created=0.0,
            claim_sha256=claim_digest(self.CLAIM),
            claim_expires=100.0,
        )
        self.enrolled = msgspec.structs.replace(
            self.expected, state="enrolled", claim_sha256="", claim_expires=0.0, fingerprint=self.mine
        )

    def verdict(
        self,
        engine: EngineRecord | None,
        owner: str | None = None,
        now: float = 50.0,
        policy: EnrolmentPolicy = "claim",
        **changes: Any,
    ) -> Any:
        fields = {
            "id": "se-1",
            "generation": 3,
            "nonce": "n" * 20,
            "claim": self.CLAIM,
            "image": "image-1",
            "ssh_public_key": self.line,
            "ssh_host_public_key": self.line,
            "request_id": "r" * 20,
        }
        found = decide(EnrolmentRequest(**(fields | changes)), self.mine, engine, owner, policy, now)
        return found.outcome if found.error is None else (type(found.error), found.alarm)

    def test_who_gets_in(self) -> None:
        self.assertEqual(self.verdict(self.expected), "enrol")
        self.assertEqual(self.verdict(self.expected, now=100.0), "enrol")

    def test_who_is_in_already(self) -> None:
        self.assertEqual(self.verdict(self.enrolled, "se-1", now=1e9, claim=None), "again")

    def test_who_stays_out(self) -> None:
        replaced = msgspec.structs.replace
        for found, wanted in (
            (self.verdict(None), (Gone, "")),
            (self.verdict(self.expected, now=100.1), (Gone, "")),
            (self.verdict(self.expected, generation=2), (Gone, "")),
            (self.verdict(self.expected, generation=4), (Gone, "")),
            (self.verdict(replaced(self.expected, state="revoked")), (Gone, "")),
            (self.verdict(replaced(self.enrolled, state="revoked"), "se-1"), (Gone, "")),
            (self.verdict(self.enrolled, "se-1", generation=2), (Gone, "")),
            (self.verdict(self.expected, claim=None), (Unauthenticated, "")),
            (self.verdict(self.expected, claim="d" * 32), (Unauthenticated, "")),
            (self.verdict(replaced(self.expected, claim_sha256="")), (Unauthenticated, "")),
            (self.verdict(self.expected, claim="d" * 32, now=1e9), (Unauthenticated, "")),
            (self.verdict(self.expected, "se-2"), (Conflict, "key-of-another")),
            (self.verdict(replaced(self.enrolled, fingerprint="SHA256:x")), (Conflict, "enrolled-twice")),
        ):
            self.assertEqual(found, wanted)

    def test_a_claim_is_asked_for_under_every_policy_while_it_is_open(self) -> None:
        """(H10)"""
        for policy in get_args(EnrolmentPolicy):
            self.assertEqual(self.verdict(self.expected, policy=policy), "enrol")
            self.assertEqual(self.verdict(self.expected, policy=policy, claim=None, now=100.0), (Unauthenticated, ""))
            self.assertEqual(self.verdict(self.expected, policy=policy, claim="d" * 32), (Unauthenticated, ""))
            self.assertEqual(self.verdict(None, policy=policy), (Gone, ""))
            self.assertEqual(self.verdict(self.enrolled, "se-1", policy=policy, claim=None), "again")
            replaced = msgspec.structs.replace(self.enrolled, fingerprint="SHA256:x")
            self.assertEqual(self.verdict(replaced, policy=policy, claim=None), (Conflict, "enrolled-twice"))
            revoked = msgspec.structs.replace(self.enrolled, state="revoked")
            self.assertEqual(self.verdict(revoked, policy=policy, claim=None), (Gone, ""))

    def test_without_a_claim_the_policy_decides(self) -> None:
        for policy, wanted, unexpected in (
            ("claim", (Unauthenticated, ""), (Gone, "")),
            ("approve", "wait", "wait"),
            ("image", (Gone, ""), "enrol"),
        ):
            late: Any = {"policy": policy, "claim": None, "now": 100.1}
            self.assertEqual(self.verdict(self.expected, **late), wanted)
            self.assertEqual(self.verdict(None, **late, generation=1), unexpected)
            self.assertEqual(self.verdict(None, **late, generation=2), (Gone, ""))
            if policy != "claim":
                self.assertEqual(self.verdict(None, "se-2", **late, generation=1), (Conflict, "key-of-another"))

    def test_whom_an_operator_has_let_in_needs_no_claim(self) -> None:
        replaced = msgspec.structs.replace
        mine = replaced(self.expected, claim_sha256="", claim_expires=0.0, approved=self.mine)
        for policy in get_args(EnrolmentPolicy):
            self.assertEqual(self.verdict(mine, policy=policy, claim=None, now=1e9), "enrol")
            self.assertEqual(self.verdict(mine, "se-2", policy=policy, claim=None), (Conflict, "key-of-another"))
            other = replaced(mine, approved="SHA256:x")
            self.assertEqual(self.verdict(other, policy=policy, claim=None), (Conflict, "approved-for-another"))
            self.assertEqual(self.verdict(other, policy=policy), (Unauthenticated, ""))
