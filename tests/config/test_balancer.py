"""The load balancer in memory and the built-in proxy do alike what the applier relies on."""

from __future__ import annotations

import socket

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.dataplane.builtin import BuiltIn
from tests.config.balancer import TAKEN_PORT, Balancer, BalancerContract


class BalancerTests(BalancerContract, TestCase):
    free = [80, 81]
    taken = TAKEN_PORT

    @override
    def setUp(self) -> None:
        self.balancer = Balancer()

    @override
    def served(self) -> set[int]:
        assert self.balancer.running is not None
        return {each.port for each in self.balancer.running.virtual_services}


class BuiltInTests(BalancerContract, TestCase):
    @override
    def setUp(self) -> None:
        held = [socket.create_server(("", 0)) for _ in range(3)]
        ports = [each.getsockname()[1] for each in held]
        self.free, self.taken = ports[:2], ports[2]
        for each in held[:2]:
            each.close()
        self.addCleanup(held[2].close)
        self.balancer = BuiltIn(reactor)
        self.addCleanup(lambda: ensureDeferred(self.balancer.shut_down(0)))

    @override
    def served(self) -> set[int]:
        return {port for port in self.free if self._answers(port)}

    def _answers(self, port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True
