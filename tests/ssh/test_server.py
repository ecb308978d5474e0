"""Who gets as far as the door: limits before the login, and what is said of those who are turned away."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from avinet.errors import TooMany
from avinet.flow.allowance import source_of
from avinet.ssh.gate import Gate, Limits
from avinet.ssh.phases import Stage
from avinet.ssh.server import Server, ServerTransport
from avinet.ssh.shown import shown_address
from tests.ssh.attacker import Siege
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, Pair, Recorder, Wires, line_of, logged_in


class Gates:
    """A gate with a clock and chance in the test's hands."""

    def __init__(self, limits: Limits, chance: float = 0.99, late_s: float = 0.0) -> None:
        self.now = 0.0
        self.chance = chance
        self.gate = Gate(limits, lambda: self.now, lambda: self.chance, lambda: late_s)

    def let_in(self, source: str, count: int) -> int:
        """How many of `count` peers of `source` may enter."""
        entered = 0
        for _ in range(count):
            try:
                self.gate.enter(source)
            except TooMany:
                continue
            entered += 1
        return entered

    def later(self, source: str) -> float:
        """When one more of `source` is asked to come back."""
        try:
            self.gate.enter(source)
        except TooMany as error:
            return error.retry_after_s
        raise AssertionError("it was let in")


class GateTests(SynchronousTestCase):
    """The count of those who are on their way in (S11)."""

    def test_so_many_in_all(self) -> None:
        gates = Gates(Limits(in_all=10, per_source=3))
        self.assertEqual(sum(gates.let_in(f"192.0.2.{n}", 1) for n in range(20)), 10)

    def test_so_many_of_one_source(self) -> None:
        gates = Gates(Limits())
        self.assertEqual(gates.let_in("192.0.2.1", 500), 200)
        self.assertEqual(gates.let_in("192.0.2.2", 1), 1)

    def test_a_source_where_someone_logged_in_within_a_day_may_bring_a_site(self) -> None:
        gates = Gates(Limits())
        gates.let_in("192.0.2.1", 1)
        gates.gate.leave("192.0.2.1", Stage.CONNECTED)
        self.assertEqual(gates.let_in("192.0.2.1", 900), 800)

    def test_after_a_day_it_is_as_any_other(self) -> None:
        gates = Gates(Limits())
        gates.let_in("192.0.2.1", 1)
        gates.gate.leave("192.0.2.1", Stage.CONNECTED)
        gates.now = 86401
        self.assertEqual(gates.let_in("192.0.2.1", 900), 200)

    def test_a_crowd_is_thinned_at_random_before_the_limit(self) -> None:
        gates = Gates(Limits(in_all=100, per_source=100, early=0.5), chance=0.2)
        entered = gates.let_in("192.0.2.1", 1000)
        self.assertEqual(entered, 61)

    def test_a_proven_source_is_not_thinned(self) -> None:
        gates = Gates(Limits(in_all=100, per_source=100), chance=0.0)
        gates.let_in("192.0.2.1", 1)
        gates.gate.leave("192.0.2.1", Stage.CONNECTED)
        self.assertEqual(gates.let_in("192.0.2.1", 1000), 100)

    def unfinished(self, gates: Gates, source: str, tries: int) -> int:
        """How many of `tries` peers of `source` get in that leave before they have finished a key exchange."""
        entered = 0
        for _ in range(tries):
            if gates.let_in(source, 1):
                entered += 1
                gates.gate.leave(source, Stage.OPENING)
        return entered

    def test_who_begins_key_exchanges_and_finishes_none_is_let_in_less_often(self) -> None:
        """(S12)"""
        gates = Gates(Limits())
        self.assertEqual(self.unfinished(gates, "192.0.2.1", 1000), 10)
        entered = 0
        for _ in range(100):
            gates.now += 0.1
            entered += self.unfinished(gates, "192.0.2.1", 100)
        self.assertLessEqual(entered, 41)
        self.assertEqual(gates.let_in("192.0.2.2", 100), 100, "nobody else has to wait")

    def test_those_who_came_in_together_are_counted_too(self) -> None:
        """(S12)"""
        gates = Gates(Limits())
        self.assertEqual(gates.let_in("192.0.2.1", 200), 200)
        for _ in range(200):
            gates.gate.leave("192.0.2.1", Stage.OPENING)
        gates.now += 10
        self.assertEqual(gates.let_in("192.0.2.1", 1), 0)
        gates.now += 1
        self.assertEqual(gates.let_in("192.0.2.1", 200), 200, "what is owed is soon paid")

    def test_a_site_of_500_behind_one_address_pays_nothing_for_coming_back_at_once_and_again(self) -> None:
        gates = Gates(Limits())
        gates.let_in("192.0.2.1", 1)
        gates.gate.leave("192.0.2.1", Stage.CONNECTED)
        for stage in (Stage.CONNECTED, Stage.LOGIN, Stage.SERVICE, Stage.CONNECTED):
            self.assertEqual(gates.let_in("192.0.2.1", 500), 500)
            for _ in range(500):
                gates.gate.leave("192.0.2.1", stage)

    def test_those_turned_away_come_back_one_after_the_other_and_none_too_late(self) -> None:
        gates = Gates(Limits(in_all=0, per_second=10, retry_after_s=2, most_retry_after_s=5))
        waits = [gates.later("192.0.2.1") for _ in range(40)]
        self.assertEqual([round(wait, 6) for wait in waits[:3]], [2.0, 2.1, 2.2])
        self.assertLessEqual(max(waits), 5)
        self.assertLessEqual(max(waits.count(wait) for wait in waits), 2)
        gates.now = 60
        self.assertEqual(gates.later("192.0.2.1"), 2.0)

    def test_a_server_that_is_late_takes_on_one_in_ten(self) -> None:
        gates = Gates(Limits(late_s=0.2), late_s=0.3, chance=0.5)
        self.assertEqual(gates.let_in("192.0.2.1", 100), 0)
        self.assertEqual(Gates(Limits(late_s=0.2), late_s=0.3, chance=0.05).let_in("192.0.2.1", 100), 100)
        self.assertEqual(Gates(Limits(late_s=0.2), late_s=0.1, chance=0.5).let_in("192.0.2.1", 100), 100)

    def test_what_is_remembered_is_bounded(self) -> None:
        gates = Gates(Limits())
        for number in range(10_050):
            source = f"source {number}"
            gates.gate.enter(source)
            gates.gate.leave(source, Stage.CONNECTED)
        self.assertEqual(len(gates.gate._proven), 10_000)
        self.assertEqual(gates.gate._by_source, {})

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
    def test_those_who_leave_make_room(self, events: list[tuple[str, bool]]) -> None:
        gates = Gates(Limits(in_all=5, per_source=3, per_proven_source=4))
        inside: list[str] = []
        for source, comes in events:
            if comes:
                inside += [source] * gates.let_in(source, 1)
            elif source in inside:
                inside.remove(source)
                gates.gate.leave(source, Stage.SERVICE if len(inside) % 2 else Stage.CONNECTED)
            self.assertEqual(len(gates.gate), len(inside))
            self.assertLessEqual(len(inside), 5)
            self.assertLessEqual(max(map(inside.count, "abc")), 4)

    def test_sources(self) -> None:
        self.assertEqual(source_of("192.0.2.1"), "192.0.2.1")
        self.assertEqual(source_of("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertEqual(source_of("2001:db8:1:2:3:4:5:6"), source_of("2001:db8:1:2:ffff::1"))
        self.assertNotEqual(source_of("2001:db8:1:2::1"), source_of("2001:db8:1:3::1"))
        self.assertEqual(source_of("fe80::1%eth0"), "fe80::/64")
        self.assertEqual(source_of(""), "")


class DoorTests(SynchronousTestCase):
    """The factory counts connections in and out, and turns away those who are too many (S11)."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.refusals: list[Any] = []
        self.factory = Server(
            self.clock,
            HOST_KEY,
            Guests(),
            Recorder,
            limits=Limits(in_all=3, per_source=2, early=1.0, retry_after_s=4),
            on_refused=self.refusals.append,
        )

    def dial(self, host: str) -> Protocol:
        return self.factory.buildProtocol(IPv4Address("TCP", host, 4711))

    def test_the_one_too_many_is_told_when_to_come_back(self) -> None:
        joined = [Wires(self.dial("192.0.2.1"), Protocol()) for _ in range(2)]
        self.assertEqual(self.factory.logging_in, 2)
        silent = Wires(self.dial("192.0.2.1"), Protocol())
        self.assertIn(b"retry-after=4", bytes(silent.left.out))
        self.assertTrue(bytes(silent.left.out).startswith(b"avinet: too many peers of this address"))
        self.assertIn(b"\r\nSSH-2.0-avinet", bytes(silent.left.out))
        silent.flush()
        self.assertFalse(silent.left.connected)
        self.assertEqual(self.factory.turned_away, 1)
        self.assertEqual([refusal.address for refusal in self.refusals], ["192.0.2.1:4711"])
        for wires in joined:
            wires.right.abortConnection()
            wires.flush()
        self.assertEqual(self.factory.logging_in, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_is_turned_away_and_does_not_read_is_dropped(self) -> None:
        wires = [Wires(self.dial(f"192.0.2.{n}"), Protocol()) for n in range(4)]
        self.clock.advance(2.1)
        self.assertTrue(wires[3].left.aborted)
        for each in wires:
            each.right.abortConnection()
            each.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_login_makes_room(self) -> None:
        pair = logged_in()
        self.assertEqual((pair.factory.logging_in, pair.factory.connections), (0, 1))
        pair.close()
        self.assertEqual((pair.factory.logging_in, pair.factory.connections), (0, 0))

    def test_a_peer_without_an_address_counts_only_in_all(self) -> None:
        inside = [Wires(self.factory.buildProtocol(UNIXAddress(b"/x")), Protocol()) for _ in range(4)]
        self.assertEqual(self.factory.logging_in, 3)
        self.assertEqual(self.factory.turned_away, 1)
        for wires in inside:
            wires.right.abortConnection()
            wires.flush()
        self.assertEqual(self.factory.connections, 0)

    def test_closing_the_server_closes_every_connection(self) -> None:
        pair = logged_in()
        half = Wires(pair.factory.buildProtocol(IPv4Address("TCP", "192.0.2.3", 1)), Protocol())
        pair.factory.close("the node stops")
        pair.flush()
        half.flush()
        self.assertEqual(pair.client.why, "it said: the node stops")
        self.assertFalse(half.left.connected)
        self.assertEqual(pair.clock.getDelayedCalls(), [])


class LogTests(SynchronousTestCase):
    """One line for a peer that was refused, none for one that behaved."""

    def lines(self, events: Any) -> list[str]:
        return [event["log_format"] for event in events if event["log_level"].name not in ("debug",)]

    def test_a_refused_peer_costs_one_line(self) -> None:
        with capturedLogs() as events:
            siege = Siege(admission=Guests(set()))
            siege.attacker.begin()
            for _ in range(13):
                siege.attacker.say(*siege.attacker.claim())
            siege.flush()
            siege.end()
        self.assertEqual(len(self.lines(events)), 1)
        event = next(event for event in events if event["log_level"].name == "warn")
        self.assertEqual(event["why"], "its key is not known for this user")
        self.assertEqual(event["user"], USER)
        self.assertTrue(event["key"].startswith("SHA256:"))

    def test_a_session_costs_none(self) -> None:
        with capturedLogs() as events:
            pair = logged_in()
            for _ in range(100):
                pair.client.sendPacket(94, b"data")
            pair.client.rekey()
            pair.flush()
            pair.close()
        self.assertEqual(list(events), [])

    def test_a_peer_that_only_looks_in_costs_none(self) -> None:
        with capturedLogs() as events:
            siege = Siege(keyed=False)
            siege.wires.right.abortConnection()
            siege.flush()
        self.assertEqual(list(events), [])

    def test_a_fault_after_the_login_costs_one(self) -> None:
        with capturedLogs() as events:
            siege = Siege()
            siege.log_in()
            siege.attacker.say(51)
            siege.flush()
            siege.end()
        self.assertEqual(len(self.lines(events)), 1)

    def test_addresses_as_they_are_shown(self) -> None:
        self.assertEqual(shown_address(IPv4Address("TCP", "192.0.2.1", 22)), "192.0.2.1:22")
        self.assertEqual(shown_address(IPv6Address("TCP", "2001:db8::1", 22)), "[2001:db8::1]:22")
        self.assertEqual(shown_address(None), "a tunnel")


class BalanceTests(SynchronousTestCase):
    """Whoever is let in leaves once, however the connection ends."""

    def test_every_end_of_a_connection_is_told_once(self) -> None:
        def abort(pair: Pair) -> None:
            pair.wires.right.abortConnection()

        def close(pair: Pair) -> None:
            pair.server.close("enough")

        def fault(pair: Pair) -> None:
            pair.client.sendPacket(51, b"")

        for end in (abort, close, fault):
            pair = logged_in()
            end(pair)
            pair.flush()
            pair.close()
            self.assertEqual([identity.public_key for identity in pair.admission.gone], [line_of(USER_KEY)])

    def test_nagle_is_off_and_keepalive_on_where_there_is_a_socket(self) -> None:
        class Socket(StringTransport):
            def __init__(self) -> None:
                super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.1", 22))
                self.options: dict[str, bool] = {}

            def setTcpNoDelay(self, enabled: bool) -> None:
                self.options["nodelay"] = enabled

            def setTcpKeepAlive(self, enabled: bool) -> None:
                self.options["keepalive"] = enabled

        socket = Socket()
        directlyProvides(socket, ITCPTransport)
        server = Server(Clock(), HOST_KEY, Guests(), Recorder).buildProtocol(None)
        assert isinstance(server, ServerTransport)
        server.makeConnection(socket)
        self.assertEqual(socket.options, {"nodelay": True, "keepalive": True})
