"""The invariants of an enrolment, I1 to I6, held in memory through any order of requests and of operators' changes."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from hypothesis import Phase, Verbosity
from twisted.trial.unittest import SynchronousTestCase

from avinet.enrolment import decision, engines, registrar
from avinet.enrolment.decision import claim_digest, decide
from avinet.enrolment.directory import Directory
from avinet.enrolment.records import EngineRecord
from avinet.enrolment.registrar import Registrar
from avinet.errors import Conflict, Gone, Unauthenticated
from avinet.store.interface import Put, Transaction
from avinet.trust import keys
from avinet.wire.enrolment import EnrolmentRequest
from avinet.wire.fleet import EnrolmentPolicy
from tests.enrolment.in_memory import MemoryWorld
from tests.enrolment.machine import drive

KEYS = tuple(keys.generate() for _ in range(3))


class InvariantTests(SynchronousTestCase):
    def test_they_hold(self) -> None:
        acts = drive(MemoryWorld(), 40)
        for kind in ("enrolments", "retries", "replays", "resets", "clones", "logins"):
            self.assertGreater(acts[kind], 0, kind)


class FaultTests(SynchronousTestCase):
    """The machine finds what is wrong."""

    def fails(self, what: str) -> None:
        """It ends with an error that says `what`."""
        quick = {"phases": (Phase.generate,), "verbosity": Verbosity.quiet, "derandomize": True, "database": None}
        with self.assertRaisesRegex(AssertionError, what):
            drive(MemoryWorld(), 100, **quick)

    def test_two_enrolments_between_the_look_and_the_transaction(self) -> None:
        self.patch(registrar, "Transaction", lambda conditions, then: Transaction((), then))
        self.fails("no order of these|recorded")

    def test_any_claim(self) -> None:
        self.patch(decision, "claim_fits", lambda claim, engine: bool(engine.claim_sha256))
        self.fails("no order of these explains what was answered")

    def test_a_receipt_that_is_made_anew(self) -> None:
        again = Registrar._attempt

        async def attempt(self: Registrar, *arguments: Any) -> Any:
            done = await again(self, *arguments)
            return (False, done[1].replace(b'"epoch":1', b'"epoch":2')) if done and not done[0] else done

        self.patch(Registrar, "_attempt", attempt)
        self.fails("I6|no order")

    def test_a_change_without_a_record(self) -> None:
        self.patch(engines, "put_audit", lambda record: Put(b"nowhere", b""))
        self.fails("recorded")

    def test_a_revoked_key_that_still_opens(self) -> None:
        taken = Directory._take

        def take(self: Directory, id: str, entry: Any) -> None:
            if entry is None or b'"revoked"' not in entry.value:
                taken(self, id, entry)

        self.patch(Directory, "_take", take)
        self.fails("I4")

    def test_a_key_of_two(self) -> None:
        self.patch(registrar, "owner_key", lambda fingerprint: b"nobody/" + fingerprint.encode())
        self.fails("no order of these|the keys are of")

    def test_an_image_key_that_changes_who_is_enrolled(self) -> None:
        found = registrar.decide

        def decide(request: Any, fingerprint: str, engine: Any, *rest: Any) -> Any:
            verdict = found(request, fingerprint, engine, *rest)
            return decision.Verdict("enrol") if verdict.alarm == "enrolled-twice" else verdict

        self.patch(registrar, "decide", decide)
        self.fails("no order of these")


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
