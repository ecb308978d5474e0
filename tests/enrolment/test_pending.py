"""Requests without a claim that wait for an operator: who may wait, who is let in, and how little a thief gets (H10)."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.enrolment.records import EngineRecord, engine_key
from avinet.enrolment.registrar import Waits
from avinet.errors import Conflict, Forbidden, Gone, NotFound, TooMany, Unauthenticated
from avinet.wire.enrolment import Receipt
from avinet.wire.message import decode
from tests.enrolment.in_memory import Held
from tests.enrolment.making import Newborn, Office, domain
from tests.store.memory import MemoryStore


class PendingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore(Clock())
        self.office = Office(self.store)
        self.pending = self.office.pending
        self.result(self.office.admit_image())
        self.result(self.office.policy("approve"))

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def fails(self, awaitable: Any, error: type[Exception]) -> str:
        """How it fails; nothing is written."""
        revision = self.store.revision
        failure: Failure = self.failureResultOf(as_deferred(awaitable), error)
        self.assertEqual(self.store.revision, revision)
        return str(failure.value)

    def ask(self, se: Newborn) -> Any:
        return self.office.registrar.enrol(se.signed(self.office.time))

    def waits(self, se: Newborn) -> None:
        found = self.result(self.ask(se))
        self.assertIsInstance(found, Waits)
        self.assertEqual((found.id, found.fingerprint), (se.id, se.fingerprint))

    def enrols(self, se: Newborn) -> Receipt:
        first, receipt = self.result(self.ask(se))
        self.assertTrue(first)
        return decode(receipt, Receipt, limit_bytes=10**6)

    def approve(self, se: Newborn, **labels: str) -> EngineRecord:
        found: EngineRecord = self.result(self.pending.approve(se.id, se.fingerprint, "ann", labels))
        return found

    def record(self, id: str) -> EngineRecord:
        entry = self.result(self.store.read([engine_key(id)])).entries[engine_key(id)]
        return msgspec.json.decode(entry.value, type=EngineRecord)

    def ids(self) -> list[str]:
        return [each.id for each in self.result(self.pending.all())]

    def test_it_waits_without_writing_again_and_is_let_in(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        [waiting] = self.result(self.pending.all())
        self.assertEqual((waiting.id, waiting.fingerprint, waiting.source), ("edge-1", se.fingerprint, se.peer))
        revision = self.store.revision
        self.waits(se)
        self.assertEqual(self.store.revision, revision)
        self.assertEqual(self.approve(se, site="paris").labels, {"site": "paris"})
        self.assertEqual(self.ids(), [])
        receipt = self.enrols(se)
        self.assertEqual((receipt.id, receipt.generation, receipt.fingerprint), ("edge-1", 1, se.fingerprint))
        self.assertEqual(self.record("edge-1").labels, {"site": "paris"})
        self.assertEqual(
            [each.outcome for each in self.result(self.office.events())][-3:], ["waits", "expected", "enrolled"]
        )

    def test_the_approval_is_for_one_key_and_ends_the_waiting_of_others(self) -> None:
        se, thief = Newborn("edge-1", None), Newborn("edge-1", None)
        self.waits(thief)
        self.waits(se)
        self.assertEqual(self.ids(), ["edge-1", "edge-1"])
        self.approve(se)
        self.assertEqual(self.ids(), [])
        self.fails(self.pending.approve("edge-1", thief.fingerprint, "ann", {}), NotFound)
        failure = self.failureResultOf(as_deferred(self.ask(thief)), Conflict)
        self.assertIn("another key", str(failure.value))
        self.assertEqual(self.result(self.office.alarms()), ["approved-for-another"])
        self.enrols(se)

    def test_who_waits_never_stands_in_the_way_of_who_is_expected(self) -> None:
        thief = Newborn("se-1", None)
        self.waits(thief)
        claim = self.result(self.office.expect("se-1"))
        self.assertIn("open claim", self.fails(self.pending.approve("se-1", thief.fingerprint, "ann", {}), Conflict))
        self.fails(self.ask(thief), Unauthenticated)
        se = Newborn("se-1", claim)
        self.enrols(se)
        self.failureResultOf(as_deferred(self.ask(thief)), Conflict)
        self.fails(self.pending.approve("se-1", thief.fingerprint, "ann", {}), Conflict)
        self.assertEqual(self.record("se-1").fingerprint, se.fingerprint)

    def test_when_its_claim_has_expired_an_operator_may_let_it_in(self) -> None:
        self.result(self.office.expect("se-1", claim_s=600))
        se = Newborn("se-1", None)
        self.fails(self.ask(se), Unauthenticated)
        self.office.time += 601
        self.waits(se)
        self.approve(se)
        self.enrols(se)

    def test_a_refused_one_is_told_so_and_the_operator_may_think_again(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        self.result(self.pending.refuse("edge-1", se.fingerprint, "ann"))
        self.assertIn("refused edge-1", self.fails(self.ask(se), Forbidden))
        self.assertTrue(self.result(self.pending.all())[0].refused)
        self.waits(Newborn("edge-1", None))
        self.approve(se)
        self.enrols(se)

    def test_nobody_is_refused_or_let_in_who_does_not_wait(self) -> None:
        se = Newborn("edge-1", None)
        self.fails(self.pending.refuse("edge-1", se.fingerprint, "ann"), NotFound)
        self.fails(self.pending.approve("edge-1", se.fingerprint, "ann", {}), NotFound)

    def test_only_so_many_wait_and_the_expected_still_get_in(self) -> None:
        self.result(self.office.policy("approve", pending=5, pending_from_one=100))
        claim = self.result(self.office.expect("se-1"))
        for number in range(5):
            self.waits(Newborn(f"thief-{number}", None))
        self.fails(self.ask(Newborn("thief-5", None)), TooMany)
        self.enrols(Newborn("se-1", claim))

    def test_one_source_leaves_room_for_others(self) -> None:
        self.result(self.office.policy("approve", pending_from_one=3))
        for number in range(3):
            self.waits(Newborn(f"thief-{number}", None))
        self.assertIn("192.0.2.7", self.fails(self.ask(Newborn("thief-3", None)), TooMany))
        other = Newborn("edge-1", None)
        other.peer = "198.51.100.1"
        self.waits(other)
        for number in range(4):
            six = Newborn(f"six-{number}", None)
            six.peer = f"2001:db8::{number + 1}"
            if number < 3:
                self.waits(six)
            else:
                self.fails(self.ask(six), TooMany)

    def test_waiting_ends(self) -> None:
        self.result(self.office.policy("approve", pending=2, pending_s=3600))
        first, second, third = (Newborn(f"edge-{number}", None) for number in range(3))
        self.waits(first)
        self.waits(second)
        self.result(self.pending.refuse("edge-1", second.fingerprint, "ann"))
        self.office.time += 3601
        self.assertEqual(self.ids(), [])
        self.waits(third)
        self.assertEqual(self.ids(), ["edge-2"])
        self.assertEqual(
            [each.key for each in self.result(self.store.range(b"pending/")).entries],
            [b"pending/edge-2/" + third.fingerprint.encode()],
        )
        self.waits(second)

    def test_a_retired_image_takes_those_along_who_wait_with_it(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        other = Newborn("edge-2", None)
        self.result(self.office.admit_image(id="image-2"))
        other.image = "image-2"
        self.waits(other)
        self.result(self.office.engines.retire_image(se.image, "ann"))
        self.assertIn("retired", self.fails(self.pending.approve("edge-1", se.fingerprint, "ann", {}), Conflict))
        self.result(self.pending.drop(se.image, "ann"))
        self.assertEqual(self.ids(), ["edge-2"])
        self.fails(self.ask(se), Forbidden)

    def test_who_was_let_in_may_not_come_with_a_retired_image(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        self.approve(se)
        self.result(self.office.engines.retire_image(se.image, "ann"))
        self.fails(self.ask(se), Forbidden)

    def test_with_the_policy_image_the_image_key_is_enough_and_each_raises_a_notice(self) -> None:
        self.result(self.office.policy("image"))
        claim = self.result(self.office.expect("se-1"))
        self.enrols(Newborn("edge-1", None))
        [last] = self.result(self.office.events())[-1:]
        self.assertEqual((last.outcome, last.notice, last.alarm), ("enrolled-by-image", True, False))
        self.fails(self.ask(Newborn("se-1", None)), Unauthenticated)
        self.enrols(Newborn("se-1", claim))
        self.assertFalse(self.result(self.office.events())[-1].notice)

    def test_with_the_policy_image_each_image_lets_in_so_many_alone_and_then_raises_an_alarm(self) -> None:
        self.result(self.office.policy("image", by_image=2))
        first, second, third, expected = (Newborn(f"edge-{number}", None) for number in range(4))
        self.enrols(first)
        self.enrols(second)
        failure = self.failureResultOf(as_deferred(self.ask(third)), TooMany)
        self.assertIn("has let in 2 service engines without a claim", str(failure.value))
        self.assertIn("--by-image", failure.value.hint)
        self.assertEqual(self.result(self.office.alarms()), ["image-used-up"])
        self.fails(self.ask(Newborn("edge-9", None)), TooMany)  # one alarm a minute, whoever it wants to be
        self.assertEqual(self.result(self.ask(first))[0], False)
        expected.claim = self.result(self.office.expect(expected.id))
        self.enrols(expected)
        self.result(self.office.engines.forget("edge-0", "ann"))
        self.fails(self.ask(third), TooMany)
        self.result(self.office.admit_image(id="image-2"))
        third.image = "image-2"
        self.enrols(third)
        image = domain().first_image.id
        self.assertEqual(self.result(self.office.engines.let_in()), {image: 2, "image-2": 1})
        self.result(self.office.policy("image", by_image=3))
        self.enrols(Newborn("edge-9", None))

    def test_a_site_that_is_powered_on_with_the_policy_image_enrols_at_once(self) -> None:
        """They are counted in one place, and nobody has to try again for that."""
        self.result(self.office.policy("image", by_image=40))
        held = Held(self.store)
        self.office.registrar._store = held  # type: ignore[assignment]
        held.holding = True
        asking = [as_deferred(self.ask(Newborn(f"edge-{number}", None))) for number in range(41)]
        while held.waiting:
            held.waiting.pop().callback(None)
        results: list[Any] = []
        for each in asking:
            each.addBoth(results.append)
        [turned_away] = [each for each in results if isinstance(each, Failure)]
        turned_away.trap(TooMany)
        self.assertEqual(sum(each[0] for each in results if each is not turned_away), 40)

    def test_with_the_policy_image_what_was_expected_takes_its_claim_also_when_that_has_expired(self) -> None:
        self.result(self.office.policy("image"))
        self.result(self.office.expect("se-1", claim_s=600))
        self.office.time += 601
        self.fails(self.ask(Newborn("se-1", None)), Gone)
        self.result(self.office.engines.reset("se-1", "ann", 600))
        self.office.time += 601
        self.fails(self.ask(Newborn("se-1", None, generation=2)), Gone)

    def test_another_claim_ends_an_approval(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        self.approve(se)
        claim = self.result(self.office.engines.claim_anew("edge-1", 3600)).claim
        self.fails(self.ask(se), Unauthenticated)
        self.enrols(Newborn("edge-1", claim))

    def test_whose_time_is_over_is_neither_let_in_nor_refused(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        self.office.time += 86401
        self.fails(self.pending.approve("edge-1", se.fingerprint, "ann", {}), NotFound)
        self.fails(self.pending.refuse("edge-1", se.fingerprint, "ann"), NotFound)

    def test_who_was_refused_takes_no_place(self) -> None:
        self.result(self.office.policy("approve", pending=2, pending_from_one=2))
        for number in range(5):
            se = Newborn(f"thief-{number}", None)
            self.waits(se)
            self.result(self.pending.refuse(se.id, se.fingerprint, "ann"))
        self.waits(Newborn("edge-1", None))

    def test_the_old_key_of_one_that_was_reset_is_not_taken_again(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        self.approve(se)
        self.enrols(se)
        claim = self.result(self.office.engines.reset("edge-1", "ann", 600)).claim
        again = Newborn("edge-1", claim, generation=2)
        again.key = se.key
        self.failureResultOf(as_deferred(self.ask(again)), Conflict)
        again.key = Newborn("edge-1", None).key
        self.enrols(again)

    def test_a_policy_that_changes_lets_in_or_keeps_out_from_then_on(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        self.result(self.office.policy("claim"))
        self.fails(self.ask(se), Gone)
        self.result(self.office.policy("image"))
        self.enrols(se)
        self.assertEqual(self.ids(), [])

    def test_the_rules_are_changed_one_by_one_and_each_change_is_recorded_once(self) -> None:
        before = self.result(self.pending.rules())
        self.result(self.office.policy("approve"))
        self.assertEqual(self.result(self.pending.rules()), before)
        self.result(self.office.policy("approve", pending=7))
        self.assertEqual(self.result(self.pending.rules()), msgspec.structs.replace(before, pending=7))
        shown = [each.outcome for each in self.result(self.office.events()) if each.kind == "enrolment-rules"]
        self.assertEqual(shown, ["policy approve", "policy approve, pending 7"])

    def test_a_key_that_has_an_owner_waits_for_nothing(self) -> None:
        se = Newborn("edge-1", None)
        self.waits(se)
        self.approve(se)
        self.enrols(se)
        second = Newborn("edge-2", None)
        second.key = se.key
        self.failureResultOf(as_deferred(self.ask(second)), Conflict)
        self.assertEqual(self.ids(), [])
