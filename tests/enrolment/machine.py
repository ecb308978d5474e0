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
from dataclasses import replace
from typing import Any, get_args

from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from avinet.wire.fleet import EnrolmentPolicy
from tests.enrolment.asking import Requests
from tests.enrolment.requests import IDS, KEYS, Ask, ids, key_numbers, mostly
from tests.enrolment.ways import Happened
from tests.enrolment.words import Answer, Audited, Reply, Said
from tests.enrolment.world import Done, World

CUT_S = 2.0
LONGEST_S = 100_000.0
"""How far time may go in one run: certificates are good for longer."""


class Enrolments(Requests):
    """See the module."""

    # operators

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
