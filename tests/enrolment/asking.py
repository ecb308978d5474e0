"""Requests for enrolments in a world, one by one and at once, and how their answers are judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from avinet.wire.enrolment import EnrolmentRequest, Receipt
from avinet.wire.message import decode
from tests.enrolment.ledger import Ledger
from tests.enrolment.requests import IDS, KEYS, Ask, Hands, asks, ids, key_numbers
from tests.enrolment.ways import Happened, Trail, differs, ways
from tests.enrolment.words import Answer, Reply, Said
from tests.enrolment.world import LIMITS, Look, Wire, World


class Requests(RuleBasedStateMachine):
    """The part of a machine that asks for enrolments, and compares what was answered with what is true.

    `world` is set by whoever runs it; `acts` counts what was done, by its kind.

    `wrong` is what was found to be wrong first: it may not come again where things really happen at once.
    """

    world: ClassVar[World]
    acts: ClassVar[Counter[str]]
    wrong: ClassVar[list[str]]

    def must(self, right: object, why: str) -> None:
        """Fail, and say why, unless it is right."""
        if not right:
            self.wrong.append(why)
            raise AssertionError(why)

    @initialize()
    def begin(self) -> None:
        self.world.begin(IDS)
        self.ids = self.world.ids
        self.hands = Hands(self.ids, self.world.images, self.world.authority)
        self.prints = self.hands.prints
        self.ledger = Ledger(dict.fromkeys(self.world.images, True), **LIMITS)
        self.trail = Trail()
        self.sent: list[tuple[Said, Wire]] = []
        self.secrets: dict[int, list[str]] = {key: [""] for key in range(KEYS)}
        """What a disk with this key remembers of its hellos; the older ones are copies of it."""
        self.tunnels: dict[str, tuple[Any, str, int]] = {}
        self.rotations: Counter[str] = Counter()
        self.passed_s = 0.0
        self.since_restart = 0
        self.next_retry = 0
        self.seen = self.world.look(self.ids, self.prints)

    def teardown(self) -> None:
        if hasattr(self, "seen"):
            self.world.end()

    # what has happened

    def happened(self, found: list[Happened]) -> Look:
        """One of these has: the one that the store and the audit log bear out (I1, I2, I5)."""
        look = self.world.look(self.ids, self.prints)
        wrong = [(each.lacks(look.recorded) or differs(each.ledger, look, self.ids), each) for each in found]
        right = [each for said, each in wrong if not said]
        self.must(right, "\n".join(said for said, _ in wrong))
        self.ledger, self.seen = right[0].noted(), look
        for record in look.recorded:
            self.trail.follow(record)
        return look

    def done(self, ledger: Ledger, answer: Answer, status: int) -> None:
        """An operator or a tunnel has done something, and was answered so."""
        self.must(status == answer.status, f"{status}, and not {answer}")
        self.happened([Happened(ledger, answer.records, answer.alarms)])

    # requests

    def said(self, ask: Ask, challenge: tuple[str, float] | None = None) -> tuple[Said, Wire]:
        """The request that was drawn."""
        return self.hands.said(ask, self.ledger, *(challenge or self.world.challenge()))

    def send(
        self, sent: Sequence[tuple[Said, Wire]], order: Sequence[int] = (), lost: frozenset[int] = frozenset()
    ) -> None:
        """Send requests at once; what was answered has to be what is true, in some order."""
        self.sent += [each for each in sent if each not in self.sent[-20:]]
        began = self.world.now()
        replies = self.world.send([wire for _, wire in sent], order, lost)
        for (said, wire), reply in zip(sent, replies, strict=True):
            if reply is not None and reply.status == 201:
                self.check_receipt(said, wire, reply)
        found = list(ways(self.ledger, [said for said, _ in sent], replies, began))
        told = [(said, reply.status if reply else "lost") for (said, _), reply in zip(sent, replies, strict=True)]
        self.must(found, f"no order of these explains what was answered: {told}, of {self.ledger}")
        enrolled = {id: (each.generation, self.seen.engines[id]) for id, each in self.enrolled().items()}
        look = self.happened(found)
        for id, (generation, before) in enrolled.items():
            self.must(look.engines[id] == before, f"I3: generation {generation} of {id} was changed by a request")

    def check_receipt(self, said: Said, wire: Wire, reply: Reply) -> None:
        """A receipt is for the request that it answers."""
        receipt = decode(reply.body, Receipt, limit_bytes=10**6)
        asked = decode(wire.body, EnrolmentRequest, limit_bytes=10**6)
        assert (receipt.id, receipt.generation, receipt.fingerprint) == (said.id, said.generation, said.key)
        assert receipt.request_id == asked.request_id

    def enrolled(self) -> dict[str, Any]:
        """Those that are enrolled."""
        return {id: life for id, life in self.ledger.lives.items() if life.state == "enrolled"}

    @rule(ask=asks)
    def enrol(self, ask: Ask) -> None:
        self.acts["enrolments"] += 1
        self.send([self.said(ask)])

    @rule(ask=asks, others=st.lists(key_numbers, min_size=2, max_size=4), order=st.lists(st.integers(0, 7), max_size=8))
    def enrol_clones_at_once(self, ask: Ask, others: list[int], order: list[int]) -> None:
        """One claim, or one image, in several hands: with keys of their own, or with the same one."""
        self.acts["clones"] += 1 + len(others)
        challenge = self.world.challenge()
        self.send([self.said(replace(ask, key=key), challenge) for key in (ask.key, *others)], order)

    @rule(ask=asks, others=st.lists(ids, min_size=1, max_size=3), order=st.lists(st.integers(0, 7), max_size=8))
    def enrol_one_key_as_several_at_once(self, ask: Ask, others: list[int], order: list[int]) -> None:
        """A copied disk that boots under several names."""
        self.acts["clones"] += 1 + len(others)
        challenge = self.world.challenge()
        self.send([self.said(replace(ask, id=id), challenge) for id in (ask.id, *others)], order)

    @rule(ask=asks, again=st.booleans(), order=st.lists(st.integers(0, 7), max_size=8))
    def lose_the_answer_and_retry(self, ask: Ask, again: bool, order: list[int]) -> None:
        """The retry has the same bytes, or is made anew: with the same key, for that is on the disk."""
        self.acts["retries"] += 1
        first = self.said(ask)
        self.send([first, first if again else self.said(ask)], order, frozenset({0}))

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(0, 9), times=st.integers(2, 5), order=st.lists(st.integers(0, 7), max_size=8))
    def replay(self, back: int, times: int, order: list[int]) -> None:
        self.acts["replays"] += times
        self.send([self.sent[-1 - back % len(self.sent)]] * times, order)
