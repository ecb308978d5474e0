"""The rules of a roll-out: who is next, who is well, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.config import rollout as rules
from avinet.config.health import Before, Kind, Now, Tally, judge
from avinet.config.rollout import EVERYBODY, RolloutRecord, batches_left, decide
from avinet.errors import Conflict
from avinet.wire.message import encode
from avinet.wire.rollout import FAILURES_SHOWN, RolloutPlan


def record(**fields: Any) -> RolloutRecord:
    plan = RolloutPlan(**{name: fields.pop(name) for name in list(fields) if name in RolloutPlan.__struct_fields__})
    made = RolloutRecord(name="web", version=2, former=1, plan=plan, author="ada", started=1.0)
    return msgspec.structs.replace(made, **fields)


def fleet(count: int) -> list[str]:
    return [f"se-{number}" for number in range(count)]


def all_connected(id: str) -> bool:
    return True


def batches(made: RolloutRecord, ids: list[str], connected: Callable[[str], bool] = all_connected) -> list[list[str]]:
    """All batches to the end."""
    found = []
    while made.boundary != EVERYBODY:
        batch = rules.next_batch(made, ids, connected)
        made = rules.opened(made, batch, "ada", 2.0)
        found.append(list(batch.ids))
    return found


plans = st.builds(
    RolloutPlan,
    batches=st.lists(
        st.integers(1, 40).map(str) | st.integers(1, 100).map(lambda part: f"{part}%"), min_size=1, max_size=5
    ).map(tuple),
    batch_size=st.just(0) | st.integers(1, 30),
)


class BatchTests(SynchronousTestCase):
    def test_sizes_are_what_all_have_after_each_batch(self) -> None:
        sizes = [len(each) for each in batches(record(), fleet(1000))]
        self.assertEqual(sizes, [1, 99, 400, 500])
        self.assertEqual([len(each) for each in batches(record(batch_size=3), fleet(8))], [3, 3, 2])
        self.assertEqual([len(each) for each in batches(record(batches=("2", "3")), fleet(5))], [2, 1, 2])

    def test_sizes_that_add_nobody_are_passed_over(self) -> None:
        self.assertEqual([len(each) for each in batches(record(), fleet(3))], [1, 1, 1])
        self.assertEqual([len(each) for each in batches(record(), fleet(1))], [1])
        self.assertEqual(batches(record(), []), [[]])

    def test_the_order_is_the_same_again_and_another_for_each_version(self) -> None:
        firsts = [batches(record(version=version), fleet(100))[0] for version in range(2, 30)]
        self.assertEqual(firsts[0], batches(record(version=2), fleet(100)[::-1])[0])
        self.assertGreater(len({each[0] for each in firsts}), 15)

    def test_a_batch_has_somebody_who_is_connected(self) -> None:
        order = [id for batch in batches(record(batch_size=1), fleet(10)) for id in batch]
        found = batches(record(batches=("1",)), fleet(10), lambda id: id in order[4:])
        self.assertEqual([len(each) for each in found], [5, 5])
        self.assertEqual([len(each) for each in batches(record(batches=("1",)), fleet(10), lambda id: False)], [1, 9])

    def test_to_promote_all_is_one_batch(self) -> None:
        made = rules.promoted(record(), "ada", 2.0, all=True)
        self.assertEqual([len(each) for each in batches(made, fleet(100))], [100])

    def test_who_comes_later_belongs_to_the_batch_of_its_place(self) -> None:
        made = rules.opened(record(), rules.next_batch(record(batches=("50%",)), fleet(100), all_connected), "ada", 2.0)
        later = [f"new-{number}" for number in range(200)]
        have_it = sum(map(made.turn, later))
        self.assertTrue(50 < have_it < 150, have_it)
        left = rules.next_batch(made, [*fleet(100), *later], all_connected).ids
        self.assertEqual({each for each in left if made.turn(each)}, set())

    @given(plans, st.integers(0, 200), st.sets(st.integers(0, 199)))
    def test_each_has_its_turn_exactly_once(self, plan: RolloutPlan, count: int, away: set[int]) -> None:
        made = msgspec.structs.replace(record(), plan=plan)
        found = batches(made, fleet(count), lambda id: int(id[3:]) not in away)
        self.assertEqual(sorted(id for batch in found for id in batch), sorted(fleet(count)))
        self.assertTrue(all(found) or found == [[]])

    @given(plans, st.integers(0, 200))
    def test_how_many_there_will_be_is_known_from_the_beginning(self, plan: RolloutPlan, count: int) -> None:
        made = msgspec.structs.replace(record(), plan=plan)
        expected = len(batches(made, fleet(count)))
        self.assertEqual(batches_left(made, 0, count), expected)

    @given(plans, st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=12))
    def test_whoever_comes_and_goes_it_has_an_end(self, plan: RolloutPlan, changes: list[tuple[bool, int]]) -> None:
        made = msgspec.structs.replace(record(), plan=plan)
        ids = set(fleet(30))
        for _ in range(400):
            if made.boundary == EVERYBODY:
                break
            if changes:
                comes, number = changes.pop()
                ids = ids | {f"se-{number}"} if comes else ids - {f"se-{number}"}
            batch = rules.next_batch(made, sorted(ids), all_connected)
            self.assertFalse(any(map(made.turn, batch.ids)))
            made = rules.opened(made, batch, "ada", 2.0)
            self.assertTrue(all(map(made.turn, batch.ids)))
        self.assertEqual(made.boundary, EVERYBODY)
        self.assertEqual(batches_left(made, 0, 30), 0)


WAS = Before(connected=True)
WELL = Now(connected=True, acknowledged=True, reported=True)


class HealthTests(SynchronousTestCase):
    plan = RolloutPlan(lost_s=30, deadline_s=120, errors_percent=5, least_requests=20)

    def judged(self, before: Before | None = WAS, **now: Any) -> tuple[Kind, str]:
        known = {name: getattr(WELL, name) for name in Now.__dataclass_fields__}
        return judge(self.plan, before, Now(**{**known, **now}))

    def test_who_has_acknowledged_and_reported_is_well(self) -> None:
        self.assertEqual(self.judged(), ("well", ""))

    def test_until_then_it_is_pending_for_so_long(self) -> None:
        for lacks, why in (("acknowledged", "not acknowledged"), ("reported", "not reported")):
            self.assertEqual(self.judged(**{lacks: False}, asked_s=119.0), ("pending", ""))
            kind, said = self.judged(**{lacks: False}, asked_s=120.0)
            self.assertEqual(kind, "failed")
            self.assertIn(why, said)

    def test_a_refusal_is_a_failure_whatever_else_is_known(self) -> None:
        for fields in ({}, {"acknowledged": False}, {"connected": False}):
            kind, why = self.judged(refused="port 80 is taken", **fields)
            self.assertEqual(kind, "failed")
            self.assertIn("port 80 is taken", why)

    def test_one_that_is_away_comes_back_in_time_or_is_lost(self) -> None:
        self.assertEqual(self.judged(connected=False, away_s=29.0), ("pending", ""))
        self.assertEqual(self.judged(connected=False, away_s=30.0)[0], "failed")
        self.assertEqual(
            self.judged(Before(connected=True), connected=False, acknowledged=False, away_s=30.0)[0], "failed"
        )

    def test_one_that_loses_its_tunnel_again_and_again_is_not_well_though_it_comes_back(self) -> None:
        for fields in ({}, {"connected": False}, {"acknowledged": False}):
            self.assertNotEqual(self.judged(losses=(90.0, 5.0), **fields)[0], "failed")
            self.assertEqual(
                self.judged(losses=(3599.0, 90.0, 5.0), **fields), ("failed", "it has lost its tunnel 3 times")
            )
        self.assertEqual(self.judged(losses=(3600.0, 90.0, 5.0)), ("well", ""))

    def test_one_that_was_unsteady_before_may_be_so_and_holds_nothing_up(self) -> None:
        was = Before(connected=True, unsteady=True)
        self.assertEqual(self.judged(was, losses=(9.0, 6.0, 3.0)), ("well", ""))
        self.assertEqual(self.judged(was, losses=(9.0, 6.0, 3.0), connected=False, away_s=3.0), ("waiting", ""))
        self.assertEqual(self.judged(was, connected=False, away_s=30.0)[0], "failed")

    def test_one_that_was_away_before_waits_and_is_nobodys_fault(self) -> None:
        for before in (None, Before()):
            self.assertEqual(self.judged(before, connected=False, acknowledged=False, away_s=30.0), ("waiting", ""))

    def test_what_contradicts_its_other_documents_cannot_be_had(self) -> None:
        kind, why = self.judged(problem="both listen on port 80", acknowledged=False)
        self.assertEqual(kind, "failed")
        self.assertIn("both listen", why)
        self.assertEqual(self.judged(Before(problem=True), problem="as before")[0], "waiting")

    def test_servers_that_are_down_count_when_they_were_not_before(self) -> None:
        was = Before(connected=True, down=["web/blue"])
        self.assertEqual(self.judged(was, down=["web/blue"]), ("well", ""))
        self.assertEqual(self.judged(was, down=["web/blue", "web/green"]), ("failed", "server web/green is down"))
        self.assertEqual(
            self.judged(WAS, down=["web/blue", "web/red"]), ("failed", "server web/blue is down, and 1 more")
        )

    def test_of_one_that_nothing_is_known_of_from_before_servers_and_errors_say_nothing(self) -> None:
        for before in (None, Before()):
            self.assertEqual(self.judged(before, down=["web/blue"], traffic={"shop": (20, 20)}), ("well", ""))
        for fields in ({"refused": "port 80 is taken"}, {"losses": (3.0, 2.0, 1.0)}, {"problem": "both listen"}):
            self.assertEqual(self.judged(None, **fields)[0], "failed")
        self.assertEqual(self.judged(None, acknowledged=False, asked_s=120.0)[0], "failed")
        self.assertEqual(self.judged(None, connected=False, away_s=30.0)[0], "failed")

    def test_of_very_many_that_were_down_it_is_the_number_that_counts(self) -> None:
        was = Before(connected=True, down=["web/0"], more=2)
        self.assertEqual(self.judged(was, down=["web/0", "web/1", "web/2"])[0], "well")
        self.assertEqual(self.judged(was, down=["web/0", "web/1", "web/2", "web/3"])[0], "failed")

    def test_errors_count_beyond_what_there_was_and_from_so_many_requests_on(self) -> None:
        self.assertEqual(self.judged(traffic={"shop": (19, 19)})[0], "well")
        self.assertEqual(self.judged(traffic={"shop": (20, 1)})[0], "well")
        kind, why = self.judged(traffic={"shop": (20, 2)})
        self.assertEqual((kind, why), ("failed", "2 of 20 requests to shop failed"))
        diluted = {"shop": (36_000, 100)}
        kind, why = self.judged(traffic=diluted, recent={"shop": (600, 100)})
        self.assertEqual((kind, why), ("failed", "100 of 600 requests to shop failed in the last minute"))
        self.assertEqual(self.judged(traffic=diluted, recent={"shop": (19, 19)})[0], "well")
        was = Before(connected=True, errors={"shop": 10.0})
        self.assertEqual(self.judged(was, traffic={"shop": (20, 3)})[0], "well")
        self.assertEqual(self.judged(was, traffic={"shop": (20, 4)})[0], "failed")


def tally(forgiven: list[str] | None = None, **counts: int) -> Tally:
    made = Tally(forgiven or ())
    for kind, count in counts.items():
        for number in range(count):
            made.add(f"{kind}-{number}", kind, f"why\n{number}")  # type: ignore[arg-type]
    return made


class DecisionTests(SynchronousTestCase):
    def opened(self, **fields: Any) -> RolloutRecord:
        return record(batch=1, boundary="8", observe_s=30, **fields)

    def test_the_first_batch_is_opened_at_once(self) -> None:
        self.assertEqual(decide(record(), tally(), 0.0), "open")

    def test_the_next_one_when_all_have_been_well_for_so_long(self) -> None:
        self.assertEqual(decide(self.opened(), tally(well=3, pending=1), 99.0), "hold")
        self.assertEqual(decide(self.opened(), tally(well=4), 29.0), "hold")
        self.assertEqual(decide(self.opened(), tally(well=4), 30.0), "open")
        self.assertEqual(decide(self.opened(), tally(well=4, waiting=3), 30.0), "open")

    def test_a_version_that_nobody_has_proves_nothing(self) -> None:
        self.assertEqual(decide(self.opened(), tally(waiting=3), 99.0), "hold")

    def test_the_last_batch_is_observed_too(self) -> None:
        last = msgspec.structs.replace(self.opened(), boundary=EVERYBODY)
        self.assertEqual(decide(last, tally(well=4), 29.0), "hold")
        self.assertEqual(decide(last, tally(well=4), 30.0), "finish")
        self.assertEqual(decide(last, tally(), 0.0), "finish")

    def test_too_many_that_are_not_well_stop_it_at_any_time(self) -> None:
        for state in ("running", "paused"):
            self.assertEqual(decide(self.opened(state=state), tally(pending=3, failed=1), 0.0), "stop")
            made = self.opened(state=state, max_failed=2)
            self.assertEqual(decide(made, tally(pending=3, failed=2), 0.0), "hold")
            self.assertEqual(decide(made, tally(pending=3, failed=3), 0.0), "stop")
        self.assertEqual(decide(self.opened(max_failed=2), tally(failed=2), 30.0), "open")

    def test_paused_or_stopped_it_stays_where_it_is(self) -> None:
        for state in ("paused", "stopped"):
            self.assertEqual(decide(self.opened(state=state), tally(well=4), 99.0), "hold")
        self.assertEqual(decide(self.opened(state="stopped"), tally(failed=4), 99.0), "hold")

    def test_a_pause_in_the_plan_comes_once_after_each_batch(self) -> None:
        made = self.opened(pause=True)
        self.assertEqual(decide(made, tally(well=4), 30.0), "pause")
        made = rules.paused(made, "node-1", 5.0, passed=True)
        self.assertEqual(decide(made, tally(well=4), 30.0), "hold")
        made = rules.resumed(made, "ada", 6.0)
        self.assertEqual(decide(made, tally(well=4), 30.0), "open")
        made = rules.opened(made, rules.Batch(["se-9"], "9", 2), "node-1", 7.0)
        self.assertEqual(decide(made, tally(well=5), 30.0), "pause")

    def test_to_promote_is_to_wait_for_nothing_once(self) -> None:
        made = rules.promoted(self.opened(state="paused"), "ada", 5.0, all=False)
        self.assertEqual(decide(made, tally(pending=4), 0.0), "open")
        made = rules.opened(made, rules.Batch(["se-9"], "9", 2), "node-1", 7.0)
        self.assertEqual(decide(made, tally(pending=4), 0.0), "hold")

    def test_to_go_on_after_a_stop_forgives_who_has_failed(self) -> None:
        for step in (rules.resumed, lambda *given: rules.promoted(*given, all=False)):
            made = rules.stopped(rules.counted(self.opened(), tally(failed=3), 9), "too many", "node-1", 4.0)
            made = step(made, "ada", 5.0)
            self.assertEqual(made.state, "running")
            ids = made.forgiven_ids
            self.assertNotEqual(decide(made, tally(ids, pending=1, failed=3), 0.0), "stop")
            self.assertEqual(decide(made, tally(ids, pending=1, failed=4), 0.0), "stop")

    def test_nobody_else_may_fail_in_the_place_of_who_is_forgiven(self) -> None:
        made = rules.stopped(rules.counted(self.opened(), tally(failed=3), 9), "too many", "node-1", 4.0)
        made = rules.resumed(made, "ada", 5.0)
        other = Tally(made.forgiven_ids)
        other.add("failed-1", "failed", "as before")
        other.add("se-9", "failed", "new")
        self.assertEqual([each.id for each in other.failures], ["se-9", "failed-1"])
        self.assertEqual(decide(made, other, 0.0), "stop")
        again = rules.resumed(rules.stopped(rules.counted(made, other, 9), "", "node-1", 6.0), "ada", 7.0)
        self.assertEqual(again.forgiven_ids, ["failed-0", "failed-2", "se-9", "failed-1"])

    def test_of_very_many_that_are_forgiven_the_number_counts_and_shrinks_as_they_become_well(self) -> None:
        made = rules.stopped(rules.counted(self.opened(), tally(failed=100), 200), "too many", "node-1", 4.0)
        made = rules.resumed(made, "ada", 5.0)
        self.assertEqual((len(made.forgiven_ids), made.forgiven), (FAILURES_SHOWN, 100 - FAILURES_SHOWN))
        ids = made.forgiven_ids
        self.assertNotEqual(decide(made, tally(ids, failed=100), 0.0), "stop")
        self.assertEqual(decide(made, tally(ids, failed=101), 0.0), "stop")
        made = rules.counted(made, tally(ids, failed=30), 200)
        self.assertEqual(made.forgiven, 30 - FAILURES_SHOWN)
        self.assertEqual(decide(made, tally(ids, failed=31), 0.0), "stop")
        for _ in range(200):
            found = Tally(made.forgiven_ids)
            for number in range(FAILURES_SHOWN):
                found.add(f"se-{_}-{number}", "failed", "")
            made = rules.stopped(rules.counted(made, found, 9), "", "node-1", 6.0)
            made = rules.resumed(made, "ada", 7.0)
        self.assertEqual(len(made.forgiven_ids), rules.FORGIVEN)

    def test_what_is_over_cannot_be_changed(self) -> None:
        steps = [
            lambda made: rules.opened(made, rules.Batch([], "9", 2), "ada", 5.0),
            lambda made: rules.stopped(made, "", "ada", 5.0),
            lambda made: rules.paused(made, "ada", 5.0),
            lambda made: rules.resumed(made, "ada", 5.0),
            lambda made: rules.promoted(made, "ada", 5.0, all=True),
            lambda made: rules.ended(made, "finished", "", "ada", 5.0),
        ]
        for state in ("finished", "rolled-back", "superseded"):
            over = rules.ended(self.opened(), state, "", "ada", 4.0)  # type: ignore[arg-type]
            self.assertFalse(over.under_way)
            for step in steps:
                self.assertIn("is over", str(self.assertRaises(Conflict, step, over)))

    def test_what_has_no_effect_is_refused(self) -> None:
        self.assertRaises(Conflict, rules.resumed, self.opened(), "ada", 5.0)
        for state in ("paused", "stopped"):
            self.assertRaises(Conflict, rules.paused, self.opened(state=state), "ada", 5.0)

    def test_what_is_told_of_failures_is_bounded_and_in_lines(self) -> None:
        made = tally(failed=100)
        self.assertEqual((made.counts["failed"], len(made.failures)), (100, FAILURES_SHOWN))
        self.assertEqual(made.failures[0].why, "why 0")
        made.add("se", "failed", "x" * 5000)
        self.assertLess(len(encode(rules.counted(self.opened(), made, 100))), 20_000)

    def test_a_record_is_the_same_after_the_store(self) -> None:
        made = rules.counted(self.opened(batches=("3", "70%")), tally(failed=2, well=1), 9)
        self.assertEqual(msgspec.json.decode(encode(made), type=RolloutRecord), made)


class StepTests(SynchronousTestCase):
    """Whatever operators, a node and service engines do, in any order."""

    @given(
        st.lists(st.sampled_from(["pause", "resume", "promote", "all", "abort", "tick", "well", "bad"]), max_size=40),
        st.booleans(),
    )
    def test_batches_only_grow_and_nothing_opens_while_it_is_paused_or_stopped(
        self, steps: list[str], auto_rollback: bool
    ) -> None:
        made, ids = record(pause=False, auto_rollback=auto_rollback, observe_s=0), fleet(20)
        health: Kind = "pending"
        for step in steps:
            before = made
            try:
                if step == "tick":
                    made = self.tick(made, ids, health)
                elif step == "well":
                    health = "well"
                elif step == "bad":
                    health = "failed"
                elif step == "abort":
                    made = rules.ended(made, "rolled-back", "", "ada", 1.0)
                elif step in ("promote", "all"):
                    made = rules.promoted(made, "ada", 1.0, all=step == "all")
                else:
                    made = (rules.paused if step == "pause" else rules.resumed)(made, "ada", 1.0)
            except Conflict:
                self.assertIs(made, before)
            self.assertGreaterEqual(made.boundary, before.boundary)
            self.assertLessEqual(set(filter(before.turn, ids)), set(filter(made.turn, ids)))
            if not before.under_way:
                self.assertIs(made, before)
            if before.state in ("paused", "stopped"):
                self.assertEqual(made.boundary, before.boundary)
            if made.state == "finished":
                self.assertEqual(made.boundary, EVERYBODY)

    def tick(self, made: RolloutRecord, ids: list[str], health: Kind) -> RolloutRecord:
        if not made.under_way:
            return made
        found = Tally()
        for id in filter(made.turn, ids):
            found.add(id, health, "")
        made = rules.counted(made, found, len(ids))
        match decide(made, found, 0.0):
            case "open":
                return rules.opened(made, rules.next_batch(made, ids, all_connected), "node-1", 1.0)
            case "stop":
                made = rules.stopped(made, "", "node-1", 1.0)
                return rules.ended(made, "rolled-back", "", "node-1", 1.0) if made.plan.auto_rollback else made
            case "finish":
                return rules.ended(made, "finished", "", "node-1", 1.0)
        return made
