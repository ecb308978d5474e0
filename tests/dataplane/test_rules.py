"""Which server is next, which pool takes a request, and when a server counts as up: the rules as values."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.balance import Rise, in_service, least_connections, round_robin, route
from avinet.dataplane.counting import Counter
from avinet.wire.config import Route, VirtualService

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
        counter.ended(0.25, 204)
        counter.ended(0.5, 503)
        counter.ended(0.5, 999)
        taken = counter.take()
        assert taken is not None
        self.assertEqual((taken.requests, taken.status), (3, {"2xx": 1, "5xx": 1, "other": 1}))
        self.assertTrue(0.495 < taken.latency.percentile_s(0.5) < 0.505)
        again = counter.take()
        assert again is not None
        self.assertEqual((again.requests, again.connections, again.latency.count), (0, 1, 0))

    def test_the_end_of_the_last_connection_is_told(self) -> None:
        counter = Counter("web")
        counter.connections = counter.new_connections = 1
        counter.take()
        counter.connections = 0
        taken = counter.take()
        assert taken is not None
        self.assertEqual(taken.connections, 0)
        self.assertIsNone(counter.take())
