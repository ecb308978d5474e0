"""Which server is next, which pool takes a request, and when a server counts as up: the rules as values."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.balance import Rise, in_service, least_connections, round_robin, route
from avinet.dataplane.counting import Counter
from avinet.wire.config import Route, VirtualService
from avinet.wire.report import COARSE

WEIGHTS = st.lists(st.integers(0, 256), min_size=1, max_size=8)


@dataclass
class Server:
    name: int
    weight: int
    active: int = 0
    current: int = 0


class BalanceTests(SynchronousTestCase):
    @given(WEIGHTS)
    def test_each_is_chosen_as_often_as_its_weight_says(self, weights: list[int]) -> None:
        servers = [Server(number, weight) for number, weight in enumerate(weights)]
        able = in_service(servers)
        for _ in range(sum(weights)):
            chosen = round_robin(able)
            assert chosen is not None
            chosen.active += 1
        self.assertEqual([each.active for each in servers], weights)
        self.assertEqual({each.current for each in servers}, {0})

    @given(WEIGHTS)
    def test_the_turns_of_one_are_spread_evenly(self, weights: list[int]) -> None:
        able = in_service([Server(number, weight) for number, weight in enumerate(weights)])
        total = sum(weights)
        for turn in range(1, total + 1):
            chosen = round_robin(able)
            assert chosen is not None
            chosen.active += 1
            for each in able:
                self.assertLess(abs(each.active - turn * each.weight / total), len(able))

    @given(WEIGHTS, st.data())
    def test_the_least_loaded_is_chosen(self, weights: list[int], data: st.DataObject) -> None:
        able = in_service(
            [Server(number, weight, data.draw(st.integers(0, 9))) for number, weight in enumerate(weights)]
        )
        chosen = least_connections(able)
        if chosen is None:
            self.assertEqual(able, [])
            return
        for each in able:
            self.assertLessEqual((chosen.active + 1) * each.weight, (each.active + 1) * chosen.weight)

    def test_of_none_there_is_none(self) -> None:
        self.assertEqual((round_robin([]), least_connections([])), (None, None))


class RouteTests(SynchronousTestCase):
    SERVICE = VirtualService(
        name="web",
        port=80,
        pool="rest",
        routes=[
            Route(pool="api", host="api.example.net"),
            Route(pool="cart", host="*.example.net", path="/cart"),
            Route(pool="six", host="2001"),
            Route(pool="static", path="/static/"),
        ],
    )

    def test_the_first_route_that_matches_wins(self) -> None:
        for host, path, pool in (
            ("api.example.net", "/cart", "api"),
            ("API.Example.Net:8080", "/", "api"),
            ("api.example.net.", "/", "rest"),
            ("shop.example.net", "/cart", "cart"),
            ("a.b.example.net", "/cart/1?x", "cart"),
            ("example.net", "/cart", "rest"),
            (".example.net", "/cart", "rest"),
            ("shop.example.net", "/cart?x=1", "cart"),
            ("shop.example.net", "/carts", "rest"),
            ("other", "/static", "static"),
            ("other", "/static/a", "static"),
            ("other", "/statics", "rest"),
            ("other", "/?/static/", "rest"),
            ("", "/static", "static"),
            ("[2001:db8::1]:80", "/", "rest"),
            ("other", "*", "rest"),
            ("other", "http://other/static/a?b", "static"),
            ("other", "http://other", "rest"),
            ("other", "http://other?/static", "rest"),
        ):
            self.assertEqual(route(self.SERVICE, host, path), pool, (host, path))

    @given(st.text(max_size=30), st.text(max_size=60))
    def test_whatever_is_asked_for_there_is_an_answer(self, host: str, path: str) -> None:
        self.assertIn(route(self.SERVICE, host, path), ("api", "cart", "six", "static", "rest"))


class RiseTests(SynchronousTestCase):
    @given(st.lists(st.booleans(), min_size=1), st.integers(1, 5), st.integers(1, 5))
    def test_it_changes_only_after_so_many_in_a_row(self, checks: list[bool], rise: int, fall: int) -> None:
        state = Rise()
        for number, passed in enumerate(checks):
            before, state = state, state.checked(passed, rise, fall)
            last = checks[max(0, number + 1 - (rise if passed else fall)) : number + 1]
            if before.up is None:
                self.assertEqual(state.up, passed)
            elif state.up != before.up:
                self.assertEqual((state.up, set(last)), (passed, {passed}))
            elif passed != state.up:
                self.assertLess(state.streak, rise if passed else fall)

    def test_one_failure_among_successes_changes_nothing(self) -> None:
        state = Rise(True)
        for passed in (False, False, True, False, False, True):
            state = state.checked(passed, 2, 3)
        self.assertEqual(state, Rise(True))


class CounterTests(SynchronousTestCase):
    def test_what_is_taken_is_counted_once(self) -> None:
        counter = Counter("web")
        counter.connections = counter.new_connections = 1
        counter.server("p", "a").ended(0.25, 204)
        counter.server("p", "b").ended(0.5, 503)
        counter.server("", "").ended(0.5, 999)
        taken = counter.take()
        assert taken is not None
        self.assertEqual((taken.requests, taken.status), (3, {"2xx": 1, "5xx": 1, "other": 1}))
        self.assertTrue(0.495 < taken.latency.percentile_s(0.5) < 0.505)
        again = counter.take()
        assert again is not None
        self.assertEqual((again.requests, again.connections, again.latency.count), (0, 1, 0))

    @given(
        st.lists(
            st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 999), st.floats(0, 1e4)), max_size=6),
            max_size=5,
        )
    )
    def test_servers_and_what_had_none_are_all_that_a_service_did(
        self, intervals: list[list[tuple[str, int, float]]]
    ) -> None:
        counter = Counter("web")
        for interval in intervals:
            for server, status, seconds in interval:
                counted = counter.server("p" if server else "", server)
                counted.ended(seconds, status)
                counted.bytes_out += status
            taken = counter.take()
            self.assertEqual(taken is None, not interval)
            if taken is None:
                continue
            self.assertEqual((taken.requests, taken.latency.count), (len(interval), len(interval)))
            servers = sorted({each[0] for each in interval} - {""})
            self.assertEqual([each.server for each in taken.servers], servers)
            for each in taken.servers:
                mine = [one for one in interval if one[0] == each.server]
                self.assertEqual((each.requests, each.latency.count), (len(mine), len(mine)))
                self.assertEqual(each.bytes_out, sum(status for _, status, _ in mine))
                slowest = max(seconds for _, _, seconds in mine)
                if slowest > 1e-5:
                    self.assertLess(abs(each.latency.percentile_s(1.0, COARSE) / slowest - 1), 0.05)

    def test_a_server_without_traffic_is_forgotten_and_one_with_a_connection_is_not(self) -> None:
        counter = Counter("web")
        counter.dialled("p", ["a", "b"]).connections += 1
        taken = counter.take()
        assert taken is not None
        self.assertEqual([(each.server, each.new_connections) for each in taken.servers], [("a", 1), ("b", 1)])
        taken = counter.take()
        assert taken is not None
        self.assertEqual([(each.server, each.connections) for each in taken.servers], [("b", 1)])
        counter.server("p", "b").connections -= 1
        taken = counter.take()
        assert taken is not None
        self.assertEqual([(each.server, each.connections) for each in taken.servers], [("b", 0)])
        self.assertIsNone(counter.take())
        self.assertEqual(counter.servers, {})

    def test_the_end_of_the_last_connection_is_told(self) -> None:
        counter = Counter("web")
        counter.connections = counter.new_connections = 1
        counter.take()
        counter.connections = 0
        taken = counter.take()
        assert taken is not None
        self.assertEqual(taken.connections, 0)
        self.assertIsNone(counter.take())
