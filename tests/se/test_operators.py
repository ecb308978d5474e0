"""Who logs in to a service engine's SSH service: nodes, and operators for five minutes."""

from __future__ import annotations

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import Forbidden, Invalid, TooMany
from avinet.se.operators import KEYS, LIFE_S, USER, OperatorKeys
from avinet.trust import keys
from avinet.wire.command import OperatorKey
from avinet.wire.trust import Node


def line() -> str:
    return keys.public_line(keys.generate())


class OperatorKeysTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.node_key = line()
        node = Node(
            id="node-1",
            name="node-1.d.avinet.internal",
            https=["127.0.0.1:8443"],
            ssh=["127.0.0.1:22"],
            ssh_host_keys=[line()],
            avictlruser_keys=[self.node_key],
        )
        self.nodes = [node]
        self.keys = OperatorKeys(lambda: self.nodes, self.clock.seconds)

    def admitted(self, life_s: float = LIFE_S, operator: str = "ann") -> str:
        key = OperatorKey(public_key=line(), operator=operator, expires=self.clock.seconds() + life_s)
        self.keys.admit_until(key)
        return key.public_key

    def login(self, key: str, user: str = USER) -> str:
        return self.successResultOf(ensureDeferred(self.keys.admit(user, key, "tunnel")))

    def refused(self, key: str, user: str = USER) -> None:
        self.assertFalse(self.keys.known(user, key))
        self.failureResultOf(ensureDeferred(self.keys.admit(user, key, "tunnel")), Forbidden)

    def test_a_key_is_its_operator_s_and_dies_after_five_minutes(self) -> None:
        key = self.admitted(operator="ann")
        self.assertEqual(self.login(key), "ann")
        self.clock.advance(LIFE_S - 0.1)
        self.assertTrue(self.keys.known(USER, key))
        self.assertEqual(self.login(key), "ann")
        self.clock.advance(0.1)
        self.refused(key)

    def test_no_key_lives_longer_and_none_that_is_dead_is_taken(self) -> None:
        for life_s in (LIFE_S + 31, 0.0, -1.0):
            self.assertRaises(Invalid, self.admitted, life_s)

    def test_a_stranger_and_another_user_are_refused(self) -> None:
        self.refused(line())
        self.refused(self.admitted(), "root")
        self.refused(self.node_key, "aviseuser")

    def test_a_node_logs_in_for_as_long_as_it_is_one(self) -> None:
        self.clock.advance(10 * LIFE_S)
        self.assertEqual(self.login(self.node_key), "node node-1")
        self.nodes = []
        self.refused(self.node_key)

    def test_keys_are_bounded_and_dead_ones_make_room(self) -> None:
        first = [self.admitted() for _ in range(KEYS)]
        self.assertRaises(TooMany, self.admitted)
        self.keys.admit_until(OperatorKey(public_key=first[0], operator="bob", expires=self.clock.seconds() + LIFE_S))
        self.assertEqual(self.login(first[0]), "bob")
        self.clock.advance(LIFE_S)
        self.assertEqual(self.login(self.admitted(operator="eve")), "eve")
