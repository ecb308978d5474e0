"""Pulls: seen through on each service engine, past lost tunnels and restarts, within a deadline and a budget."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.controller.log_pulls import driver, errands
from avinet.controller.log_pulls.course import Rate
from avinet.controller.log_pulls.driver import LogPulls
from avinet.controller.log_pulls.errands import Errands
from avinet.controller.log_pulls.records import KEPT, PullRecords
from avinet.controller.retention import Retention
from avinet.enrolment.records import AUDIT, AuditRecord, put_audit
from avinet.errors import Conflict, LocalError, NotFound, PeerError, TooMany, Unavailable
from avinet.store.interface import Put, Transaction
from avinet.wire.log_pulls import LogPull, LogPullOrder, LogPullSeen, PulledEngine
from avinet.wire.pull import SegmentPage
from tests.logs.pulls import Engine, Here
from tests.store.memory import MemoryStore


class Fleet:
    """Service engines with spools; those that are `gone` are not connected."""

    def __init__(self, case: PullsCase) -> None:
        self.case = case
        self.engines: dict[str, Engine] = {}
        self.gone: set[str] = set()
        self.unknown: set[str] = set()
        self.faults: dict[str, list[Exception]] = {}

    def add(self, *ids: str, records: int = 5) -> None:
        for id in ids:
            engine = self.engines[id] = Engine(self.case.folder / id, self.case.clock, self.case.tasks)
            engine.engine = id
            engine.spooling.spool._engine = id
            self.case.addCleanup(engine.spooling.kill)
            engine.sealed(records, 2 * records)

    def known(self, id: str) -> bool:
        return id not in self.unknown

    def connected(self, id: str) -> bool:
        return id in self.engines and id not in self.gone

    def source(self, id: str, order: LogPullOrder) -> Any:
        if id in self.gone:
            raise Unavailable(f"service engine {id} is not connected")
        if faults := self.faults.get(id):
            raise faults.pop(0)
        return self.engines[id]


class PullsCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.clock, self.tasks = Clock(), Tasks()
        self.addCleanup(lambda: self.tasks.stop())
        self.store = MemoryStore(self.clock)
        self.here = Here(self.folder / "archive")
        self.fleet = Fleet(self)
        self.audited: list[tuple[str, str, str]] = []
        self.pulls = self.made()

    def made(self, at_once: int = 4) -> LogPulls:
        """The pulls of a node that has just started."""
        return LogPulls(
            self.clock,
            self.tasks,
            "node-1",
            PullRecords(self.store),
            Errands(self.clock, self.here.puller, self.fleet, lambda: 1.0),
            self.recorded,
            lambda: 1e9 + self.clock.seconds(),
            lambda count: bytes([len(self.audited) + at for at in range(count)]),
            at_once,
        )

    def recorded(self, kind: str, actor: str, id: str, outcome: str) -> Put:
        self.audited.append((kind, actor, id))
        return put_audit(AuditRecord(time=1.0, node="node-1", kind=kind, source=actor, id=id, outcome=outcome))

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def begin(self, *ids: str, **order: Any) -> LogPull:
        pull: LogPull = self.result(self.pulls.begin(LogPullOrder(ids=list(ids), **order), sorted(ids), "ann"))
        return pull

    def later(self, seconds: float = 3) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)

    def seen(self, pull: LogPull) -> LogPullSeen:
        found: LogPullSeen = self.result(self.pulls.show(pull.id))
        return found

    def engine(self, pull: LogPull, id: str = "se-1") -> PulledEngine:
        return next(each for each in self.seen(pull).engines if each.id == id)

    def states(self, pull: LogPull) -> list[str]:
        return [each.state for each in self.seen(pull).engines]


class CourseTests(PullsCase):
    def test_all_of_several_is_pulled_and_kept_how_far_it_came(self) -> None:
        self.fleet.add("se-1", "se-2")
        pull = self.begin("se-1", "se-2")
        self.later()
        seen = self.seen(pull)
        self.assertEqual((seen.pull.state, self.states(pull)), ("done", ["done", "done"]))
        found = seen.pull
        self.assertEqual((found.ended, found.failed, found.segments, found.here, found.archived), (2, 0, 4, 4, 4))
        self.assertEqual(found.bytes, found.size)
        self.pulls = self.made()
        self.result(self.pulls.start())
        self.assertEqual(self.seen(pull), seen, "another process knows it too")
        self.assertEqual(self.audited, [("log-pull", "ann", pull.id)])
        self.assertEqual(len(self.result(self.store.range(AUDIT)).entries), 1)

    def test_what_is_open_is_sealed_first(self) -> None:
        self.fleet.add("se-1")
        self.fleet.engines["se-1"].spooling.spool.append([b'{"t":1795000000000}'] * 3)
        pull = self.begin("se-1")
        self.later()
        self.assertEqual((self.engine(pull).segments, self.engine(pull).archived), (3, 3))

    def test_what_cannot_be_sealed_is_told_and_the_rest_is_pulled(self) -> None:
        self.fleet.add("se-1")

        async def full() -> None:
            raise Unavailable("request logs cannot be sealed now: No space left on device")

        self.fleet.engines["se-1"].seal = full  # type: ignore[method-assign]
        pull = self.begin("se-1")
        self.later()
        found = self.engine(pull)
        self.assertEqual((found.state, found.archived), ("failed", 2))
        self.assertIn("not sealed: request logs cannot be sealed now: No space left", found.why)

    def test_a_tunnel_that_is_lost_costs_no_byte(self) -> None:
        self.fleet.add("se-1", records=40)
        engine = self.fleet.engines["se-1"]
        size = sum(each.bytes for each in engine.spooling.manifests)
        engine.breaks = [500, 900]
        self.fleet.gone.add("se-1")
        pull = self.begin("se-1")
        self.later(5)
        self.assertEqual(self.states(pull), ["waiting"])
        self.fleet.gone.clear()
        self.later(5)
        found = self.engine(pull)
        self.assertEqual((found.state, found.bytes, found.there_bytes, found.why), ("done", size, size, ""))
        self.assertEqual(engine.opened[:3], [(1, 0), (1, 500), (1, 1400)])

    def test_one_that_is_connected_and_of_which_nothing_comes_is_given_up(self) -> None:
        self.fleet.add("se-1", "se-2")
        self.fleet.faults["se-1"] = [Unavailable("it has sent nothing for 30 s")] * 100
        pull = self.begin("se-1", "se-2")
        self.later(60)
        self.assertEqual(self.states(pull), ["failed", "done"])
        self.assertEqual(self.engine(pull).why, "it has sent nothing for 30 s")
        self.assertEqual(len(self.fleet.faults["se-1"]), 100 - errands.TRIES)

    def test_a_liar_and_a_fault_of_ours_are_the_end_of_one_and_the_others_go_on(self) -> None:
        self.fleet.add("se-1", "se-2", "se-3")
        self.fleet.faults["se-1"] = [PeerError("its list does not go on\n\x1b[2J")]
        self.fleet.faults["se-2"] = [ZeroDivisionError()]
        pull = self.begin("se-1", "se-2", "se-3")
        self.later()
        self.assertEqual(self.states(pull), ["failed", "failed", "done"])
        self.assertEqual(self.engine(pull).why, "its list does not go on  [2J")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_one_segment_that_was_tampered_with(self) -> None:
        self.fleet.add("se-1")
        engine = self.fleet.engines["se-1"]
        file = engine.file(engine.spooling.manifests[0])
        file.write_bytes(bytes(len(file.read_bytes())))
        pull = self.begin("se-1")
        self.later()
        found = self.engine(pull)
        self.assertEqual((found.state, found.refused, found.archived, found.here), ("failed", 1, 1, 1))
        self.assertIn("SHA-256", found.why)

    def test_numbers_that_are_missing_are_in_the_result(self) -> None:
        self.fleet.add("se-1")
        engine = self.fleet.engines["se-1"]
        engine.page_of = lambda page: type(page)(items=page.items[1:])
        pull = self.begin("se-1")
        self.later()
        found = self.engine(pull)
        self.assertEqual((found.state, found.missing_records), ("done", 5))
        self.assertEqual([(each.first, each.last) for each in found.missing], [(1, 5)])

    def test_what_was_removed_is_a_number_of_its_own_and_comes_again_only_if_it_is_wanted(self) -> None:
        self.fleet.add("se-1")
        self.begin("se-1")
        self.later()
        self.here.archive.retain(0, 0)
        pull = self.begin("se-1")
        self.later()
        seen = self.seen(pull).pull
        self.assertEqual((seen.removed, seen.segments, seen.size, seen.bytes, seen.failed), (2, 0, 0, 0, 0))
        seen = self.seen(self.again()).pull
        self.assertEqual((seen.removed, seen.segments, seen.archived), (0, 2, 2))

    def again(self) -> LogPull:
        pull = self.begin("se-1", again=True)
        self.later()
        return pull

    def test_one_that_was_deleted_meanwhile(self) -> None:
        self.fleet.unknown.add("se-9")
        pull = self.begin("se-9")
        self.later()
        self.assertEqual((self.states(pull), self.seen(pull).pull.failed), (["failed"], 1))

    def test_a_full_disk_is_told(self) -> None:
        self.fleet.add("se-1")
        self.here = Here(self.folder / "archive", spare_bytes=2**60)
        self.pulls = self.made()
        pull = self.begin("se-1")
        self.later()
        self.assertIn("there is no room", self.engine(pull).why)


class BoundTests(PullsCase):
    def test_the_deadline(self) -> None:
        self.fleet.add("se-1", "se-2")
        self.fleet.gone.add("se-2")
        waiting: Deferred[None] = Deferred()

        async def stuck() -> None:
            await waiting

        self.fleet.engines["se-1"].seal = stuck  # type: ignore[method-assign]
        before = len(self.clock.getDelayedCalls())
        pull = self.begin("se-1", "se-2", deadline_s=10)
        self.later(9)
        self.assertEqual(self.states(pull), ["sealing", "waiting"])
        self.later(3)
        self.assertEqual((self.seen(pull).pull.state, self.states(pull)), ("done", ["failed", "unreachable"]))
        self.assertIn("deadline", self.engine(pull).why)
        self.assertEqual(len(self.clock.getDelayedCalls()), before, "what the service engines wait for themselves")

    def test_the_budget_is_that_of_all_of_them(self) -> None:
        self.fleet.add("se-1", "se-2")
        sizes = [each.bytes for each in self.fleet.engines["se-1"].spooling.manifests]
        pull = self.begin("se-1", "se-2", budget_bytes=sum(sizes) + 10)
        self.later()
        self.assertLessEqual(self.seen(pull).pull.bytes, sum(sizes) + 10)
        self.assertIn("out-of-budget", self.states(pull))
        self.assertGreaterEqual(self.seen(pull).pull.archived, 2)

    def test_cancelling_leaves_what_was_fetched(self) -> None:
        self.fleet.add("se-1")
        self.fleet.gone.add("se-2")
        pull = self.begin("se-1", "se-2")
        self.later()
        self.result(self.pulls.cancel(pull.id, "bob"))
        self.later()
        self.assertEqual((self.seen(pull).pull.state, self.states(pull)), ("cancelled", ["done", "cancelled"]))
        self.failureResultOf(as_deferred(self.pulls.cancel(pull.id, "bob")), Conflict)
        self.failureResultOf(as_deferred(self.pulls.cancel("none", "bob")), NotFound)
        self.assertEqual(self.audited[1], ("log-pull-cancelled", "bob", pull.id))

    def test_what_breaks_off_by_being_cancelled_is_not_tried_again(self) -> None:
        self.fleet.add("se-1")
        asked = []

        async def page(after: int) -> tuple[SegmentPage, int]:
            asked.append(after)
            return await Deferred(lambda waiting: waiting.errback(Unavailable("it broke off its answer")))

        self.fleet.engines["se-1"].page = page  # type: ignore[method-assign]
        pull = self.begin("se-1")
        self.result(self.pulls.cancel(pull.id, "bob"))
        self.later(60)
        self.assertEqual((self.states(pull), asked), (["cancelled"], [0]))

    def test_one_pull_of_a_service_engine_at_a_time(self) -> None:
        self.fleet.add("se-1")
        self.fleet.gone.add("se-1")
        one, other = self.begin("se-1"), self.begin("se-1")
        self.later()
        self.fleet.gone.clear()
        self.later(5)
        self.assertEqual((self.engine(one).archived, self.engine(other).archived, self.engine(other).here), (2, 0, 2))

    def test_service_engines_take_turns_segment_by_segment(self) -> None:
        self.fleet.add("se-1", "se-2")
        self.pulls = self.made(at_once=1)
        order: list[str] = []
        opening: dict[str, list[Deferred[None]]] = {"se-1": [], "se-2": []}
        for id, engine in self.fleet.engines.items():
            original = engine.open

            async def open(manifest: Any, at: int, id: str = id, original: Any = original) -> Any:
                order.append(id)
                gate: Deferred[None] = Deferred()
                opening[id].append(gate)
                await gate
                return await original(manifest, at)

            engine.open = open  # type: ignore[method-assign]
        self.begin("se-1", "se-2")
        for _ in range(4):
            self.assertEqual(len(order), sum(map(len, opening.values())))
            opening[order[-1]][-1].callback(None)
        self.assertEqual(order, ["se-1", "se-2", "se-1", "se-2"])

    def test_so_many_pulls_at_once(self) -> None:
        for _ in range(driver.RUNNING):
            self.begin("se-9")
        self.failureResultOf(as_deferred(self.pulls.begin(LogPullOrder(ids=["se-9"]), ["se-9"], "ann")), TooMany)

    def test_the_oldest_are_forgotten_with_all_that_was_kept_of_them(self) -> None:
        self.fleet.unknown.add("se-9")
        first = self.begin("se-9")
        self.later()
        for _ in range(KEPT):
            self.begin("se-9")
            self.later(2)
        self.failureResultOf(as_deferred(self.pulls.show(first.id)), NotFound)
        for kind in (b"pulls/", b"pull-order/", b"pull-engine/"):
            self.assertEqual(len(self.result(self.store.range(kind)).entries), KEPT)
        found = self.result(self.pulls.latest(limit=10, before=""))
        self.assertEqual((len(found.items), bool(found.next)), (10, True))
        self.assertLess(self.result(self.pulls.latest(limit=1, before=found.next)).items[0].id, found.next)


class RestartTests(PullsCase):
    def test_one_that_ends_while_its_node_does_keeps_no_other_from_being_kept(self) -> None:
        self.fleet.unknown.add("se-9")
        self.fleet.gone.add("se-1")
        first, second = self.begin("se-1"), self.begin("se-1")
        records = self.pulls._records
        keep, waiting = records.keep, []

        async def slowly(*what: Any) -> None:
            if len(waiting) < 2:
                waiting.append(turn := Deferred[None]())
                await turn
            await keep(*what)

        self.patch(records, "keep", slowly)
        stopping = as_deferred(self.pulls.stop())
        self.pulls._running[first.id].end("cancelled")
        self.later()
        for each in reversed(waiting):
            each.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(list(self.pulls._running), [second.id])

    def restart(self) -> None:
        """The node ends and is started again."""
        self.result(self.pulls.stop())
        self.tasks.stop()
        self.tasks = Tasks()
        self.pulls = self.made()
        self.result(self.pulls.start())

    def test_a_pull_goes_on_by_itself_and_at_the_byte(self) -> None:
        self.fleet.add("se-1", "se-2", records=40)
        engine = self.fleet.engines["se-1"]
        engine.breaks = [500]
        self.fleet.faults["se-1"] = []
        pull = self.begin("se-1", "se-2")
        self.fleet.gone.add("se-1")
        self.later(2)
        self.assertEqual(self.states(pull), ["waiting", "done"])
        self.restart()
        self.fleet.gone.clear()
        self.later(3)
        found = self.seen(pull)
        self.assertEqual((found.pull.state, self.states(pull)), ("done", ["done", "done"]))
        self.assertEqual(found.pull.bytes, found.pull.size, "not a byte came twice")
        self.assertEqual(engine.opened[:2], [(1, 0), (1, 500)])

    def test_a_deadline_that_has_passed_meanwhile(self) -> None:
        pull = self.begin("se-9", deadline_s=10)
        self.later(1)
        self.result(self.pulls.stop())
        self.tasks.stop()
        self.later(60)
        self.tasks = Tasks()
        self.pulls = self.made()
        self.result(self.pulls.start())
        self.later(2)
        self.assertEqual((self.seen(pull).pull.state, self.states(pull)), ("done", ["unreachable"]))

    def test_a_store_that_is_away_does_not_stop_it_and_has_its_end_later(self) -> None:
        self.fleet.add("se-1")
        self.fleet.gone.add("se-1")
        pull = self.begin("se-1")
        self.later(2)
        self.store.unavailable = "no quorum"
        self.fleet.gone.clear()
        self.later(5)
        self.store.unavailable = ""
        self.later(5)
        self.pulls = self.made()
        self.assertEqual((self.seen(pull).pull.state, self.engine(pull).archived), ("done", 2))

    def test_a_second_of_a_pull_of_very_many_writes_little(self) -> None:
        self.fleet.add("se-1")
        self.fleet.gone.add("se-1")
        many = [f"se-{number:0>60}" for number in range(900)]
        pull = self.begin("se-1", *many)
        self.later(3)
        written: list[int] = []
        transact = self.store.transact

        async def counted(transaction: Transaction) -> Any:
            written.append(sum(len(each.value) for each in transaction.then if isinstance(each, Put)))
            return await transact(transaction)

        self.patch(self.store, "transact", counted)
        self.fleet.gone.clear()
        self.later(3)
        self.assertTrue(written)
        self.assertLess(max(written), 2000)
        self.fleet.gone.add("se-1")
        self.restart()
        self.assertEqual(len(self.seen(pull).engines), 901)
        self.assertEqual(len(self.seen(pull).pull.order.ids), 901)

    def test_what_an_older_version_has_written_goes_on(self) -> None:
        """It had the targets with how far it was."""
        self.fleet.add("se-1")
        order = LogPullOrder(ids=["se-1", "se-2"], budget_bytes=10**9)
        pull = LogPull(id="1-old", node="node-1", order=order, created=1e9, targets=2)
        old = msgspec.json.encode({"pull": pull, "targets": ["se-1", "se-2"]})
        self.result(self.store.transact(Transaction((), (Put(b"pulls/1-old", old),))))
        self.restart()
        self.later(3)
        self.assertEqual(self.states(pull), ["done", "waiting"])
        self.restart()
        self.assertEqual((self.states(pull), self.seen(pull).pull.order), (["done", "waiting"], order))

    def test_what_a_newer_version_has_written_does_not_stop_a_node(self) -> None:
        self.fleet.add("se-1")
        self.fleet.gone.add("se-1")
        pull = self.begin("se-1")
        self.later(2)
        odd = Put(b"pull-engine/%s/se-1" % pull.id.encode(), b'{"id":"se-1","colour":"red"}')
        self.result(self.store.transact(Transaction((), (odd, Put(b"pulls/9", b'{"colour":"red"}')))))
        self.restart()
        self.fleet.gone.clear()
        self.later(5)
        self.assertEqual(self.states(pull), ["done"])
        self.assertEqual(len(self.result(self.pulls.latest(limit=10, before="")).items), 1)

    def test_what_the_store_does_not_take_is_not_begun(self) -> None:
        self.fleet.add("se-1")
        self.store.unavailable = "no quorum"
        begun = as_deferred(self.pulls.begin(LogPullOrder(ids=["se-1"]), ["se-1"], "ann"))
        self.failureResultOf(begun, Unavailable)
        self.later()
        self.assertEqual(self.here.files(), [])


class FollowTests(PullsCase):
    def follow(self, pull: LogPull) -> list[LogPullSeen]:
        told: list[LogPullSeen] = []

        async def read(following: AsyncGenerator[LogPullSeen, None]) -> None:
            async for each in following:
                told.extend([each])

        self.tasks.spawn(read(self.result(self.pulls.follow(pull.id))), "reading")
        return told

    def test_what_changes_is_told_until_the_end(self) -> None:
        self.fleet.add("se-1")
        self.fleet.gone.add("se-1")
        pull = self.begin("se-1", "se-2")
        told = self.follow(pull)
        self.assertEqual([[each.id for each in line.engines] for line in told], [["se-1", "se-2"]])
        self.fleet.gone.clear()
        self.later(2)
        self.assertEqual([each.id for each in told[-1].engines], ["se-1"])
        self.assertEqual((told[-1].engines[0].state, told[-1].pull.ended), ("done", 1))
        self.result(self.pulls.cancel(pull.id, "ann"))
        self.later(2)
        self.assertEqual(told[-1].pull.state, "cancelled")
        self.assertEqual(self.follow(pull)[-1], self.seen(pull), "later there is one line of all of it")

    def test_the_end_is_told_at_once(self) -> None:
        self.fleet.add("se-1")
        self.fleet.gone.add("se-1")
        pull = self.begin("se-1", "se-2")
        told = self.follow(pull)
        self.fleet.gone.clear()
        self.later(2)
        self.assertEqual(told[-1].pull.state, "running")
        self.result(self.pulls.cancel(pull.id, "ann"))
        self.clock.pump([0.0] * 5)
        self.assertEqual(told[-1].pull.state, "cancelled")

    def test_rate_and_time_left(self) -> None:
        self.fleet.add("se-1", records=40)
        engine = self.fleet.engines["se-1"]
        engine.breaks = [400, 400]
        engine.sealed(3)
        pull = self.begin("se-1")
        self.clock.advance(1)
        seen = self.seen(pull).pull
        self.assertGreater(seen.bytes_per_s, 0)
        assert seen.left_s is not None
        self.assertAlmostEqual(seen.left_s, (seen.size - seen.there_bytes) / seen.bytes_per_s, delta=0.1)


class RetentionTests(PullsCase):
    def test_the_archive_stays_within_its_limits_whatever_the_disk_says(self) -> None:
        self.fleet.add("se-1")
        self.begin("se-1")
        self.later()
        self.assertEqual(len(self.here.files()), 2)
        failing: list[Exception] = []

        async def in_thread(work: Any) -> Any:
            if failing:
                raise failing.pop()
            return work()

        # whose records are of 2026, while this time of day is of 2001
        retention = Retention(
            self.clock, self.here.archive, self.here.incoming, in_thread, lambda: 1795000000.0, 10**9, 3600.0
        )
        keeping = self.tasks.spawn(retention.keep(), "keeping it")
        self.assertEqual(len(self.here.files()), 2)
        retention._limit_bytes = 1
        failing.append(LocalError("cannot read the folder"))
        self.clock.advance(60)
        self.assertEqual(len(self.here.files()), 2)
        self.clock.advance(60)
        self.assertEqual(self.here.files(), [])
        self.assertNoResult(keeping)


class RateTests(SynchronousTestCase):
    def test_it_is_that_of_the_last_seconds(self) -> None:
        rate = Rate(over_s=10)
        self.assertEqual(rate.at(100, 0), 0)
        self.assertEqual(rate.at(102, 200), 100)
        for second in range(103, 130):
            found = rate.at(second, 200)
        self.assertEqual(found, 0)
