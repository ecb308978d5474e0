"""Ten thousand enrolments, retries, replays, resets and clones at a controller as it is served: I1 to I6 after each."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.controller.sessions import Sessions
from avinet.enrolment import engines, registrar
from avinet.store.interface import Put, Transaction
from tests.enrolment.machine import drive
from tests.enrolment.served_world import ServedWorld
from tests.running import asynchronous

ACTS = int(os.environ.get("AVINET_ACTS", "10000"))
COUNTED = ("enrolments", "retries", "replays", "resets", "clones")
ROUND = 50
UNHURRIED = {"suppress_health_check": tuple(HealthCheck)}


class ServedCase(TestCase):
    timeout = 3600

    @override
    def setUp(self) -> Any:
        self.world = ServedWorld(reactor)
        self.addCleanup(lambda: as_deferred(self.world.close()))
        return as_deferred(self.world.open())


class EnrolmentsTests(ServedCase):
    @asynchronous
    async def test_the_invariants_hold_after_each_of_thousands(self) -> None:
        acts: Counter[str] = Counter()
        rounds = 0
        while sum(acts[kind] for kind in COUNTED) < ACTS:
            acts += await deferToThread(drive, self.world, ROUND, rounds, **UNHURRIED)
            rounds += 1
        print(", ".join(f"{count} {kind}" for kind, count in acts.most_common()))
        for kind in (*COUNTED, "logins", "rotations", "restarts"):
            self.assertGreater(acts[kind], 0, kind)
        await deferToThread(self.world.verify)


class FaultTests(ServedCase):
    """The machine finds what is wrong."""

    async def fails(self, what: str) -> None:
        """It ends with an error that says `what`."""
        options = {"phases": (Phase.generate,), "verbosity": Verbosity.quiet, "derandomize": True, "database": None}
        try:
            await deferToThread(drive, self.world, 100, **UNHURRIED, **options)
        except AssertionError as error:
            self.assertRegex(str(error), what)
        else:
            self.fail("it was not found")

    @asynchronous
    async def test_two_enrolments_between_the_look_and_the_transaction(self) -> None:
        self.patch(registrar, "Transaction", lambda conditions, then: Transaction((), then))
        await self.fails("no order of these|recorded")

    @asynchronous
    async def test_a_change_without_a_record(self) -> None:
        self.patch(engines, "put_audit", lambda record: Put(b"nowhere", b""))
        await self.fails("recorded")

    @asynchronous
    async def test_a_tunnel_that_outlives_its_key(self) -> None:
        self.patch(Sessions, "cut_off", lambda sessions, session, why: None)
        await self.fails("I4")
