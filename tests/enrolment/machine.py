"""Everything that may happen to a few service engines, in any order, in a world; after each step what must be true is.

The invariants are those of an enrolment, I1 to I6:

- I1: at most one key for each service engine and generation;
- I2: a key belongs to at most one service engine;
- I3: once a generation is enrolled, no request that is signed by an image key changes anything of it;
- I4: a key that was revoked opens no channel 2 s later;
- I5: every change has exactly one record in the audit log, and the log verifies;
- I6: a client that got no answer can always retry to the same receipt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, get_args

from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from avinet.wire.enrolment import EnrolmentRequest, Receipt
from avinet.wire.fleet import EnrolmentPolicy
from avinet.wire.message import decode
from tests.enrolment.ledger import Answer, Audited, Ledger, Reply, Said
from tests.enrolment.requests import IDS, KEYS, Ask, Hands, asks, ids, key_numbers, mostly
from tests.enrolment.ways import Happened, Trail, differs, ways
from tests.enrolment.world import LIMITS, Done, Look, Wire, World

CUT_S = 2.0
LONGEST_S = 100_000.0
"""How far time may go in one run: certificates are good for longer."""


class Enrolments(RuleBasedStateMachine):
    """See the module. `world` is set by whoever runs it; `acts` counts what was done, by its kind.

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

    # operators

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

    def claimed(self, id: str, done: Done) -> tuple[str, float]:
        """The claim that was given, and when it ends."""
        if done.claimed is None:
            return "", 0.0
        self.hands.claims[id].append(done.claimed.claim)
        return done.claimed.claim, done.claimed.expires

    @rule(id=ids)
    def expect(self, id: int) -> None:
        self.acts["expected"] += 1
        name, ledger = self.ids[id], self.ledger.copy()
        done = self.world.expect(name)
        self.done(ledger, ledger.expect(name, *self.claimed(name, done)), done.status)

    @rule(id=ids)
    def boot(self, id: int) -> None:
        """What usually happens: it is expected, or is to come back; it enrols, and dials."""
        life = self.ledger.lives.get(self.ids[id])
        if life is None:
            self.expect(id)
        elif life.state == "revoked":
            self.reset(id)
        if life is None or life.state != "enrolled":
            free = [key for key in range(KEYS) if self.prints[key] not in self.ledger.owner]
            self.enrol(Ask(id, free[0] if free else 0, "last", id, 0, 0, ""))
        self.dial(id, 0, 1)

    @rule(id=ids)
    def claim_anew(self, id: int) -> None:
        self.acts["claimed anew"] += 1
        name, ledger = self.ids[id], self.ledger.copy()
        done = self.world.claim_anew(name)
        self.done(ledger, ledger.claim_anew(name, *self.claimed(name, done)), done.status)

    @rule(id=ids)
    def reset(self, id: int) -> None:
        self.acts["resets"] += 1
        name, ledger = self.ids[id], self.ledger.copy()
        done = self.world.reset(name)
        self.done(ledger, ledger.reset(name, *self.claimed(name, done)), done.status)

    @rule(id=ids)
    def revoke(self, id: int) -> None:
        self.acts["revoked"] += 1
        name, ledger = self.ids[id], self.ledger.copy()
        self.done(ledger, ledger.revoke(name), self.world.revoke(name))

    @rule(id=ids)
    def forget(self, id: int) -> None:
        self.acts["forgotten"] += 1
        name, ledger = self.ids[id], self.ledger.copy()
        self.done(ledger, ledger.forget(name), self.world.forget(name))

    @rule(id=ids, key=key_numbers)
    def approve(self, id: int, key: int) -> None:
        self.acts["approved"] += 1
        name, of, ledger, now = self.ids[id], self.prints[key], self.ledger.copy(), self.world.now()
        self.done(ledger, ledger.approve(name, of, now), self.world.approve(name, of))

    @rule(id=ids, key=key_numbers)
    def refuse(self, id: int, key: int) -> None:
        self.acts["refused"] += 1
        name, of, ledger, now = self.ids[id], self.prints[key], self.ledger.copy(), self.world.now()
        answer, status = ledger.refuse(name, of, now), self.world.refuse(name, of)
        self.done(ledger, answer, status)

    @rule(policy=st.sampled_from(get_args(EnrolmentPolicy)))
    def change_policy(self, policy: EnrolmentPolicy) -> None:
        self.acts["policies"] += 1
        ledger = self.ledger.copy()
        self.done(ledger, ledger.change_policy(policy), self.world.change_policy(policy))

    @precondition(lambda self: self.next_retry % 7 == 6)
    @rule(image=st.integers(0, 1))
    def retire(self, image: int) -> None:
        self.acts["images retired"] += 1
        ledger = self.ledger.copy()
        self.done(ledger, ledger.retire(self.hands.images[image]), self.world.retire(self.hands.images[image]))

    @precondition(lambda self: self.passed_s < LONGEST_S)
    @rule(seconds=st.sampled_from((1, 1790, 4010, -613)))
    def pass_time(self, seconds: int) -> None:
        self.passed_s += seconds
        self.world.pass_time(seconds)

    @precondition(lambda self: self.since_restart > 25)
    @rule()
    def restart(self) -> None:
        """What is in memory only is gone; the tunnels are, too."""
        self.acts["restarts"] += 1
        self.since_restart = 0
        self.world.restart()
        self.tunnels.clear()

    # tunnels

    @rule(id=ids, key=key_numbers, back=mostly(1, 2, 3))
    def dial(self, id: int, key: int, back: int) -> None:
        """With the key of a service engine, and with the newest secret that goes with it, or an older one: a copy."""
        life = self.ledger.lives.get(self.ids[id])
        self.dial_with(self.prints.index(life.key) if life is not None and life.key else key, back)

    @rule(key=key_numbers)
    def dial_with(self, key: int, back: int = 1) -> None:
        """With any key."""
        self.acts["logins"] += 1
        ledger, of = self.ledger.copy(), self.prints[key]
        login, tunnel = ledger.login(of), self.world.dial(self.hands.keys[key])
        answer = ledger.dial(of, self.tunnels.keys() if self.world.sessions else ())
        self.must((tunnel is not None) == (answer.status == 200), f"{of} was let in, or kept out: {ledger}")
        self.happened([Happened(ledger, answer.records, self.raised(answer))])
        if tunnel is not None and login is not None:
            self.greet(tunnel, *login, key, back)

    def greet(self, tunnel: Any, id: str, generation: int, key: int, back: int) -> None:
        ledger, known = self.ledger.copy(), self.secrets[key]
        shown = known[-min(back, len(known))]
        answer = ledger.turn(id, self.prints[key], shown)
        status, secret = self.world.hello(tunnel, shown)
        if answer.status == 200:
            ledger.given(id, secret)
            known.append(secret)
            self.tunnels[id] = tunnel, self.prints[key], generation
        else:
            self.tunnels.pop(id, None)
        self.done(ledger, replace(answer, alarms=self.raised(answer)), status)

    def raised(self, answer: Answer) -> tuple[Audited, ...]:
        """The alarms of a tunnel, where there are any."""
        return answer.alarms if self.world.sessions else ()

    @precondition(lambda self: self.tunnels)
    @rule(which=st.integers(0, IDS - 1), new=key_numbers)
    def rotate(self, which: int, new: int) -> None:
        id = sorted(self.tunnels)[which % len(self.tunnels)]
        tunnel, old, _ = self.tunnels[id]
        if self.rotations[id] == 4:  # more often is too often
            return
        self.acts["rotations"] += 1
        self.rotations[id] += 1
        ledger, key = self.ledger.copy(), self.hands.keys[self.prints.index(old)]
        answer = ledger.rotate(id, old, self.prints[new])
        self.done(ledger, answer, self.world.rotate(tunnel, key, self.hands.keys[new]))
        if answer.records:
            self.secrets[new] = self.secrets[self.prints.index(old)][-1:]
            del self.tunnels[id]  # it ends soon

    # what is always true

    @invariant()
    def what_was_revoked_opens_nothing(self) -> None:
        """(I4)"""
        if not hasattr(self, "seen"):
            return
        for line, of in zip(self.hands.lines, self.prints, strict=True):
            found = self.world.login(line)
            login = self.ledger.login(of)
            self.must((found and (found.id, found.generation)) == login, f"I4: {of} opens {found}, and not {login}")
        for id, (tunnel, of, generation) in list(self.tunnels.items()):
            if self.ledger.login(of) == (id, generation):
                self.must(not self.world.is_lost(tunnel, 0), f"the tunnel of {id} has ended")
            else:
                self.must(self.world.is_lost(tunnel, CUT_S), f"I4: the tunnel of {id} lives on")
                self.must(not self.world.opens(tunnel), f"I4: a channel of {id} was opened")
                del self.tunnels[id]

    @invariant()
    def a_retry_gets_the_same_receipt(self) -> None:
        """(I6): one of them in turn, by the key that it has."""
        if not hasattr(self, "seen"):
            return
        self.since_restart += 1
        self.next_retry += 1
        enrolled = sorted(self.enrolled().items())
        if not enrolled:
            return
        id, life = enrolled[self.next_retry % len(enrolled)]
        self.acts["retries"] += 1
        nonce, made = self.world.challenge()
        said = Said(id, life.key, None, life.generation, self.hands.images[0], made)
        wire = self.hands.wire(said, self.prints.index(life.key), nonce)
        [reply] = self.world.send([wire], (), frozenset())
        self.must(reply == Reply(200, life.receipt or b""), f"I6: {id} was answered {reply}")


STEPS = 40


def drive(where: World, examples: int, number: int = 0, **options: Any) -> Counter[str]:
    """Run the machine in a world; what was done there, by its kind. Where chance is to be the same, `number` is it."""

    class Driven(Enrolments):
        world, acts, wrong = where, Counter[str](), list[str]()

    chosen = settings(max_examples=examples, stateful_step_count=STEPS, deadline=None, report_multiple_bugs=False)
    chosen = settings(chosen, **options)
    if chosen.derandomize:
        seed(number)(Driven)
    try:
        run_state_machine_as_test(Driven, settings=chosen)
    except Exception as error:
        if Driven.wrong:
            raise AssertionError(Driven.wrong[0]) from error
        raise
    return Driven.acts
