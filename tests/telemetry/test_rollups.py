"""Rollups: what is added up is exact, whatever the order, the tier and the faults; what was not heard is a hole."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import Damaged, Invalid, TimedOut, TooLarge
from avinet.telemetry.rollups import reading
from avinet.telemetry.rollups.file import FLEET, NAME, SeriesFile
from avinet.telemetry.rollups.keeper import WAITING
from avinet.telemetry.rollups.reading import Wanted, read
from avinet.telemetry.rollups.settings import MIB, RollupSettings
from avinet.telemetry.rollups.shown import STEPS, step_of
from avinet.telemetry.rollups.slot import SLOT_BYTES, Slot, slot_at
from avinet.telemetry.rollups.sums import COARSE_S, FINE_S, MOST, PACKED_BYTES, kept, part_of, unpack_services
from avinet.wire.message import decode, encode
from avinet.wire.report import BUCKETS, REPORT_LIMIT_BYTES, Report, ServerTraffic, ServiceTraffic, histogram
from tests.telemetry.rollup_world import START, Did, Services, World, of, plainly, requests, shop, traffic

SHOP = ("", "shop", "")
dids = st.builds(
    lambda buckets, failed, open: Did(len(buckets), failed and bool(buckets), tuple(buckets), open),
    st.lists(st.integers(0, 399).map(lambda each: 5 * each), max_size=4),
    st.booleans(),
    st.integers(0, 9),
)
services = st.dictionaries(
    st.sampled_from(["shop", "mail", "news"]),
    st.dictionaries(st.sampled_from(["web/blue", "web/green", "old/blue"]), dids, min_size=1, max_size=3),
    max_size=3,
)
histories = st.lists(st.tuples(st.integers(0, 69), st.sampled_from(["se-1", "se-2", "se-3"]), services), max_size=25)
quickly = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


class Case(SynchronousTestCase):
    config = RollupSettings()

    @override
    def setUp(self) -> None:
        self.world = World(Path(self.mktemp()).absolute(), self.config)
        self.addCleanup(lambda: self.world.kill())


class ExactTests(SynchronousTestCase):
    """All that was reported, and nothing else, in any tier, for any choice, whenever the node was killed."""

    @quickly
    @given(histories, st.sampled_from([10, 20, 60, 300, 600]), st.booleans(), st.data())
    def test_what_is_read_is_what_was_reported(
        self, history: list[tuple[int, str, Services]], step_s: int, coarse: bool, data: st.DataObject
    ) -> None:
        folder = Path(self.mktemp()).absolute()
        file = SeriesFile(folder, 64 * MIB)
        latest = {(slot, id): done for slot, id, done in history}  # one report in a slot
        for slot in sorted({slot for slot, _ in latest}):
            gathered = Slot(START + FINE_S * slot)
            for (when, id), done in latest.items():
                if when == slot:
                    gathered.take(id, Report(seq=slot, boot="b", time=0, interval_s=10, traffic=traffic(done)))
            file.write(gathered.at, gathered.engines())
        if coarse:
            for at in file.due(START + data.draw(st.integers(0, 700))):
                for kind in (0, 1):
                    for part in {part_of(each) for each in ("shop", "mail", "news", "se-1", "se-2", "se-3")}:
                        file.make_coarse(at, kind, part)
                file.finish_coarse(at)
        file.close()
        by = data.draw(st.sampled_from(["", "virtual-service", "server", "service-engine"]))
        service = data.draw(st.sampled_from(["shop", "mail", ""]))
        engines = data.draw(st.none() | st.frozensets(st.sampled_from(["se-1", "se-2", "se-9"])))
        found = read(folder, Wanted(START, START + 1200, step_s, service=service, engines=engines, by=by))

        steps: dict[str, dict[int, set[int]]] = {}
        series: dict[tuple[str, str, str], dict[int, list[Did]]] = {}
        for (slot, id), done in latest.items():
            if engines is not None and id not in engines:
                continue
            group = id if by == "service-engine" else ""
            step = START + FINE_S * slot - FINE_S * slot % step_s
            steps.setdefault(group, {}).setdefault(step, set()).add(slot)
            for name, servers in done.items():
                if service and name != service:
                    continue
                shown = name if by == "virtual-service" else service
                for server, did in servers.items():
                    key = group, shown, server if by == "server" else ""
                    series.setdefault(key, {}).setdefault(step, []).append(did)
        self.assertEqual(set(found.series), set(series))
        for key, points in found.series.items():
            self.assertEqual(set(points), set(steps[key[0]]), "a step is there if and only if somebody was heard")
            for step, point in points.items():
                slots = len(steps[key[0]][step])
                expected = plainly([series[key].get(step, []), *[[]] * (slots - 1)])
                told = of(point)
                exact = (engines is None and by != "service-engine") or step_s < COARSE_S
                self.assertEqual(told[:3] + told[4:], expected[:3] + expected[4:])
                if exact:
                    self.assertAlmostEqual(told[3], expected[3])

    @quickly
    @given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.booleans()), max_size=12), st.integers(0, 12))
    def test_a_kill_loses_the_slot_of_now_alone_and_an_end_nothing(
        self, history: list[tuple[int, int, bool]], kill_at: int
    ) -> None:
        world = World(Path(self.mktemp()).absolute())
        written: Counter[int] = Counter()
        waiting: Counter[int] = Counter()
        for number, (seconds, count, again) in enumerate(history):
            world.pass_s(seconds)
            world.report("se-1", shop(count))
            at = int(world.wall() - START) // 10 * 10
            written.update({each: waiting.pop(each) for each in list(waiting) if each != at})
            waiting[at] += count
            if again:  # the answer was lost
                world.report("se-1", shop(count), seq=world._seq["se-1"])
            if number == kill_at:
                world.kill()
                waiting.clear()
                world.begin()
            elif again:
                world.end()
                written.update(waiting)
                waiting.clear()
                world.begin()
                world.report("se-1", shop(count), seq=world._seq["se-1"])
        world.end()
        found = requests(world.read(0, 600, service="shop")).get(SHOP, {})
        self.assertEqual({at: count for at, count in found.items() if count}, written + waiting)


class TierTests(Case):
    def test_a_step_is_there_when_somebody_was_heard_and_is_a_hole_when_nobody_was(self) -> None:
        world = self.world
        for services in (shop(3), {}, None, shop(4), {}):
            if services is not None:
                world.report("se-1", services)
            world.pass_s(10)
        self.assertEqual(requests(world.read(0, 50, service="shop")), {SHOP: {0: 3, 10: 0, 30: 4, 40: 0}})
        point = world.read(0, 60, 60, service="shop").series[SHOP][START]
        self.assertEqual((point.slots, point.reports), (4, 4))
        self.assertEqual(requests(world.read(0, 50, service="none")), {})

    def test_the_time_of_the_node_decides_and_a_clock_that_was_set_back_adds_to_what_is_there(self) -> None:
        world = self.world
        for slot in range(40):
            if slot != 2:
                world.report("se-1", shop(1))
            world.pass_s(10)
        world.set_back = 390.0
        for count in (100, 1000):
            world.report("se-1", shop(count))
            world.pass_s(10)
        self.assertEqual(requests(world.read(0, 40, service="shop"))[SHOP], {0: 1, 10: 101, 20: 1000, 30: 1})
        self.assertEqual(requests(world.read(0, 300, 300, service="shop"))[SHOP], {0: 1129})
        world.pass_s(350)
        assert world.rollups._file is not None
        self.assertEqual(world.rollups._file.due(START + 300), [])
        self.assertEqual(requests(world.read(0, 300, 300, service="shop"))[SHOP], {0: 1129}, "made anew")

    def test_of_several_reports_in_a_slot_the_last_one_knows_what_is_open(self) -> None:
        for open in (5, 2):
            self.world.report("se-1", shop(1, open=open))
        self.world.report("se-2", shop(1, open=7))
        self.world.pass_s(10)
        self.assertEqual(of(self.world.read(0, 10, service="shop").series[SHOP][START])[3], 9)

    def test_what_is_old_is_kept_by_five_minutes_and_then_not_at_all(self) -> None:
        world = self.world = World(Path(self.mktemp()).absolute(), RollupSettings(fine_age_s=3600, coarse_age_s=7200))
        world.report("se-1", shop(5))
        world.pass_s(10)
        world.report("se-1", shop(6))
        world.pass_s(3600)
        self.assertEqual(requests(world.read(0, 60, service="shop")).get(SHOP), {0: 5, 10: 6})
        world.report("se-1", shop(1))  # a node that hears nobody has nothing to forget
        world.pass_s(350)
        self.assertEqual(requests(world.read(0, 60, service="shop")), {})
        for by, key in (("", SHOP), ("service-engine", ("se-1", "shop", "")), ("server", ("", "shop", "web/blue"))):
            self.assertEqual(requests(world.read(0, 300, 300, service="shop", by=by)), {key: {0: 11}})
        world.pass_s(3600)
        world.report("se-1", shop(1))
        world.pass_s(350)
        self.assertEqual(requests(world.read(0, 300, 300, service="shop")), {})

    def test_what_is_not_coarse_yet_is_added_up_from_what_is_fine(self) -> None:
        for _ in range(45):
            self.world.report("se-1", shop(1))
            self.world.pass_s(10)
        self.assertEqual(requests(self.world.read(0, 600, 300, service="shop")), {SHOP: {0: 30, 300: 15}})

    def test_a_node_that_was_killed_while_it_made_the_coarse_tier_makes_it_anew(self) -> None:
        world = self.world
        for _ in range(30):
            world.report("se-1", {"shop": {"web/blue": Did(1)}, "mail": {"m/a": Did(2)}})
            world.pass_s(10)
        self.assertEqual(SeriesFile(world.folder, 64 * MIB).due(START + 300), [START], "the next slot makes it")
        world.kill()
        file = SeriesFile(world.folder, 64 * MIB)
        file.make_coarse(START, FLEET, part_of("mail"))
        file.close()
        world.begin()
        world.pass_s(60)
        self.assertEqual(SeriesFile(world.folder, 64 * MIB).due(START + 300), [])
        found = requests(world.read(0, 300, 300, by="virtual-service"))
        self.assertEqual(found, {SHOP: {0: 30}, ("", "mail", ""): {0: 60}})


class BoundTests(Case):
    """A service engine that lies costs its node so much and no more (H7)."""

    def test_what_one_report_is_kept_in(self) -> None:
        wide = histogram(dict.fromkeys(range(BUCKETS), 2**63 - 1))
        server = ServerTraffic(pool="p", server="s", requests=1, latency=histogram({3: 1}))
        few = [ServiceTraffic(name=f"vs-{number}", requests=2**63 - 1, servers=[server] * 900) for number in range(3)]
        many = [ServiceTraffic(name=f"vs-{number}", requests=1, latency=wide) for number in range(20)]
        names = [f"s-{number:060}" for number in range(1000)]
        servers = [ServerTraffic(pool="p" * 63, server=name, requests=1) for name in names]
        rich = [ServiceTraffic(name=f"vs-{number}", requests=7, servers=servers) for number in range(4)]
        for said, left in ((few, 1), (many, 0), (rich, 0)):
            packed = kept(said)
            self.assertLessEqual(len(packed), PACKED_BYTES)
            found = unpack_services(packed)
            self.assertEqual(
                [each.sums.counts[2] for each in found.values()], [min(each.requests, MOST) for each in said]
            )
            self.assertEqual({len(each.servers) for each in found.values()}, {left})
        self.assertEqual(unpack_services(kept(few))["vs-0"].servers["p/s"].latency, {5: 1}, "of servers, coarse")

    def test_no_count_overflows_what_it_is_packed_in(self) -> None:
        for _ in range(3):
            for number in range(40):
                most = ServiceTraffic(
                    name="shop", requests=2**63 - 1, bytes_out=2**63 - 1, latency=histogram({1: 2**62})
                )
                self.world.rollups.take(
                    f"se-{number}", Report(seq=1, boot="b", time=0.0, interval_s=1e300, traffic=[most])
                )
            self.world.pass_s(10)
        self.world.pass_s(350)
        point = self.world.read(0, 300, 300, service="shop").series[SHOP][START]
        self.assertEqual(of(point)[0], 3 * 40 * MOST)

    def test_all_reports_of_a_slot_have_so_much_room_and_what_has_none_is_told(self) -> None:
        wide = histogram(dict.fromkeys(range(BUCKETS), 1))
        said = [ServiceTraffic(name=f"vs-{number}", requests=1, latency=wide) for number in range(16)]
        body = encode(Report(seq=1, boot="b", time=0.0, interval_s=10.0, traffic=said))
        report = decode(body, Report, limit_bytes=REPORT_LIMIT_BYTES)
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(800):
                self.world.rollups.take(f"se-{number}", report)
            self.assertLess(tracemalloc.get_traced_memory()[0], SLOT_BYTES + 2 * MIB)
        finally:
            tracemalloc.stop()
        with capturedLogs() as logs:
            self.world.pass_s(10)
        told = [formatEvent(each) for each in logs if "too large for the rollups" in str(formatEvent(each))]
        self.assertEqual(len(told), 1)

    def test_a_disk_that_hangs_costs_slots_and_no_memory(self) -> None:
        stuck: Deferred[None] = Deferred()
        self.world.rollups._in_thread = lambda work: stuck.addCallback(lambda _: execute(work))
        with capturedLogs() as logs:
            for _ in range(WAITING + 4):
                self.world.report("se-1", shop(1))
                self.world.pass_s(10)
        self.assertEqual(len([each for each in logs if "too slow" in str(formatEvent(each))]), 2)
        self.assertEqual(len(self.world.rollups._waiting), WAITING)

    def test_an_answer_has_so_many_points_and_takes_so_long(self) -> None:
        for number in range(20):
            self.world.report(f"se-{number}", shop(1))
        self.world.pass_s(10)
        self.patch(reading, "POINTS", 19)
        self.assertRaises(TooLarge, self.world.read, 0, 10, service="shop", by="service-engine")
        self.assertEqual(len(self.world.read(0, 10, service="shop").series), 1)
        times = iter([0.0, 1000.0])
        wanted = Wanted(START, START + 10, 10, service="shop")
        self.assertRaises(TimedOut, read, self.world.folder, wanted, lambda: next(times))

    def test_the_file_has_its_cap_and_the_oldest_goes(self) -> None:
        folder = Path(self.mktemp()).absolute()
        file = SeriesFile(folder, 2 * MIB)
        self.addCleanup(file.close)
        for number in range(120):
            slot = Slot(START + 10 * number)
            for engine in range(40):
                names = [f"vs-{engine}-{number}-{one}" for one in range(20)]
                done: Services = {name: {"p/s": Did(3, buckets=(5, 10, engine * 5))} for name in names}
                slot.take(f"se-{engine}", Report(seq=1, boot="b", time=0.0, interval_s=10.0, traffic=traffic(done)))
            file.write(slot.at, slot.engines())
            self.assertLessEqual(file.used_bytes, 2 * MIB)
        self.assertLess(file.path.stat().st_size, 4 * MIB)
        found = read(folder, Wanted(START, START + 1200, 10, engines=frozenset(["se-1"])))
        ((_, points),) = found.series.items()
        self.assertEqual(max(points), START + 1190)
        self.assertEqual(sorted(points), list(range(min(points), START + 1200, 10)), "of one piece")
        self.assertGreater(min(points), START)


class FaultTests(Case):
    def report_for(self, slots: int) -> None:
        for _ in range(slots):
            self.world.report("se-1", shop(1))
            self.world.pass_s(10)

    def test_a_damaged_file_is_told_and_set_aside_and_the_node_starts(self) -> None:
        self.report_for(3)
        self.world.end()
        path = self.world.folder / NAME
        for damage in (b"this is no database at all" * 1000, path.read_bytes()[:4096] + bytes(20_000)):
            path.write_bytes(damage)
            with capturedLogs() as logs:
                self.world.begin()
                at = int(self.world.clock.seconds()) // 10 * 10
                self.report_for(2)
            told = [str(formatEvent(each)) for each in logs if "damaged" in str(formatEvent(each))]
            self.assertEqual(len(told), 1, told)
            self.assertIn(f"{NAME}.damaged has what there was", told[0])
            self.assertEqual((self.world.folder / f"{NAME}.damaged").read_bytes()[:20], damage[:20])
            self.assertEqual(requests(self.world.read(at, at + 20, service="shop")), {SHOP: {at: 1, at + 10: 1}})
            self.world.end()

    def test_a_part_that_is_damaged_is_no_answer_and_the_next_one_is_of_what_came_since(self) -> None:
        self.report_for(1)
        assert self.world.rollups._file is not None
        self.world.rollups._file._connection.execute("UPDATE parts SET data = x'00'")
        with capturedLogs() as logs:
            self.assertRaises(Damaged, self.world.read, 0, 100, service="shop")
            self.assertEqual(requests(self.world.read(0, 100, service="shop")), {})
            self.report_for(2)
        self.assertEqual(len([each for each in logs if "damaged" in str(formatEvent(each))]), 1)
        self.assertEqual(requests(self.world.read(0, 100, service="shop")), {SHOP: {10: 1, 20: 1}})

    def test_a_full_disk_is_told_once_and_goes_on_when_there_is_room(self) -> None:
        much: Services = {f"vs-{number}": {"p/s": Did(number)} for number in range(2000)}

        def report_for(slots: int) -> None:
            for _ in range(slots):
                self.world.report("se-1", shop(1) | much)
                self.world.pass_s(10)

        report_for(2)
        file = self.world.rollups._file
        assert file is not None
        file._connection.execute(f"PRAGMA max_page_count = {file._number('PRAGMA page_count')}")
        with capturedLogs() as logs:
            report_for(5)
        told = [str(formatEvent(each)) for each in logs if "not kept now" in str(formatEvent(each))]
        self.assertEqual(len(told), 1, told)
        self.assertIn("disk is full", told[0])
        file._connection.execute("PRAGMA max_page_count = 1000000")
        report_for(2)
        found = requests(self.world.read(0, 200, service="shop"))[SHOP]
        self.assertEqual(found, {0: 1, 10: 1, 70: 1, 80: 1}, "what was lost is a hole")

    def test_a_folder_that_cannot_be_used_does_not_keep_the_node_from_starting(self) -> None:
        self.world.end()
        file = Path(self.mktemp())
        file.write_bytes(b"a file")
        with capturedLogs() as logs:
            self.world = World(file.absolute() / "rollups")
            self.report_for(2)
        self.assertEqual(len([each for each in logs if "not kept now" in str(formatEvent(each))]), 1)
        self.world.end()

    def test_a_process_that_is_killed_while_it_writes_leaves_whole_slots(self) -> None:
        script = (
            "import sys; from pathlib import Path\n"
            "from tests.telemetry.rollup_world import *\n"
            "from avinet.telemetry.rollups.file import SeriesFile; from avinet.telemetry.rollups.slot import Slot\n"
            "file = SeriesFile(Path(sys.argv[1]), 1 << 26)\n"
            "for number in range(int(sys.argv[2]), 10000):\n"
            "    slot = Slot(START + 10 * number)\n"
            "    for engine in range(200):\n"
            "        said = traffic({'shop': {'web/blue': Did(1, buckets=(5 * number % 2000,))}})\n"
            "        slot.take(f'se-{engine}', Report(seq=1, boot='b', time=0.0, interval_s=1.0, traffic=said))\n"
            "    file.write(slot.at, slot.engines()); print(number, flush=True)\n"
        )
        folder, first = Path(self.mktemp()).absolute(), 0
        for round_ in range(4):
            with subprocess.Popen(
                [sys.executable, "-c", script, str(folder), str(first)], stdout=subprocess.PIPE
            ) as writer:
                assert writer.stdout is not None
                said = [int(writer.stdout.readline()) for _ in range(3 + round_)]
                writer.kill()
                said += [int(each) for each in writer.stdout.read().split()]
            wanted = Wanted(START, START + 100_000, 10, service="shop")
            points = read(folder, wanted).series[SHOP]
            self.assertLessEqual(set(range(said[-1] + 1)), {(at - START) // 10 for at in points})
            self.assertEqual({of(each)[0] for each in points.values()}, {200}, "each of them whole")
            first = len(points)


class StepTests(SynchronousTestCase):
    def test_the_step_that_fits(self) -> None:
        now, day = 1_800_000_000.0, 86400.0
        for since, step_s in (
            (600, 10),
            (3600, 30),
            (6 * 3600, 300),
            (day, 900),
            (3 * day, 3600),
            (31 * day, 43200),
        ):
            self.assertEqual(step_of(now - since, now, 0, now, day), step_s, since)
        self.assertEqual(step_of(now - 3 * day, now - 3 * day + 600, 0, now, day), 300)
        self.assertEqual(step_of(0, now, 0, now, day) % 86400, 0)

    def test_a_step_that_is_not_possible_is_refused(self) -> None:
        now, day = 1_800_000_000.0, 86400.0
        for since, step_s in ((3600, 15), (3600, 310), (3 * day, 60), (10.0 * (STEPS + 1), 10)):
            self.assertRaises(Invalid, step_of, now - since, now, step_s, now, day)

    @given(st.floats(0, 2**40))
    def test_every_time_is_in_one_slot(self, now: float) -> None:
        at = slot_at(now)
        self.assertTrue(at <= now < at + FINE_S)
        self.assertEqual(at % FINE_S, 0)
