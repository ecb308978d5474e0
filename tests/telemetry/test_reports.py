"""Reports: nothing is counted twice or lost while the tunnel comes and goes; changes of health go out at once."""

from __future__ import annotations

import gc
import random
import tracemalloc

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.dataplane.counting import Counter
from avinet.dataplane.interface import Dataplane
from avinet.errors import Invalid, Unavailable
from avinet.telemetry.fleet import BUCKETS as BUCKETS_KEPT
from avinet.telemetry.fleet import SERVERS, SERVICES, WINDOW_S, Fleet
from avinet.telemetry.reports import COALESCE_S, Reporter, add_up
from avinet.wire.certificates import CertificateState, CertificateVersion
from avinet.wire.config import ConfigState
from avinet.wire.message import decode, encode
from avinet.wire.report import (
    BUCKETS,
    COARSE,
    REPORT_LIMIT_BYTES,
    ExportState,
    Histogram,
    Report,
    ServerHealth,
    ServerTraffic,
    ServiceTraffic,
    bucket_of,
    histogram,
    merge,
)

INTERVAL_S = 10.0


def traffic(requests: int, seconds: float = 0.01) -> ServiceTraffic:
    return ServiceTraffic(
        name="web",
        connections=1,
        new_connections=requests,
        requests=requests,
        status={"2xx": requests},
        bytes_in=10 * requests,
        bytes_out=100 * requests,
        latency=histogram({bucket_of(seconds): requests}),
    )


class Plane(Dataplane):
    """A data plane of which the test says what it has seen."""

    name = "scripted"

    def __init__(self) -> None:
        self.seen: list[ServiceTraffic] = []
        self.state = "up"
        self.lost = 0

    async def traffic(self) -> list[ServiceTraffic]:
        seen, self.seen = self.seen, []
        return seen

    def lost_records(self) -> int:
        lost, self.lost = self.lost, 0
        return lost

    def health(self) -> list[ServerHealth]:
        return [ServerHealth(pool="p", server="a", state=self.state, since=1.0)]


class ReporterTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.plane, self.sent = Clock(), Plane(), list[Report]()
        self.fail = False
        self.elsewhere = 0
        self.exports: list[ExportState] = []
        self.certificates = CertificateState()
        self.reporter = Reporter(
            self.clock,
            self.plane,
            ConfigState,
            lambda: self.certificates,
            boot="b",
            interval_s=INTERVAL_S,
            wall=lambda: 1_000_000 + self.clock.seconds(),
            tasks=Tasks(),
            lost=self.lost_elsewhere,
            exports=lambda: self.exports,
        )
        self.addCleanup(self.reporter.stop)

    def lost_elsewhere(self) -> int:
        lost, self.elsewhere = self.elsewhere, 0
        return lost

    async def send(self, report: Report) -> None:
        if self.fail:
            raise Unavailable("the tunnel is gone")
        self.sent.append(report)

    def up(self) -> None:
        self.reporter.attach(self.send)
        self.clock.advance(COALESCE_S)

    def test_all_of_the_state_first_then_what_has_changed(self) -> None:
        self.up()
        self.clock.advance(INTERVAL_S)
        first, second = self.sent
        self.assertEqual((len(first.health or ()), first.config), (1, ConfigState()))
        self.assertEqual((second.health, second.config, second.traffic), (None, None, []))
        self.assertEqual((first.seq, second.seq, second.interval_s), (0, 1, INTERVAL_S))

    def test_a_change_of_health_goes_out_at_once_with_those_that_come_with_it(self) -> None:
        self.up()
        self.clock.advance(1)
        for state in ("down", "up", "down"):
            self.plane.state = state
            self.plane.changed()
        self.assertEqual(len(self.sent), 1)
        self.clock.advance(COALESCE_S)
        self.assertEqual([each.state for each in self.sent[-1].health or ()], ["down"])
        self.assertEqual(len(self.sent), 2)

    def test_what_is_held_of_certificates_is_told_at_first_and_at_once_when_it_changes(self) -> None:
        self.up()
        self.clock.advance(1)
        self.certificates = CertificateState(held=[CertificateVersion(name="shop", revision=1, sha256="0" * 64)])
        self.reporter.changed()
        self.clock.advance(COALESCE_S)
        self.clock.advance(INTERVAL_S)
        self.assertEqual([each.certificates for each in self.sent], [CertificateState(), self.certificates, None])

    def test_exports_are_told_where_there_are_any_and_when_they_change(self) -> None:
        self.up()
        self.clock.advance(INTERVAL_S)
        self.exports = [ExportState(name="out", kind="syslog", what="all", sent=1)]
        self.clock.advance(INTERVAL_S)
        self.clock.advance(INTERVAL_S)
        self.assertEqual([each.exports for each in self.sent], [None, None, self.exports, None])
        self.reporter.attach(None)
        self.up()
        self.assertEqual(self.sent[-1].exports, self.exports)

    def test_counts_are_late_and_never_lost_nor_counted_twice(self) -> None:
        self.up()
        total = 0
        for step in range(1, 12):
            self.fail = step % 3 != 0
            self.plane.seen, self.plane.lost, self.elsewhere = [traffic(step, step / 1000)], 1, 10
            total += step
            self.clock.advance(INTERVAL_S)
        self.fail = False
        self.clock.advance(INTERVAL_S)
        said = [each for report in self.sent for each in report.traffic]
        self.assertEqual(sum(each.requests for each in said), total)
        self.assertEqual(sum(each.status["2xx"] for each in said), total)
        self.assertEqual(merge(each.latency for each in said).count, total)
        self.assertEqual(sum(report.lost_records for report in self.sent), 11 + 110)

    def test_one_without_an_answer_is_sent_again_as_it_was_with_the_state_of_now(self) -> None:
        tried: list[Report] = []

        async def lose(report: Report) -> None:
            tried.append(report)
            raise Unavailable("the answer is lost")

        self.plane.seen, self.plane.lost = [traffic(3)], 1
        self.reporter.attach(lose)
        self.clock.advance(COALESCE_S)
        self.plane.seen, self.plane.state = [traffic(4)], "down"
        self.clock.advance(INTERVAL_S)
        self.assertEqual([each.seq for each in tried], [0, 0])
        self.assertEqual([each.traffic for each in tried], [[traffic(3)]] * 2)
        self.assertEqual([(each.lost_records, each.interval_s) for each in tried], [(1, COALESCE_S)] * 2)
        self.assertEqual([each.health[0].state for each in tried if each.health], ["up", "down"])
        self.up()
        self.assertEqual([(each.seq, each.traffic) for each in self.sent], [(0, [traffic(3)]), (1, [traffic(4)])])
        self.assertEqual(self.sent[1].interval_s, INTERVAL_S + COALESCE_S)

    def test_more_than_a_report_holds_comes_with_the_next_ones_and_all_of_it_does(self) -> None:
        every = histogram(dict.fromkeys(range(0, BUCKETS, COARSE), 1))
        server = ServerTraffic(pool="p" * 63, server="s", requests=400, latency=every)
        servers = [msgspec.structs.replace(server, server=f"s-{number:060}") for number in range(2500)]
        wide = histogram(dict.fromkeys(range(BUCKETS), 1))
        others = [msgspec.structs.replace(traffic(1), name=f"vs-{number}", latency=wide) for number in range(40)]
        self.plane.seen = [msgspec.structs.replace(traffic(7), servers=servers), *others]
        self.up()
        while len(self.sent) < 60 and (len(self.sent) < 2 or self.sent[-1].traffic):
            self.clock.advance(INTERVAL_S)
        self.assertEqual(self.sent[-1].traffic, [])
        for each in self.sent:
            decode(encode(each), Report, limit_bytes=REPORT_LIMIT_BYTES)
        total: list[ServiceTraffic] = []
        for each in self.sent:
            total = add_up(total, each.traffic)
        self.assertEqual({each.name: each.requests for each in total}, {"web": 7} | {each.name: 1 for each in others})
        web = next(each for each in total if each.name == "web")
        self.assertEqual({each.server: each.requests for each in web.servers}, {each.server: 400 for each in servers})
        self.assertEqual(len(web.servers), 2500)

    def test_an_ordinary_report_is_a_few_kilobits_a_second(self) -> None:
        """Three virtual services of four servers, 30 requests a second, with latencies from 1 to 500 ms."""
        pick = random.Random(7)
        seen = []
        for service in range(3):
            counter = Counter(f"service-{service}")
            counter.connections, counter.new_connections = 12, 40
            counter.bytes_in, counter.bytes_out = 123_456, 12_345_678
            for _ in range(100):
                counted = counter.dialled(f"pool-{service}", [f"server-{pick.randrange(4)}"])
                counted.ended(min(0.5, 0.001 + pick.lognormvariate(-4.5, 1.0)), pick.choice([200] * 9 + [404]))
                counted.bytes_in, counted.bytes_out = counted.bytes_in + 321, counted.bytes_out + 54_321
            taken = counter.take()
            assert taken is not None
            seen.append(taken)
        self.plane.seen = seen
        self.up()
        size = len(encode(self.sent[0]))
        self.assertLess(size * 8 / INTERVAL_S, 8_000, size)

    def test_a_new_tunnel_hears_all_of_the_state_again(self) -> None:
        self.up()
        self.reporter.attach(None)
        self.clock.advance(3 * INTERVAL_S)
        self.assertEqual(len(self.sent), 1)
        self.up()
        self.assertEqual(len(self.sent[-1].health or ()), 1)

    def test_a_node_that_is_slow_to_answer_gets_one_at_a_time(self) -> None:
        answers: list[Deferred[None]] = []

        async def slow(report: Report) -> None:
            self.sent.append(report)
            answers.append(Deferred())
            await answers[-1]

        self.reporter.attach(slow)
        self.clock.advance(COALESCE_S)
        self.clock.pump([INTERVAL_S] * 5)
        self.assertEqual(len(self.sent), 1)
        answers[0].callback(None)
        self.clock.advance(INTERVAL_S)
        self.assertEqual(len(self.sent), 2)
        answers[1].callback(None)


class FleetTests(SynchronousTestCase):
    def report(self, **rest: object) -> Report:
        return Report(seq=0, boot="b", time=0.0, interval_s=10.0, **rest)

    def test_what_a_report_leaves_out_has_not_changed(self) -> None:
        fleet = Fleet()
        health = [ServerHealth(pool="p", server="a", state="down", since=0.0)]
        fleet.take("se-1", self.report(health=health, traffic=[traffic(3)]), 0.0)
        fleet.take("se-1", self.report(traffic=[traffic(4)]), 10.0)
        self.assertEqual((fleet.get("se-1").down, fleet.servers()), (1, (0, 1)))
        self.assertEqual(fleet.get("se-1").health, health)
        self.assertEqual([each.requests for each in fleet.get("se-1").traffic(10.0)], [7])
        self.assertEqual([each.requests for each in fleet.get("se-1").traffic(WINDOW_S + 5)], [4])
        exports = [ExportState(name="out", kind="otlp", what="significant", lost={"full": 7})]
        fleet.take("se-1", self.report(exports=exports), 10.0)
        fleet.take("se-1", self.report(), 20.0)
        self.assertEqual(fleet.get("se-1").exports, exports)
        fleet.forget("se-1")
        self.assertEqual((fleet.get("se-1").traffic(10.0), fleet.servers()), ([], (0, 0)))


class FloodTests(SynchronousTestCase):
    """A service engine that says more than it can have: tables are bounded, the rest is counted as `other` (H7)."""

    MEMORY_BYTES = 24 * 1024 * 1024
    """What the worst of all service engines costs its node."""

    def setUp(self) -> None:
        self.fleet = Fleet()

    def take(self, now: float, **rest: object) -> None:
        """One report, as it comes over the wire."""
        whole = encode(Report(seq=0, boot="b", time=0.0, interval_s=10.0, **rest))
        self.assertLess(len(whole), REPORT_LIMIT_BYTES)
        self.fleet.take("se-1", decode(whole, Report, limit_bytes=REPORT_LIMIT_BYTES), now)

    def named(self, name: str, requests: int = 1, latency: Histogram | None = None) -> ServiceTraffic:
        return ServiceTraffic(
            name=name, requests=requests, status={"2xx": requests}, latency=latency or histogram({100: requests})
        )

    def test_distinct_virtual_services(self) -> None:
        for batch in range(20):
            self.take(float(batch), traffic=[self.named(f"vs-{batch}-{number}") for number in range(1000)])
        shown = self.fleet.get("se-1").traffic(20.0)
        self.assertEqual(len(shown), SERVICES)
        self.assertEqual(len({each.name for each in shown}), SERVICES)
        self.assertEqual([each.name for each in shown].count("other"), 1)
        self.assertEqual(sum(each.requests for each in shown), 20_000)
        self.assertEqual(sum(each.status["2xx"] for each in shown), 20_000)
        self.assertEqual(merge(each.latency for each in shown).count, 20_000)

    def test_those_that_were_there_before_keep_their_names(self) -> None:
        self.take(0.0, traffic=[self.named("shop", 7)])
        self.take(1.0, traffic=[self.named(f"vs-{number}") for number in range(1000)])
        self.take(2.0, traffic=[self.named("shop", 8)])
        shown = {each.name: each for each in self.fleet.get("se-1").traffic(3.0)}
        self.assertEqual(shown["shop"].requests, 15)

    def test_one_that_is_called_other_is_no_exception(self) -> None:
        self.take(0.0, traffic=[self.named(name) for name in ("other", *(f"vs-{number}" for number in range(999)))])
        shown = {each.name: each for each in self.fleet.get("se-1").traffic(1.0)}
        self.assertEqual((len(shown), shown["other"].requests), (SERVICES, 1000 - (SERVICES - 1)))

    def test_distinct_latencies(self) -> None:
        every = histogram(dict.fromkeys(range(2000), 1))
        for batch in range(20):
            self.take(float(batch), traffic=[self.named(f"vs-{number}", 2000, every) for number in range(30)])
        shown = self.fleet.get("se-1").traffic(20.0)
        self.assertLessEqual(sum(len(each.latency.buckets) for each in shown), BUCKETS_KEPT)
        self.assertEqual(sum(each.requests for each in shown), 20 * 30 * 2000)
        self.assertEqual(merge(each.latency for each in shown).count, 20 * 30 * 2000)

    def health(self, first: int, count: int, state: str = "up") -> list[ServerHealth]:
        return [
            ServerHealth(pool="p", server=f"s-{number}", state=state, since=1.0)  # type: ignore[arg-type]
            for number in range(first, first + count)
        ]

    def test_distinct_servers(self) -> None:
        for batch in range(5):
            self.take(0.0, health=self.health(10_000 * batch, 10_000, "down" if batch % 2 else "up"))
        latest = self.fleet.get("se-1")
        self.assertEqual((len(latest.health), latest.up, latest.down), (SERVERS + 1, 10_000, 0))
        self.assertEqual(latest.health[-1].why, "5000 more servers")
        self.assertEqual(self.fleet.servers(), (10_000, 0))

    def test_one_server_many_times(self) -> None:
        self.take(0.0, health=self.health(1, 1) * 10_000 + self.health(1, 1, "down"))
        self.assertEqual(self.fleet.servers(), (0, 1))

    def test_all_of_it_at_once_and_for_minutes_costs_so_much_and_no_more(self) -> None:
        every = histogram(dict.fromkeys(range(1500), 1))
        self.take(0.0, health=self.health(0, 10_000))
        gc.collect()
        tracemalloc.start()
        try:
            for second in range(0, 90, 5):
                services = [self.named(f"vs-{second}-{number}", 1, every) for number in range(8)]
                few = [self.named(f"vs-{second}-{number}") for number in range(8, 500)]
                self.take(float(second), traffic=[*services, *few])
                self.take(float(second), health=self.health(second * 1000, 10_000))
            gc.collect()
            self.assertLess(tracemalloc.get_traced_memory()[0], self.MEMORY_BYTES)
        finally:
            tracemalloc.stop()

    def test_what_is_too_long_is_refused_whole(self) -> None:
        for state in (
            {"refused": {"revision": 1, "sha256": "0" * 64}, "reason": "x" * 4097},
            {"applied": {"revision": 1, "sha256": "0" * 65}},
        ):
            said = msgspec.json.encode({"seq": 0, "boot": "b", "time": 0, "interval_s": 1, "config": state})
            self.assertRaises(Invalid, decode, said, Report, limit_bytes=REPORT_LIMIT_BYTES)


class HistogramTests(SynchronousTestCase):
    def test_percentiles_are_within_one_percent_also_when_merged(self) -> None:
        values = [0.0001 * 1.01**number for number in range(1000)]
        counts: dict[int, int] = {}
        for value in values:
            counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
        halves = [histogram({index: count for index, count in counts.items() if index % 2 == half}) for half in (0, 1)]
        for each in (histogram(counts), merge(halves)):
            for fraction in (0.01, 0.5, 0.9, 0.99, 1.0):
                exact = values[int(fraction * (len(values) - 1))]
                self.assertLess(abs(each.percentile_s(fraction) / exact - 1.0), 0.0101)
        self.assertEqual(Histogram().percentile_s(0.5), 0.0)

    def test_a_bucket_that_cannot_be_is_refused_and_none_is_ever_made(self) -> None:
        self.assertEqual([bucket_of(each) for each in (0.0, -1.0, 1e-6, 1e300)], [0, 0, 0, BUCKETS - 1])
        self.assertGreater(histogram({BUCKETS - 1: 1}).percentile_s(0.5), 1e9)
        whole = encode(Report(seq=0, boot="b", time=0.0, interval_s=1.0, traffic=[traffic(1)]))
        decode(whole, Report, limit_bytes=REPORT_LIMIT_BYTES)
        for bad in (b"[[2000,1]]", b"[[-1,1]]", b"[[1,-1]]", b"[[1.5,1]]", b"[[1]]", b"[1]"):
            start = whole.index(b'"buckets":') + len(b'"buckets":')
            text = whole[:start] + bad + whole[whole.index(b"]]", start) + 2 :]
            self.assertRaises(Invalid, decode, text, Report, limit_bytes=REPORT_LIMIT_BYTES)
