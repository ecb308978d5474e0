"""Roll-outs in the store: who should run which version, what may happen meanwhile, and that each step is one."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.config import catalogue as catalogue_module
from avinet.config import reach
from avinet.config import rollout as rules
from avinet.config import rollouts as rollouts_module
from avinet.config.compile import Target, compile_for
from avinet.config.health import Before
from avinet.errors import AvinetError, Conflict, Invalid, NotFound, Precondition
from avinet.store.interface import Put, Transaction
from avinet.wire.rollout import RolloutPlan
from tests.config.making import document, fired, pool, service, web
from tests.config.rolling import PLAN, RolloutCase


class CourseTests(RolloutCase):
    def test_it_reaches_nobody_before_the_first_batch(self) -> None:
        applied = self.apply(web("web", 81), plan=PLAN)
        self.assertEqual((applied.version, applied.service_engines), (2, 4))
        self.assertEqual(self.running(web("web", 80)), self.everybody)
        self.assertEqual(self.done(self.documents.get("web")).version, 2)

    def test_each_batch_and_nobody_else_has_it(self) -> None:
        self.apply(web("web", 81), plan=PLAN)
        before = {id: self.desired.version(id) for id in self.everybody}
        first = set(self.open())
        self.assertEqual(len(first), 1)
        self.assertEqual((self.running(web("web", 81)), self.running(web("web", 80))), (first, self.everybody - first))
        self.assertEqual({id for id in before if self.desired.version(id) == before[id]}, self.everybody - first)
        self.open()
        self.assertEqual(self.running(web("web", 81)), self.everybody)

    def test_at_its_end_it_is_the_version_of_all_and_others_may_follow(self) -> None:
        self.apply(web("web", 81), plan=PLAN)
        self.open()
        self.open()
        before = {id: self.desired.version(id) for id in self.everybody}
        self.end("finished")
        self.assertEqual({id: self.desired.version(id) for id in self.everybody}, before)
        self.assertEqual(self.done(self.rollouts.under_way()), {})
        self.assertEqual(self.done(self.rollouts.get("web")).state, "finished")
        self.apply(web("web", 82))
        self.assertEqual(self.running(web("web", 82)), self.everybody)

    def test_taken_back_the_former_one_is_a_new_version_and_only_the_batch_changes(self) -> None:
        self.apply(web("web", 81), plan=PLAN)
        first = set(self.open())
        before = {id: self.desired.version(id) for id in self.everybody}
        self.end("rolled-back")
        self.assertEqual(self.running(web("web", 80)), self.everybody)
        self.assertEqual({id for id in before if self.desired.version(id) == before[id]}, self.everybody - first)
        history = self.done(self.documents.history("web")).items
        self.assertEqual([(each.version, each.author) for each in history], [(3, "bob"), (2, "ada"), (1, "ada")])
        self.assertEqual(history[0].document, history[2].document)

    def test_a_document_that_was_new_is_gone_when_it_is_taken_back(self) -> None:
        self.apply(web("new", 90), plan=PLAN)
        first = set(self.open("new"))
        self.assertEqual(self.running(web("web", 80), web("new", 90)), first)
        self.end("rolled-back", "new")
        self.assertEqual(self.running(web("web", 80)), self.everybody)
        self.refused(self.documents.get("new"), NotFound)
        self.assertEqual(self.apply(web("new", 90)).version, 3)

    def test_one_that_selects_others_than_before_rolls_too(self) -> None:
        self.fleet.engines["se-9"] = {"site": "x"}
        self.desired.reconsider("se-9")
        self.apply(web("web", 81, site="x"), plan=PLAN)
        self.assertEqual(self.running(web("web", 80)), self.everybody)
        while len(self.running()) < 4:
            self.open()
        self.assertEqual(self.running(web("web", 81, site="x")), self.everybody)

    def test_each_step_is_one_transaction_with_its_record(self) -> None:
        self.store.written.clear()
        self.apply(web("web", 81), plan=PLAN)
        self.assertEqual(len(self.store.written), 1)
        self.open()
        self.end("rolled-back")
        self.assertEqual(
            [line.partition(" ")[0] for line in self.audit()],
            ["rollout-started", "rollout-batch", "rollout-rolled-back"],
        )
        self.assertIn("by bob", self.audit()[2])
        audited_with = [
            {change.key.split(b"/")[0] + b"/" + change.key.split(b"/")[1] for change in each.then}
            for each in self.store.written
            if any(change.key.startswith(b"audit/") for change in each.then)
        ]
        self.assertTrue(all({b"config/rollout", b"config/changed"} <= keys for keys in audited_with), audited_with)

    def test_a_restart_changes_nothing(self) -> None:
        self.apply(web("web", 81), plan=PLAN)
        first = set(self.open())
        before = {id: self.desired.version(id) for id in self.everybody}
        self.desired.stop()
        written = self.store.revision
        self.start()
        self.assertEqual({id: self.desired.version(id) for id in self.everybody}, before)
        self.assertEqual(self.running(web("web", 81)), first)
        self.assertEqual(self.store.revision, written)

    def test_what_is_not_under_way_cannot_be_changed(self) -> None:
        pause = lambda record, now: rules.paused(record, "bob", now)  # noqa: E731
        self.refused(self.rollouts.step("web", "bob", pause), NotFound)
        self.apply(web("web", 81), plan=PLAN)
        self.open()
        self.end("rolled-back")
        self.assertIn("is over: rolled-back", self.refused(self.rollouts.step("web", "bob", pause)))

    def test_how_they_were_before_is_remembered_until_the_end(self) -> None:
        self.apply(web("web", 81), plan=PLAN)
        record = self.done(self.rollouts.under_way())["web"]
        found = {id: Before(connected=True, down=[f"p/{id}"]) for id in self.everybody}
        self.done(self.rollouts.remember(record, found))
        self.assertEqual(self.done(self.rollouts.before(record)), {}, "nobody has had a turn")
        first = set(self.open())
        record = self.done(self.rollouts.under_way())["web"]
        self.assertEqual(self.done(self.rollouts.before(record)), {id: found[id] for id in first})
        strange = Put(f"config/rollout-before/web/{record.version:08d}/{first.pop()}".encode(), b'{"down": 7}')
        self.done(self.store.transact(Transaction((), (strange,))))
        self.assertEqual(self.done(self.rollouts.before(record)), {})
        first = set(self.open())
        record = self.done(self.rollouts.under_way())["web"]
        found = {id: found[id] for id in first}
        self.done(self.rollouts.forget([record]))
        self.assertEqual(self.done(self.rollouts.before(record)), {id: found[id] for id in first})
        self.done(self.rollouts.forget([]))
        self.assertEqual(self.done(self.store.range(b"config/rollout-before/")).entries, [])


class MeanwhileTests(RolloutCase):
    """What happens while a roll-out is under way."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.apply(web("web", 81), plan=PLAN)
        self.first = set(self.open())

    def test_the_document_is_neither_changed_nor_deleted(self) -> None:
        for change in (
            self.documents.apply(web("web", 82), "bob"),
            self.documents.apply(web("web", 80), "bob"),
            self.documents.apply(web("web", 82), "bob", plan=PLAN),
            self.documents.delete("web", "bob"),
        ):
            self.assertIn("version 2 of document web is being rolled out (running, batch 1)", self.refused(change))
        self.assertFalse(self.apply(web("web", 81)).changed)
        self.refused(self.documents.apply(web("web", 82), "bob", expected=1, force=True), Precondition)

    def test_by_force_another_version_comes_at_once(self) -> None:
        self.apply(web("web", 82), force=True)
        self.assertEqual(self.running(web("web", 82)), self.everybody)
        self.assertEqual(self.done(self.rollouts.get("web")).state, "superseded")
        self.assertIn("rollout-superseded", self.audit()[-1])

    def test_by_force_another_roll_out_takes_it_back_and_begins(self) -> None:
        self.apply(web("web", 82), force=True, plan=PLAN)
        self.assertEqual(self.running(web("web", 80)), self.everybody)
        record = self.done(self.rollouts.get("web"))
        self.assertEqual((record.version, record.former, record.state), (3, 1, "running"))
        self.open()
        self.assertEqual(len(self.running(web("web", 82))), 1)
        self.end("rolled-back")
        self.assertEqual(self.running(web("web", 80)), self.everybody)

    def test_by_force_it_is_deleted(self) -> None:
        deleting = fired(self.documents.delete("web", "bob", force=True))
        self.settle()
        self.assertEqual(self.successResultOf(deleting).service_engines, 4)
        self.assertEqual(self.running(), self.everybody)

    def test_other_documents_change_beside_it(self) -> None:
        self.apply(web("other", 90))
        self.assertEqual(self.running(web("web", 81), web("other", 90)), self.first)
        self.assertEqual(self.running(web("web", 80), web("other", 90)), self.everybody - self.first)
        self.end("rolled-back")
        self.assertEqual(self.running(web("web", 80), web("other", 90)), self.everybody)

    def test_what_contradicts_either_version_is_refused(self) -> None:
        for port in (80, 81):
            self.assertIn("both listen", self.refused(self.documents.apply(web("other", port), "bob"), Invalid))
        self.assertTrue(self.apply(web("other", 82)).changed)

    def test_a_label_that_would_contradict_either_version_is_found_before(self) -> None:
        self.apply(web("x", 90, site="x"))
        self.apply(web("x", 91, site="x"), plan=PLAN)
        self.apply(web("low", 90, tier="low"))
        self.apply(web("high", 91, tier="high"))
        self.done(self.documents.check(Target("se-9", {"site": "x"})))
        for tier in ("low", "high"):
            self.refused(self.documents.check(Target("se-9", {"site": "x", "tier": tier})), Invalid)

    def test_who_is_new_or_selected_anew_has_the_version_of_its_place(self) -> None:
        record = self.done(self.rollouts.under_way())["web"]
        for each in range(40):
            self.fleet.engines[f"new-{each}"] = {}
            self.desired.reconsider(f"new-{each}")
        self.settle()
        self.assertEqual(self.running(web("web", 81)), set(filter(record.turn, self.fleet.engines)))
        self.assertEqual(self.running(web("web", 80)), self.everybody - set(filter(record.turn, self.fleet.engines)))

    def test_who_is_gone_is_missed_by_nobody(self) -> None:
        for id in [*self.first, *list(self.everybody - self.first)[:2]]:
            del self.fleet.engines[id]
            self.desired.reconsider(id)
        self.settle()
        self.assertEqual(len(self.open()), 1)
        self.assertEqual(self.running(web("web", 81)), self.everybody)


class TwoTests(RolloutCase):
    """Two documents that roll out at once to the same service engines."""

    engines = 30

    def test_each_service_engine_has_each_in_the_version_of_its_place(self) -> None:
        self.apply(web("other", 90))
        self.apply(web("web", 81), plan=RolloutPlan(batches=("30%", "60%")))
        self.apply(web("other", 91), plan=RolloutPlan(batches=("50%",)))
        self.open("web")
        self.open("other")
        for step in range(4):
            records = self.done(self.rollouts.under_way())
            for id in self.everybody:
                web_port = 81 if "web" not in records or records["web"].turn(id) else 80
                other_port = 91 if records["other"].turn(id) else 90
                expected = compile_for(id, {}, [web("web", web_port), web("other", other_port)])
                self.assertEqual(self.config(id), expected, (step, id))
            if step < 2:
                self.open("web")
            elif step == 2:
                self.end("finished")
        self.end("rolled-back", "other")
        self.assertEqual(self.running(web("web", 81), web("other", 90)), self.everybody)

    def test_versions_that_cannot_be_together_are_refused_in_every_order(self) -> None:
        self.apply(web("other", 90))
        self.apply(web("web", 81), plan=PLAN)
        for port in (80, 81):
            self.refused(self.documents.apply(web("other", port), "bob", plan=PLAN), Invalid)
        self.apply(web("other", 91), plan=PLAN)
        for port in (80, 81, 90, 91):
            self.refused(self.documents.apply(web("third", port), "bob"), Invalid)

    def test_a_pool_that_another_needs_is_there_in_every_composition(self) -> None:
        self.apply(document("pools", pool("p", "a")))
        self.apply(document("services", service("w", 90)))
        uses = document("services", service("w", 90, "p"))
        self.apply(uses, plan=PLAN)
        self.refused(self.documents.apply(document("pools", pool("q", "a")), "bob", plan=PLAN), Invalid)
        self.refused(self.documents.delete("pools", "bob"), Invalid)
        self.end("rolled-back", "services")
        self.assertTrue(self.apply(document("pools", pool("q", "a")), plan=PLAN).changed)
        self.refused(self.documents.apply(uses, "bob"), Invalid)

    def test_how_many_may_overlap_is_bounded(self) -> None:
        for each in range(reach.OVERLAPPING):
            self.apply(web(f"d{each}", 90 + each), plan=PLAN)
        said = self.refused(self.documents.apply(web("more", 99), "bob", plan=PLAN))
        self.assertIn("d0, d1, d2, d3", said)
        self.assertTrue(self.apply(web("elsewhere", 99, site="x")).changed)
        self.assertTrue(self.apply(web("more", 100)).changed)

    def test_how_many_there_are_is_bounded(self) -> None:
        self.patch(rollouts_module, "ROLLOUTS", 2)
        for each in range(2):
            self.apply(web(f"d{each}", 90 + each, engine=f"se-{each}"), plan=PLAN)
        self.refused(self.documents.apply(web("more", 99, engine="se-9"), "bob", plan=PLAN))


class AnyOrderTests(SynchronousTestCase):
    """Whatever is done to two documents in whatever order, each service engine runs what its turns say."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["roll", "force", "apply", "open", "finished", "rolled-back", "restart", "label"]),
                st.sampled_from(["a", "b"]),
                st.integers(0, 5),
            ),
            max_size=20,
        )
    )
    def test_what_is_desired_follows_from_what_is_stored(self, steps: list[tuple[str, str, int]]) -> None:
        case = RolloutCase("setUp")
        case.engines = 5
        case.setUp()
        ports = {"a": 100, "b": 200}
        for what, name, number in steps:
            made = web(name, ports[name] + number, **({} if number < 4 else {"site": "x"}))
            try:
                if what in ("roll", "force"):
                    self._finish(case, case.documents.apply(made, "ada", plan=PLAN, force=what == "force"))
                elif what == "apply":
                    self._finish(case, case.documents.apply(made, "ada"))
                elif what == "open":
                    case.open(name)
                elif what == "restart":
                    case.desired.stop()
                    case.start()
                elif what == "label":
                    case.fleet.engines[f"se-{number}"] = {"site": "x"} if number % 2 else {}
                    case.desired.reconsider(f"se-{number}")
                    case.settle()
                else:
                    case.end(what, name)
            except (AvinetError, self.failureException) as error:
                if "Conflict" not in repr(error) and "NotFound" not in repr(error):
                    raise
            self._check(case)
        case.doCleanups()

    def _finish(self, case: RolloutCase, coroutine: Any) -> None:
        applying = fired(coroutine)
        case.settle()
        applying.addErrback(lambda failure: failure.trap(Conflict) and None)
        self.assertTrue(applying.called)

    def _check(self, case: RolloutCase) -> None:
        catalogue = case.done(case.documents.catalogue())
        records = case.done(case.rollouts.under_way())
        for id, labels in case.fleet.engines.items():
            documents = []
            for name, current in catalogue.versions.items():
                version = current
                if name in records and not records[name].turn(id):
                    if not records[name].former:
                        continue
                    version = case.done(case.documents.get(name, records[name].former))
                if version.document is not None:
                    documents.append(version.document)
            self.assertEqual(case.config(id), compile_for(id, labels, documents), id)


class LargeFleetTests(RolloutCase):
    """Ten thousand service engines in two groups."""

    engines = 10_000

    def test_a_composition_is_compiled_once_for_all_that_have_it(self) -> None:
        self.apply(web("web", 81), plan=RolloutPlan(batches=("10%",)))
        self.apply(web("other", 91), plan=RolloutPlan(batches=("50%",)))
        compiled: list[int] = []
        merge = catalogue_module.compiled
        self.patch(catalogue_module, "compiled", lambda documents: compiled.append(1) or merge(documents))
        self.assertEqual(len(self.open("web")), 1000)
        self.assertEqual(len(self.open("other")), 5000)
        self.clock.pump([0] * 2000)
        self.assertLessEqual(len(compiled), 2 + 4)
        ports: dict[tuple[int, ...], int] = {}
        for id in self.fleet.engines:
            found = tuple(each.port for each in self.config(id).virtual_services)
            ports[found] = ports.get(found, 0) + 1
        self.assertEqual(set(ports), {(80,), (81,), (91, 80), (91, 81)})
        self.assertEqual(sum(count for found, count in ports.items() if 81 in found), 1000)
        self.assertEqual(sum(count for found, count in ports.items() if 91 in found), 5000)
