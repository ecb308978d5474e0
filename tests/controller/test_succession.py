"""What the fleet believes, in memory: brought, counted, used, whatever comes between."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.controller.epochs import GATHER_S, PUSHES, RETRY_S, SEEN, Epochs
from avinet.controller.node_keys import LOOK_S, KeySuccession
from avinet.controller.reverse import SignatureRefused
from avinet.controller.roots import Roots
from avinet.controller.standing import SINCE, Standing
from avinet.controller.steps import Steps
from avinet.enrolment.engines import Engines
from avinet.enrolment.records import AUDIT, AuditRecord
from avinet.errors import AvinetError, Conflict, Invalid, NotFound, TimedOut, Unavailable
from avinet.store.interface import Delete, Outcome, Transaction
from avinet.trust.document import verify_document
from avinet.trust.domain import found, load
from avinet.trust.image import fingerprint
from avinet.trust.keys import fingerprint as keys_fingerprint
from avinet.trust.keys import generate, save_private
from avinet.trust.succession import found_issuing, found_root, read_root
from avinet.wire.succession import SuccessionOrder
from avinet.wire.trust import SignedTrust
from tests.store.memory import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DRY, FORCE, PLAIN = SuccessionOrder(dry_run=True), SuccessionOrder(force=True), SuccessionOrder()


class Fleet:
    """Service engines with tunnels; each answers a push when the test says so, those that are `prompt` at once."""

    def __init__(self, *prompt: str) -> None:
        self.live = list(prompt)
        self.prompt = set(prompt)
        self.pushed: list[str] = []
        self.held: dict[str, int] = {}
        self.waiting: dict[str, Deferred[None]] = {}
        self.refuses: dict[str, AvinetError] = {}

    async def trust(self, engine_id: str, signed: SignedTrust) -> int:
        self.pushed.append(engine_id)
        if engine_id in self.refuses:
            raise self.refuses[engine_id]
        if engine_id not in self.prompt:
            self.waiting[engine_id] = Deferred()
            await self.waiting[engine_id]
        epoch = msgspec.json.decode(signed.document, type=Numbered).epoch
        self.held[engine_id] = max(epoch, self.held.get(engine_id, 0))
        return self.held[engine_id]


class Numbered(msgspec.Struct):
    """What a service engine looks at first in a trust document."""

    epoch: int


class EpochTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.tasks = Clock(), Tasks()
        self.addCleanup(self.tasks.stop)
        self.store = MemoryStore(self.clock)
        self.fleet = Fleet("se-1", "se-2")
        self.cut: list[str] = []
        self.epoch = 1
        self.epochs = self.made()
        self.successResultOf(as_deferred(self.epochs.start()))
        self.clock.advance(GATHER_S)

    def made(self) -> Epochs:
        return Epochs(
            self.clock, self.store, self.fleet, lambda: self.fleet.live, self.current, self.tasks, self.cut.append
        )

    def current(self) -> tuple[int, SignedTrust]:
        return self.epoch, SignedTrust(document=f'{{"epoch":{self.epoch}}}', signature="", issuer="")

    def publish(self) -> None:
        self.epoch += 1
        self.epochs.wake()
        self.clock.advance(GATHER_S)

    def test_those_who_are_behind_are_brought_the_newest_and_no_others(self) -> None:
        self.epochs.said("se-1", 2)
        self.fleet.pushed.clear()
        self.publish()
        self.assertEqual(self.fleet.pushed, ["se-2"])
        self.assertEqual(self.epochs.behind(2, ["se-1", "se-2", "se-3"]), ["se-3"])
        self.clock.advance(10 * RETRY_S)
        self.assertEqual(self.fleet.pushed, ["se-2"])

    def test_one_that_could_not_be_reached_is_tried_again(self) -> None:
        self.fleet.refuses["se-1"] = Unavailable("its tunnel is gone")
        self.publish()
        self.assertEqual(self.epochs.behind(2, ["se-1", "se-2"]), ["se-1"])
        del self.fleet.refuses["se-1"]
        self.clock.advance(RETRY_S)
        self.clock.advance(GATHER_S)
        self.assertEqual(self.epochs.behind(2, ["se-1", "se-2"]), [])

    def test_one_that_has_another_is_tried_again_later_or_with_the_next_one(self) -> None:
        async def odd(id: str, signed: SignedTrust) -> int:
            self.fleet.pushed.append(id)
            return 99

        self.patch(self.fleet, "trust", odd)
        self.fleet.live = ["se-1"]
        self.fleet.pushed.clear()
        self.publish()
        self.epochs.wake()
        self.clock.advance(GATHER_S)
        self.assertEqual(self.fleet.pushed, ["se-1"])
        self.publish()
        self.assertEqual(self.fleet.pushed, ["se-1"] * 2)

    def test_what_is_published_while_another_is_on_its_way_is_brought_as_well(self) -> None:
        self.fleet.prompt.discard("se-1")
        self.publish()
        self.publish()
        self.fleet.waiting.pop("se-1").callback(None)
        self.clock.advance(GATHER_S)
        self.fleet.waiting.pop("se-1").callback(None)
        self.assertEqual(self.epochs.behind(3, ["se-1", "se-2"]), [])

    def test_so_many_are_asked_at_a_time(self) -> None:
        self.fleet.live = [f"se-{number}" for number in range(3 * PUSHES)]
        self.fleet.prompt.clear()
        self.publish()
        self.assertEqual(len(self.fleet.waiting), PUSHES)

    def test_a_fleet_that_is_lost_in_the_middle_is_brought_it_when_it_is_back(self) -> None:
        """Those who are gone fail at once, thousands in a row: the way is free for the next all the same."""
        many = [f"se-{number}" for number in range(5000)]
        self.fleet.live = list(many)
        self.fleet.prompt.clear()
        self.publish()
        for _ in range(2):
            self.fleet.refuses = {id: Unavailable("it is not connected") for id in many}
            for each in list(self.fleet.waiting.values()):
                each.errback(Unavailable("its tunnel is gone"))
            self.fleet.waiting.clear()
            self.clock.advance(RETRY_S)
            self.clock.advance(GATHER_S)
        self.fleet.refuses.clear()
        self.fleet.prompt = set(many)
        self.clock.advance(RETRY_S)
        self.clock.advance(GATHER_S)
        self.assertEqual(self.epochs.behind(2, many), [])

    def test_one_that_fails_is_left_in_peace_for_a_while_whoever_comes_meanwhile(self) -> None:
        self.fleet.refuses["se-1"] = Unavailable("its disk is full")
        self.publish()
        self.fleet.pushed.clear()
        for number in range(3, 50):
            self.fleet.prompt.add(f"se-{number}")
            self.fleet.live.append(f"se-{number}")
            self.epochs.opened(f"se-{number}")
            self.clock.advance(GATHER_S)
        self.assertEqual(self.fleet.pushed.count("se-1"), 0)

    def test_one_that_does_not_take_the_signature_is_told_of(self) -> None:
        self.fleet.refuses["se-1"] = SignatureRefused("it has other keys of this node")
        self.publish()
        self.assertEqual(self.cut, ["se-1"])

    def test_one_with_an_epoch_that_never_was_knows_nothing_of_what_there_is(self) -> None:
        self.epochs.said("se-1", 9)
        self.assertEqual(self.epochs.behind(1, ["se-1", "se-2"]), ["se-1"])
        self.assertEqual(self.epochs.highest(["se-1", "se-2"]), 9)

    def test_what_was_said_survives_a_restart(self) -> None:
        self.publish()
        self.successResultOf(as_deferred(self.epochs.stop()))
        again = self.made()
        self.successResultOf(as_deferred(again.start()))
        self.assertEqual(again.behind(2, ["se-1", "se-2", "se-3"]), ["se-3"])

    def test_one_that_has_an_older_one_again_is_believed(self) -> None:
        self.publish()
        self.fleet.live.clear()
        self.epochs.said("se-1", 1)
        self.assertEqual(self.epochs.behind(2, ["se-1", "se-2"]), ["se-1"])
        self.epochs.forget("se-2")
        self.assertEqual(self.epochs.behind(1, ["se-1", "se-2"]), ["se-2"])


class SuccessionTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        found(self.state / "trust", "node-1", NOW)
        self.fleet = Fleet("se-1", "se-2")
        self.enrolled = ["se-1", "se-2"]
        self.tasks = Tasks()
        self.addCleanup(lambda: self.tasks.stop())
        self.start()

    def now(self) -> float:
        return NOW.timestamp() + self.clock.seconds()

    def start(self) -> None:
        """A process of the node, on what the one before has left."""
        self.tasks.stop()
        self.tasks = Tasks()
        domain = load(self.state / "trust").renewed(NOW)
        addresses = ["127.0.0.1:8443"], ["127.0.0.1:22"]
        self.standing = Standing(self.store, domain, addresses, self.now, published=lambda: self.epochs.wake())
        self.epochs = Epochs(
            self.clock,
            self.store,
            self.fleet,
            lambda: self.fleet.live,
            lambda: (self.standing.document.epoch, self.standing.signed),
            self.tasks,
            lambda id: None,
        )
        steps = Steps(self.standing, self.epochs, lambda: self.enrolled, self.now)
        self.roots, self.keys = Roots(steps), KeySuccession(self.clock, steps)
        self.result(self.standing.take(Engines(self.store, "node-1", self.now)))
        self.result(self.epochs.start())
        self.tasks.spawn(self.keys.keep(), "the keys")
        self.clock.advance(GATHER_S)

    def result(self, awaitable: Any) -> Any:
        """What it comes to, once the fleet has been told of it."""
        found = self.successResultOf(as_deferred(awaitable))
        self.clock.advance(GATHER_S)
        return found

    def look(self) -> None:
        """The node looks once more what is to be done."""
        self.clock.advance(LOOK_S)
        self.clock.advance(GATHER_S)

    def refusal(self, kind: type[AvinetError], awaitable: Any) -> str:
        return str(self.failureResultOf(as_deferred(awaitable), kind).value)

    def following(self, folder: str = "next") -> str:
        trust = self.state / "trust"
        made = found_root(read_root(trust / "root.pem", trust / "root.key"), self.state / folder, NOW)
        self.fingerprint = fingerprint(made.root)
        return made.pem.decode()

    def records(self) -> list[AuditRecord]:
        entries = self.result(self.store.range(AUDIT)).entries
        return [msgspec.json.decode(each.value, type=AuditRecord) for each in entries]

    def kinds(self) -> list[str]:
        return [each.kind for each in self.records()]

    def states(self) -> list[str]:
        return [each.state for each in self.roots.shown().items]

    def test_a_root_is_added_used_and_the_old_one_retired(self) -> None:
        old = self.standing.domain.root
        self.result(self.roots.add(self.following(), "ann"))
        added = self.roots.shown()
        self.assertEqual([(each.state, each.acknowledged) for each in added.items], [("in-use", 2), ("next", 2)])
        self.assertTrue(self.result(self.roots.use(self.fingerprint[:8], PLAIN, "ann")).done)
        self.assertEqual(self.states(), ["former", "in-use"])
        signed = self.standing.signed
        for root in (old, self.standing.domain.root):
            verify_document(signed.document.encode(), signed.signature, signed.issuer.encode(), [root], NOW)
        self.assertTrue(self.result(self.roots.retire(fingerprint(old), PLAIN, "ann")).done)
        self.assertEqual(self.states(), ["in-use"])
        made = sorted(each for each in self.kinds() if each.startswith("root"))
        self.assertEqual(made, ["root-added", "root-retired", "root-used"])
        epoch = self.standing.document.epoch
        self.start()
        self.assertEqual((self.standing.document.epoch, self.states()), (epoch, ["in-use"]))

    def test_those_who_do_not_know_it_are_named_and_until_when_they_come_back(self) -> None:
        self.fleet.live = ["se-1"]
        old = self.standing.domain.root
        self.result(self.roots.add(self.following(), "ann"))
        self.assertIn(
            "1 service engines do not know the root CA that follows yet: se-2",
            self.refusal(Conflict, self.roots.use(self.fingerprint, PLAIN, "ann")),
        )
        step = self.result(self.roots.use(self.fingerprint, DRY, "ann"))
        self.assertEqual((step.done, step.ids, step.until), (False, ["se-2"], old.not_valid_after_utc.timestamp()))
        self.assertTrue(self.result(self.roots.use(self.fingerprint, FORCE, "ann")).done)
        step = self.result(self.roots.retire(fingerprint(old), DRY, "ann"))
        self.assertEqual((step.ids, step.until), (["se-2"], old.not_valid_after_utc.timestamp()))
        self.epochs.said("se-2", 0)
        step = self.result(self.roots.retire(fingerprint(old), DRY, "ann"))
        self.assertEqual(step.until, None, "nobody knows what it believes")
        self.epochs.said("se-2", 1)
        self.clock.advance(old.not_valid_after_utc.timestamp() - self.now() + 1)
        step = self.result(self.roots.retire(fingerprint(old), DRY, "ann"))
        self.assertEqual((step.ids, step.until), (["se-2"], None), "it would be lost")

    def test_one_that_waits_can_be_dropped_and_another_takes_its_place(self) -> None:
        self.result(self.roots.add(self.following(), "ann"))
        again = self.following("other")
        self.assertIn("waits to be used already", self.refusal(Conflict, self.roots.add(again, "ann")))
        waiting = next(each.fingerprint for each in self.roots.shown().items if each.state == "next")
        self.assertTrue(self.result(self.roots.retire(waiting, PLAIN, "ann")).done)
        self.assertEqual(self.states(), ["in-use"])
        self.result(self.roots.add(again, "ann"))
        self.assertEqual(self.states(), ["in-use", "next"])

    def test_what_cannot_be_is_refused(self) -> None:
        own = fingerprint(self.standing.domain.root)
        self.refusal(Conflict, self.roots.retire(own, FORCE, "ann"))
        self.refusal(NotFound, self.roots.use("", FORCE, "ann"))
        self.refusal(NotFound, self.roots.use("zz", FORCE, "ann"))
        self.refusal(AvinetError, self.roots.add("no PEM", "ann"))
        stranger = found(self.state / "stranger", "node-1", NOW)
        self.refusal(Invalid, self.roots.add(stranger.issuing.pem.decode(), "ann"))
        self.assertEqual(self.states(), ["in-use"])

    def test_an_issuing_ca_under_the_same_root_is_used_at_once(self) -> None:
        trust = self.state / "trust"
        made = found_issuing(read_root(trust / "root.pem", trust / "root.key"), (), self.state / "next", NOW)
        epoch = self.standing.document.epoch
        self.result(self.roots.add(made.pem.decode(), "ann"))
        self.assertEqual(self.standing.signed.issuer, made.chain_pem)
        self.assertEqual(self.standing.document.epoch, epoch + 1)
        self.assertEqual(self.epochs.behind(epoch + 1, self.enrolled), [])

    def test_a_store_that_is_away_delays_a_step_and_nobody_is_counted_before(self) -> None:
        pem = self.following()
        self.store.unavailable = "no quorum"
        self.refusal(Unavailable, self.roots.add(pem, "ann"))
        self.assertEqual(self.roots.shown().enrolled, 2)
        self.store.unavailable = ""
        self.look()
        self.assertEqual([(each.state, each.acknowledged) for each in self.roots.shown().items][1], ("next", 2))
        self.store.unavailable = "no quorum"
        self.refusal(Unavailable, self.roots.use(self.fingerprint, PLAIN, "ann"))
        self.store.unavailable = ""
        self.look()
        self.assertEqual(self.states(), ["former", "in-use"])
        self.assertEqual(self.standing.signed.issuer, self.standing.domain.issuing.chain_pem)
        made = sorted((each.kind, each.source) for each in self.records() if each.kind != "image-add")
        self.assertEqual(made, [("root-added", "ann"), ("root-used", "ann")])

    def test_a_fifth_root_is_refused_before_anything_is_changed(self) -> None:
        for number in range(3):
            self.result(self.roots.add(self.following(f"root-{number}"), "ann"))
            self.result(self.roots.use(self.fingerprint, PLAIN, "ann"))
            shutil.copy(self.state / f"root-{number}" / "root.key", self.state / "trust" / "root.key")
        self.assertIn("4 root CAs already", self.refusal(Conflict, self.roots.add(self.following(), "ann")))
        self.assertIsNone(self.standing.domain.next_issuing)
        self.start()
        self.assertEqual(self.states(), ["former"] * 3 + ["in-use"])

    def test_one_that_another_vouches_for_is_retired_after_that_one(self) -> None:
        first = fingerprint(self.standing.domain.root)
        for number in range(2):
            self.result(self.roots.add(self.following(f"root-{number}"), "ann"))
            self.result(self.roots.use(self.fingerprint, PLAIN, "ann"))
            shutil.copy(self.state / f"root-{number}" / "root.key", self.state / "trust" / "root.key")
        second = self.roots.shown().items[1].fingerprint
        self.assertIn(first[:16], self.refusal(Conflict, self.roots.retire(second, PLAIN, "ann")))
        self.assertTrue(self.result(self.roots.retire(first, PLAIN, "ann")).done)
        self.assertTrue(self.result(self.roots.retire(second, PLAIN, "ann")).done)
        self.assertEqual(self.states(), ["in-use"])

    def test_a_store_that_came_back_as_it_was_is_put_above_what_the_fleet_has(self) -> None:
        """A copy of the folder, or a snapshot: service engines take nothing below what they have."""
        for id in self.enrolled:
            self.fleet.held[id] = 9
            self.epochs.said(id, 9)
        self.result(self.roots.add(self.following(), "ann"))
        self.assertEqual([each.acknowledged for each in self.roots.shown().items], [0, 0])
        self.refusal(Conflict, self.roots.use(self.fingerprint, PLAIN, "ann"))
        self.look()
        self.assertEqual(self.standing.document.epoch, 10)
        self.assertEqual([each.kind for each in self.records() if each.alarm], ["trust-epoch"])
        self.assertEqual([each.acknowledged for each in self.roots.shown().items], [2, 2])
        self.epochs.said("se-1", 2**63 - 1)
        self.look()
        self.epochs.said("se-1", 20)
        self.look()
        self.assertEqual(self.standing.document.epoch, 10, "no lie uses the epochs up, and not at any pace")

    def test_an_answer_of_the_store_that_was_lost_keeps_nobody_from_being_told(self) -> None:
        pem, transact = self.following(), self.store.transact

        async def lost(transaction: Transaction) -> Outcome:
            await transact(transaction)
            raise TimedOut("the store gave no answer")

        patch = self.patch(self.store, "transact", lost)
        self.refusal(TimedOut, self.roots.add(pem, "ann"))
        patch.restore()
        self.look()
        self.assertEqual([(each.state, each.acknowledged) for each in self.roots.shown().items][1], ("next", 2))

    def test_a_document_of_before_anything_was_counted_is_counted_now(self) -> None:
        epoch = self.standing.document.epoch
        self.result(self.store.transact(Transaction((), (Delete(SINCE), Delete(SEEN + b"se-1")))))
        self.start()
        self.assertEqual((self.standing.document.epoch, self.roots.shown().items[0].since), (epoch, epoch))

    def test_a_node_that_ends_between_two_steps_goes_on_from_there(self) -> None:
        pem = self.following()
        self.store.unavailable = "no quorum"
        self.refusal(Unavailable, self.roots.add(pem, "ann"))
        self.store.unavailable = ""
        self.start()
        self.assertEqual(self.states(), ["in-use", "next"])
        self.store.unavailable = "no quorum"
        self.refusal(Unavailable, self.roots.use(self.fingerprint, PLAIN, "ann"))
        self.store.unavailable = ""
        self.start()
        self.assertEqual(self.states(), ["former", "in-use"])
        self.assertEqual(self.kinds().count("trust-document"), 2, "that it was ann is lost with the process")
        self.assertEqual(self.standing.signed.issuer, self.standing.domain.issuing.chain_pem)

    def test_keys_are_used_when_all_know_them(self) -> None:
        self.fleet.live = ["se-1"]
        before = self.keys.shown()
        self.result(self.keys.rotate("ann"))
        made = self.result(self.keys.rotate("ann"))
        self.assertEqual(self.keys.shown(), made, "asked twice, made once")
        self.assertEqual((made.acknowledged, made.enrolled), (1, 2))
        self.look()
        self.assertEqual(self.keys.shown().ssh_host_key, before.ssh_host_key)
        [node] = self.standing.document.nodes
        self.assertEqual((len(node.ssh_host_keys), len(node.avictlruser_keys)), (2, 2))
        self.start()
        self.fleet.live = ["se-1", "se-2"]
        self.epochs.wake()
        self.look()
        after = self.keys.shown()
        self.assertEqual(after.ssh_host_key, made.next_ssh_host_key)
        self.assertEqual(after.avictlruser_key, made.next_avictlruser_key)
        [node] = self.standing.document.nodes
        self.assertEqual((len(node.ssh_host_keys), len(node.avictlruser_keys)), (1, 1))
        self.refusal(Conflict, self.keys.finish(PLAIN, "ann"))

    def test_a_rotation_that_was_cut_off_is_made_whole(self) -> None:
        before = self.keys.shown()
        generate_next = self.state / "trust" / "ssh_host_ed25519_key.next"
        save_private(generate_next, generate())
        self.start()
        made = self.result(self.keys.rotate("ann"))
        self.assertIsNotNone(made.next_avictlruser_key)
        self.look()
        after = self.keys.shown()
        self.assertNotIn(before.avictlruser_key, (after.avictlruser_key, after.ssh_host_key))
        former = [keys_fingerprint(each) for each in self.standing.former_keys]
        self.assertEqual(sorted(former), sorted([before.ssh_host_key, before.avictlruser_key]))

    def test_keys_that_are_in_no_trust_document_yet_are_known_to_nobody(self) -> None:
        before = self.keys.shown()
        self.store.unavailable = "no quorum"
        self.refusal(Unavailable, self.keys.rotate("ann"))
        self.assertEqual(self.keys.shown().acknowledged, 0)
        self.look()
        self.assertEqual(self.keys.shown().ssh_host_key, before.ssh_host_key)
        self.store.unavailable = ""
        self.look()
        self.look()
        self.assertNotEqual(self.keys.shown().ssh_host_key, before.ssh_host_key)

    def test_an_operator_need_not_wait(self) -> None:
        self.fleet.live = []
        made = self.result(self.keys.rotate("ann"))
        step = self.result(self.keys.finish(DRY, "ann"))
        self.assertEqual((step.done, step.waiting), (False, 2))
        self.refusal(Conflict, self.keys.finish(PLAIN, "ann"))
        self.assertTrue(self.result(self.keys.finish(FORCE, "ann")).done)
        self.assertEqual(self.keys.shown().ssh_host_key, made.next_ssh_host_key)
