"""The service engine applies what is pushed: checked, one at a time, remembered, and the same again after any crash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.config.apply import Applier, verified
from avinet.errors import AvinetError, Invalid, LocalError, TooLarge, Unavailable
from avinet.wire.config import Config, ConfigPush, ConfigState
from tests.config.balancer import BAD_PORT, TAKEN_PORT, Balancer
from tests.config.making import fired, push_of, web


def push(revision: int, port: int = 0) -> ConfigPush:
    return push_of(web("a", port or 8000 + revision), revision=revision)


class ApplyCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.balancer = Balancer()
        self.file = Path(self.mktemp()) / "configuration.json"
        self.file.parent.mkdir()
        self.disk: Exception | None = None
        self.applied: list[Config] = []
        self.applier = self.booted()

    def in_thread(self, call: Callable[[], None]) -> Deferred[None]:
        if self.disk is not None:
            raise self.disk
        return succeed(call())

    def booted(self) -> Applier:
        applier = Applier(self.clock, self.balancer, self.file, self.in_thread, lambda: 0.5, self.applied.append)
        self.successResultOf(applier.start())
        self.addCleanup(lambda: self.successResultOf(fired(applier.stop())))
        return applier

    def apply(self, pushed: ConfigPush) -> ConfigState:
        return self.successResultOf(fired(self.applier.configure(pushed)))

    def refused(self, pushed: ConfigPush, kind: type[AvinetError] = Invalid) -> str:
        return str(self.failureResultOf(fired(self.applier.configure(pushed)), kind).value)

    def runs(self, pushed: ConfigPush) -> None:
        self.assertEqual(self.balancer.running, verified(pushed).config)
        self.assertEqual(self.applier.state.applied, pushed.version)


class ApplyTests(ApplyCase):
    def test_the_first_push_starts_the_load_balancer(self) -> None:
        self.assertEqual((self.applier.state, self.applier.config), (ConfigState(), None))
        state = self.apply(push(5))
        self.runs(push(5))
        self.assertEqual(state, ConfigState(applied=push(5).version, applied_count=1))
        self.assertEqual(self.balancer.done, ["check", "start"])

    def test_later_ones_change_it(self) -> None:
        self.apply(push(5))
        self.apply(push(6))
        self.runs(push(6))
        self.assertEqual(self.balancer.done[2:], ["check", "apply"])

    def test_of_what_runs_is_told_when_it_is_remembered_and_after_a_start(self) -> None:
        self.refused(push(5, BAD_PORT))
        self.assertEqual(self.applied, [])
        self.apply(push(6))
        self.disk = LocalError("the disk is full")
        self.refused(push(7), LocalError)
        self.assertEqual(self.applied, [verified(push(6)).config] * 2)
        self.disk = None
        self.booted()
        self.assertEqual(self.applied, [verified(push(6)).config] * 3)

    def test_it_is_remembered_before_it_is_acknowledged(self) -> None:
        self.apply(push(5))
        self.assertEqual(msgspec.json.decode(self.file.read_bytes(), type=ConfigPush), push(5))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)

    def test_what_runs_already_is_acknowledged_and_not_touched(self) -> None:
        self.apply(push(5))
        done = list(self.balancer.done)
        self.assertEqual(self.apply(push(5)).applied, push(5).version)
        self.assertEqual(self.balancer.done, done)

    def test_an_older_one_is_refused_and_no_refusal_is_remembered(self) -> None:
        self.apply(push(5))
        self.assertIn("configuration 4 is older than 5", self.refused(push(4)))
        self.assertEqual(self.applier.state, ConfigState(applied=push(5).version, applied_count=1))
        self.runs(push(5))

    def test_what_is_not_what_its_hash_says_is_refused(self) -> None:
        self.apply(push(5))
        mixed = ConfigPush(version=push(6).version, config=push(7).config)
        self.assertIn("SHA-256", self.refused(mixed))
        self.runs(push(5))

    def test_what_is_no_configuration_is_refused(self) -> None:
        for text in ("", "{", '{"virtual_services": 1}', '{"unknown": 1}', '{"pools":[{"name":"a\\nb","servers":[]}]}'):
            version = msgspec.structs.replace(push(6).version, sha256=hashlib.sha256(text.encode()).hexdigest())
            self.assertIn("configuration is not valid", self.refused(ConfigPush(version=version, config=text)))
            self.assertEqual(self.applier.state.refused, version)
        self.assertEqual(self.balancer.done, [])

    def test_what_is_too_large_is_refused(self) -> None:
        text = '"' + "x" * 5 * 1024 * 1024 + '"'
        version = msgspec.structs.replace(push(6).version, sha256=hashlib.sha256(text.encode()).hexdigest())
        self.refused(ConfigPush(version=version, config=text), TooLarge)

    def test_what_the_check_refuses_leaves_the_last_good_one(self) -> None:
        self.apply(push(5))
        self.assertEqual(self.refused(push(6, BAD_PORT)), "port 1 is bad")
        self.runs(push(5))
        state = self.applier.state
        self.assertEqual((state.refused, state.reason), (push(6, BAD_PORT).version, "port 1 is bad"))

    def test_what_cannot_be_applied_leaves_the_last_good_one(self) -> None:
        self.apply(push(5))
        self.assertEqual(self.refused(push(6, TAKEN_PORT)), "port 2 is taken")
        self.runs(push(5))
        self.assertEqual(self.applier.state.refused, push(6, TAKEN_PORT).version)
        self.booted_again()
        self.runs(push(5))

    def booted_again(self) -> None:
        self.successResultOf(fired(self.applier.stop()))
        self.applier = self.booted()

    def test_a_refusal_is_forgotten_with_the_next_good_one(self) -> None:
        self.refused(push(5, BAD_PORT))
        self.apply(push(6))
        self.assertEqual(self.applier.state, ConfigState(applied=push(6).version, applied_count=1))

    def test_a_refused_one_may_be_tried_again(self) -> None:
        self.refused(push(5, TAKEN_PORT))
        self.balancer.taken.clear()
        self.apply(push(5, TAKEN_PORT))
        self.runs(push(5, TAKEN_PORT))

    def test_on_a_full_disk_nothing_has_changed(self) -> None:
        self.apply(push(5))
        self.disk = LocalError("the disk is full")
        self.assertEqual(self.refused(push(6), LocalError), "the disk is full")
        self.runs(push(5))
        self.assertIsNone(self.applier.state.refused)
        self.disk = None
        self.apply(push(6))
        self.runs(push(6))

    def test_a_first_one_that_cannot_be_remembered_is_taken_back(self) -> None:
        self.file.parent.rmdir()
        self.refused(push(5), LocalError)
        self.assertEqual(self.balancer.running.virtual_services, [])
        self.file.parent.mkdir()
        self.apply(push(5))
        self.runs(push(5))

    def test_a_load_balancer_that_breaks_gets_the_last_good_one_again(self) -> None:
        self.apply(push(5))
        self.balancer.broken = LocalError("haproxy has died")
        self.refused(push(6), LocalError)
        self.assertIsNone(self.applier.state.applied)
        self.balancer.broken, self.balancer.running = None, None
        self.clock.advance(1)
        self.runs(push(5))

    def test_a_fault_of_ours_is_logged_and_the_last_good_one_runs_on(self) -> None:
        self.apply(push(5))
        self.balancer.broken = ArithmeticError()
        self.failureResultOf(fired(self.applier.configure(push(6))), ArithmeticError)
        self.balancer.broken = None
        self.clock.advance(1)
        self.runs(push(5))
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 2)
        self.apply(push(7))
        self.runs(push(7))


class BootTests(ApplyCase):
    def boot(self) -> None:
        self.successResultOf(fired(self.applier.stop()))
        self.applier = self.booted()

    def test_the_last_good_one_runs_without_a_controller(self) -> None:
        self.apply(push(5))
        self.balancer.running = None
        self.boot()
        self.runs(push(5))
        self.assertEqual(self.balancer.done[-1], "start")

    def test_an_older_one_is_refused_after_a_boot_too(self) -> None:
        self.apply(push(5))
        self.boot()
        self.refused(push(4))
        self.runs(push(5))

    def test_one_that_cannot_run_now_is_tried_until_it_can(self) -> None:
        self.apply(push(5))
        self.balancer.taken = {8005}
        self.boot()
        state = self.applier.state
        self.assertEqual((state.applied, state.refused, state.reason), (None, push(5).version, "port 8005 is taken"))
        self.clock.pump([1.0] * 120)
        self.assertTrue(8 <= self.balancer.done.count("apply") <= 15, self.balancer.done)
        self.balancer.taken.clear()
        self.clock.advance(30)
        self.runs(push(5))
        self.assertIsNone(self.applier.state.refused)

    def test_a_new_push_need_not_wait_for_the_next_try(self) -> None:
        self.apply(push(5))
        self.balancer.taken = {8005}
        self.boot()
        self.apply(push(6))
        self.runs(push(6))

    def test_a_refused_push_does_not_end_the_tries(self) -> None:
        self.apply(push(5))
        self.balancer.taken = {8005, TAKEN_PORT}
        self.boot()
        self.refused(push(6, TAKEN_PORT))
        self.balancer.taken = {TAKEN_PORT}
        self.clock.advance(30)
        self.runs(push(5))

    def test_the_same_push_while_it_does_not_run_is_a_try(self) -> None:
        self.apply(push(5))
        self.balancer.taken = {8005}
        self.boot()
        self.assertEqual(self.refused(push(5)), "port 8005 is taken")
        self.balancer.taken.clear()
        self.apply(push(5))
        self.runs(push(5))

    def test_a_load_balancer_that_does_not_start_is_started_later(self) -> None:
        self.apply(push(5))
        self.balancer.broken, self.balancer.running = LocalError("no haproxy"), None
        self.boot()
        self.balancer.broken = None
        self.clock.advance(1)
        self.runs(push(5))
        self.assertEqual(self.balancer.done[-2:], ["start", "start"])

    def test_it_is_tried_at_once_when_what_stood_in_the_way_is_gone(self) -> None:
        self.apply(push(5))
        self.balancer.taken = {8005}
        self.boot()
        self.balancer.taken.clear()
        self.applier.try_again()
        self.runs(push(5))
        done = list(self.balancer.done)
        self.applier.try_again()
        self.assertEqual(self.balancer.done, done)

    def test_a_file_that_was_damaged_changes_nothing_that_runs(self) -> None:
        for damage in (b"", b"{", self.damaged()):
            self.file.write_bytes(damage)
            before, done = self.balancer.running, list(self.balancer.done)
            self.boot()
            self.assertEqual((self.balancer.running, self.balancer.done), (before, done))
            self.assertIsNone(self.applier.state.applied)
        self.apply(push(5))
        self.runs(push(5))

    def damaged(self) -> bytes:
        self.apply(push(5))
        return self.file.read_bytes().replace(b"8005", b"8006")


class TurnTests(ApplyCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.apply(push(1))
        self.held: Deferred[None] = Deferred()
        self.balancer.pause = self.hold

    async def hold(self, where: str) -> None:
        if where == "before apply":
            await self.held

    def go_on(self) -> None:
        held, self.held = self.held, succeed(None)
        held.callback(None)

    def test_one_is_applied_at_a_time_and_then_the_newest(self) -> None:
        answers = [fired(self.applier.configure(push(revision))) for revision in (2, 3, 5, 4)]
        self.assertEqual(self.balancer.done.count("check"), 2)
        self.failureResultOf(answers[1], Unavailable)
        self.failureResultOf(answers[3], Unavailable)
        self.go_on()
        self.assertEqual(self.successResultOf(answers[0]).applied, push(2).version)
        self.assertEqual(self.successResultOf(answers[2]).applied, push(5).version)
        self.runs(push(5))

    def test_it_goes_on_when_the_tunnel_is_lost_meanwhile(self) -> None:
        answer = fired(self.applier.configure(push(2)))
        answer.cancel()
        self.failureResultOf(answer)
        self.go_on()
        self.runs(push(2))
        self.assertEqual(self.apply(push(2)).applied, push(2).version)

    def test_one_that_waits_is_applied_too_when_its_tunnel_is_lost(self) -> None:
        first, second = (fired(self.applier.configure(push(revision))) for revision in (2, 3))
        second.cancel()
        self.failureResultOf(second)
        self.go_on()
        self.successResultOf(first)
        self.runs(push(3))

    def test_the_end_waits_for_what_is_being_applied(self) -> None:
        first, second = (fired(self.applier.configure(push(revision))) for revision in (2, 3))
        stopping = fired(self.applier.stop())
        self.assertNoResult(stopping)
        self.failureResultOf(second, Unavailable)
        self.failureResultOf(fired(self.applier.configure(push(4))), Unavailable)
        self.go_on()
        self.successResultOf(stopping)
        self.assertEqual(self.successResultOf(first).applied, push(2).version)
        self.assertEqual(msgspec.json.decode(self.file.read_bytes(), type=ConfigPush), push(2))

    def test_the_end_does_not_wait_for_ever(self) -> None:
        answer = fired(self.applier.configure(push(2)))
        stopping = fired(self.applier.stop())
        self.clock.advance(30)
        self.successResultOf(stopping)
        self.assertNoResult(answer)
        self.assertEqual(self.applier.state.applied, push(1).version)


class Machine:
    """A machine on which the process can die before or after each thing that it does outside of itself."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.file = folder / "configuration.json"
        self.balancer = Balancer()
        self.balancer.pause = self.step
        self.disk_full = False
        self.dies_at: int | None = None
        self.acknowledged: ConfigPush | None = None
        self.applier = self.boot()

    def boot(self) -> Applier:
        self.dies_at = None
        applier = Applier(self.clock, self.balancer, self.file, self.in_thread, lambda: 0.5, lambda config: None)
        applier.start()
        return applier

    async def step(self, where: str) -> None:
        if self.dies_at is not None:
            if self.dies_at == 0:
                await Deferred()  # what is dead does nothing more
            self.dies_at -= 1

    async def in_thread(self, call: Callable[[], None]) -> None:
        await self.step("before the file")
        if self.disk_full:
            raise LocalError("the disk is full")
        call()
        await self.step("after the file")

    def push(self, pushed: ConfigPush, dies_at: int | None) -> None:
        """What a node does: it pushes, and knows what was acknowledged."""
        self.dies_at = dies_at
        answer: Deferred[Any] = fired(self.applier.configure(pushed))
        answer.addCallbacks(lambda state: setattr(self, "acknowledged", pushed), lambda failure: None)
        if dies_at is not None:
            self.applier = self.boot()


pushes = st.tuples(
    st.sampled_from(["newer", "same", "older"]),
    st.sampled_from([8000, 8001, BAD_PORT, TAKEN_PORT]),
    st.booleans(),
    st.none() | st.integers(0, 6),
)


class CrashTests(SynchronousTestCase):
    @given(st.lists(pushes, max_size=8))
    def test_whenever_it_dies_what_was_acknowledged_runs(self, pushed: list[tuple[str, int, bool, int | None]]) -> None:
        revision = 10
        with TemporaryDirectory() as folder:
            machine = Machine(Path(folder))
            for which, port, machine.disk_full, dies_at in pushed:
                revision += {"newer": 1, "same": 0, "older": 0}[which]
                sent = push(revision - (which == "older"), port)
                machine.push(sent, dies_at)
                said, acknowledged = machine.applier.state.applied, machine.acknowledged
                if acknowledged is None and said is None:
                    continue
                self.assertIsNotNone(said)
                if acknowledged is not None and said != acknowledged.version:
                    self.assertEqual(said, sent.version, "it says what was neither acknowledged nor in flight")
                    self.assertIsNotNone(dies_at)
                    machine.acknowledged = acknowledged = sent  # its hello makes the lost acknowledgement good
                elif acknowledged is None:
                    machine.acknowledged = acknowledged = sent
                self.assertEqual(machine.balancer.running, verified(acknowledged).config)
            machine.disk_full = False
            machine.push(push(revision + 1, 8002), None)
            self.assertEqual(machine.balancer.running, verified(push(revision + 1, 8002)).config)
            self.assertEqual(machine.applier.state.applied, push(revision + 1, 8002).version)
