"""What a controller's real doors hold: a request that comes a thousand times, a store that cannot be written, strangers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import as_deferred
from tests.controller.test_doors import VERBS, doors, filled
from tests.enrolment.ledger import Ledger
from tests.enrolment.requests import Ask, Hands
from tests.enrolment.served_world import ServedWorld
from tests.enrolment.words import Reply, Said
from tests.enrolment.world import LIMITS, Wire
from tests.running import asynchronous

RIGHT = Ask(id=0, key=0, claim="last", of=0, generation=0, image=0, flaw="")


def in_a_thread(test: Callable[[Any], None]) -> Any:
    """A test that comes over sockets, in a thread of its own."""

    @asynchronous
    async def run(self: Any) -> None:
        await deferToThread(test, self)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class ServedTests(TestCase):
    timeout = 600

    @override
    def setUp(self) -> Any:
        self.world = ServedWorld(reactor)
        self.addCleanup(lambda: as_deferred(self.world.close()))
        return as_deferred(self.world.open())

    def begin(self) -> None:
        self.world.begin(2)
        self.hands = Hands(self.world.ids, self.world.images, self.world.authority)
        self.ledger = Ledger(dict.fromkeys(self.world.images, True), **LIMITS)

    def expected(self) -> tuple[Said, Wire]:
        """A right request of one that is expected."""
        id = self.world.ids[0]
        claimed = self.world.expect(id).claimed
        assert claimed is not None
        self.hands.claims[id].append(claimed.claim)
        return self.hands.said(RIGHT, self.ledger, *self.world.challenge())

    def enrolments(self) -> list[str]:
        """What was recorded of enrolments since the last look."""
        seen = self.world.look(self.world.ids, self.hands.prints)
        return [each.outcome for each in seen.recorded if each.kind == "enrolment"]

    @in_a_thread
    def test_a_request_that_comes_a_thousand_times_changes_one_thing(self) -> None:
        """(E1)"""
        self.begin()
        _, wire = self.expected()
        replies: list[Reply | None] = []
        for _ in range(200):
            replies += self.world.send([wire] * 5, (), frozenset())
        statuses = [each.status for each in replies if each]
        self.assertEqual((statuses.count(201), statuses.count(200)), (1, 999))
        self.assertEqual(len({each.body for each in replies if each}), 1)
        self.assertEqual(self.enrolments(), ["enrolled"])

    @in_a_thread
    def test_a_store_that_cannot_be_written_enrols_nobody_and_loses_nobody(self) -> None:
        """(E11)"""
        self.begin()
        said, wire = self.expected()
        before = self.world.look([said.id], [said.key])
        self.world.read_only(True)
        for _ in range(3):
            self.assertEqual(self.world.send([wire], (), frozenset()), [Reply(503)])
        self.world.read_only(False)
        after = self.world.look([said.id], [said.key])
        self.assertEqual((after.engines, after.owners, after.recorded), (before.engines, {}, []))
        [reply] = self.world.send([wire], (), frozenset())
        assert reply is not None
        self.assertEqual(reply.status, 201)
        self.assertEqual(self.enrolments(), ["enrolled"])

    @in_a_thread
    def test_no_door_opens_what_is_behind_another(self) -> None:
        """(E12) Without an identity at port 8443, and with that of a service engine through its tunnel."""
        self.begin()
        said, wire = self.expected()
        self.world.send([wire], (), frozenset())
        tunnel = self.world.dial(self.hands.keys[0])
        assert tunnel is not None
        self.world.hello(tunnel, "")
        before = self.world.look([said.id], [said.key])
        routes = doors()
        own = {door: {(each.method, filled(each.path)) for each in found} for door, found in routes.items()}
        asks: dict[str, Callable[[str, str], int]] = {
            "8443": self.world.knock,
            "control of a node": lambda verb, path: self.world.knock_through(tunnel.control, verb, path),
            "reports of a node": lambda verb, path: self.world.knock_through(tunnel.reports, verb, path),
        }
        paths = sorted({path for found in own.values() for _, path in found})
        verbs = [verb for verb in VERBS if verb.isupper() and verb != "CONNECT"]
        for door, ask in asks.items():
            for path in paths:
                for verb in verbs:
                    if (verb, path) not in own[door] and not (verb == "HEAD" and ("GET", path) in own[door]):
                        self.assertIn(ask(verb, path), (404, 405), (door, verb, path))
        after = self.world.look([said.id], [said.key])
        self.assertEqual((after.engines, after.owners, after.recorded), (before.engines, before.owners, []))
