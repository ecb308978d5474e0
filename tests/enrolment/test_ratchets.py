"""The ratchet of hellos (S32): whoever has a copy of a key is found out as soon as its owner has gone on, or he is."""

from __future__ import annotations

from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.enrolment.directory import Login
from avinet.enrolment.ratchets import BATCH_S, GIVEN, Outdated, Ratchets
from avinet.errors import Unavailable
from avinet.store.interface import OPERATIONS, Put, Snapshot, Transaction
from tests.enrolment.making import Office
from tests.store.memory import MemoryStore


def login(id: str = "se-1", fingerprint: str = "SHA256:a") -> Login:
    return Login(id, 1, fingerprint)


class RatchetTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)
        self.ratchets = self.made()

    def made(self, store: Any = None) -> Ratchets:
        numbers = count(1)
        return Ratchets(store or self.store, self.clock, self.tasks, lambda _: f"secret-{next(numbers)}")

    def turn(self, shown: str, of: Login | None = None) -> Deferred[str]:
        turning = self.ratchets.turn(of or login(), shown)
        self.clock.advance(BATCH_S)
        return turning

    def next(self, shown: str, of: Login | None = None) -> str:
        return self.successResultOf(self.turn(shown, of))

    def outdated(self, shown: str, of: Login | None = None) -> None:
        revision = self.store.revision
        self.failureResultOf(self.turn(shown, of), Outdated)
        self.assertEqual(self.store.revision, revision)

    def test_each_hello_gets_the_secret_for_the_next(self) -> None:
        first = self.next("")
        second = self.next(first)
        self.assertEqual(len({first, second, self.next(second)}), 3)

    def test_an_answer_that_comes_late_does_no_harm(self) -> None:
        """A hello that was given up is answered after the next one."""
        shown = self.next(self.next(""))
        answered, late = self.next(shown), self.next(shown)
        self.next(answered)
        self.outdated(late)

    def test_of_many_answers_to_one_hello_only_the_latest_are_good(self) -> None:
        shown = self.next("")
        answers = [self.next(shown) for _ in range(GIVEN + 1)]
        self.outdated(answers[0])
        self.next(answers[1])

    def test_who_has_said_hello_is_known(self) -> None:
        self.assertFalse(self.successResultOf(as_deferred(self.ratchets.known(login()))))
        self.next("")
        self.assertTrue(self.successResultOf(as_deferred(self.ratchets.known(login()))))
        self.assertFalse(self.successResultOf(as_deferred(self.ratchets.known(login(fingerprint="SHA256:b")))))

    def test_an_operator_forgives(self) -> None:
        office = Office(self.store)
        for id in ("se-1", "se-2", "se-3"):
            self.next(self.next("", login(id)), login(id))
        readmit = lambda *ids: self.successResultOf(as_deferred(office.engines.readmit(ids, "ann")))  # noqa: E731
        self.assertEqual(readmit("se-1", "never-seen"), 1)
        self.next("old")
        self.outdated("old", login("se-2"))
        self.assertEqual(readmit(), 3)
        self.next("old", login("se-2"))
        events = self.successResultOf(as_deferred(office.events()))
        self.assertEqual(
            [(each.kind, each.id, each.outcome, each.notice) for each in events],
            [("readmit", "se-1", "1 service engines", True), ("readmit", "", "3 service engines", True)],
        )

    def test_secrets_are_stored_as_digests(self) -> None:
        secret = self.next("")
        [entry] = self.successResultOf(as_deferred(self.store.range(b""))).entries
        self.assertNotIn(secret.encode(), entry.value)

    def test_a_lost_answer_does_no_harm(self) -> None:
        first = self.next("")
        self.next(first)
        again = self.next(first)
        self.next(again)
        for lost in range(5):
            again = self.next(again)
            if lost % 2:
                self.next(again)
                again = self.next(again)

    def test_the_answer_to_a_first_hello_may_be_lost(self) -> None:
        self.next("")
        self.next(self.next(""))

    def test_a_copy_is_found_out_when_its_owner_has_gone_on(self) -> None:
        copied = self.next(self.next(""))
        newer = self.next(self.next(copied))
        self.outdated(copied)
        self.next(newer)

    def test_the_owner_is_found_out_when_a_copy_has_gone_on(self) -> None:
        copied = self.next("")
        mine = self.next(copied)
        theirs = self.next(copied)
        self.next(theirs)
        self.outdated(mine)

    def test_one_that_has_forgotten_all_is_outdated(self) -> None:
        self.next(self.next(""))
        self.outdated("")
        self.outdated("never given")

    def test_another_key_begins_anew(self) -> None:
        self.next(self.next(""))
        self.next("", login(fingerprint="SHA256:b"))

    def test_other_service_engines_are_not_concerned(self) -> None:
        first = self.next("")
        self.next("", login("se-2"))
        self.next(first)
        self.outdated(first, login("se-2"))

    def test_what_comes_at_once_is_written_at_once(self) -> None:
        each = OPERATIONS // 2
        before = self.store.revision
        turning = [self.ratchets.turn(login(f"se-{number}"), "") for number in range(3 * each)]
        self.assertEqual([turn for turn in turning if turn.called], [])
        self.clock.advance(BATCH_S)
        secrets = [self.successResultOf(turn) for turn in turning]
        self.assertEqual(len(set(secrets)), len(secrets))
        self.assertEqual(self.store.revision, before + 3)

    def test_one_that_is_outdated_keeps_no_other_from_its_answer(self) -> None:
        self.next(self.next(""))
        bad, good = self.ratchets.turn(login(), "old"), self.ratchets.turn(login("se-2"), "")
        self.clock.advance(BATCH_S)
        self.failureResultOf(bad, Outdated)
        self.successResultOf(good)

    def test_two_hellos_of_one_are_answered_one_after_the_other(self) -> None:
        first = self.next("")
        one, two = self.ratchets.turn(login(), first), self.ratchets.turn(login(), first)
        self.clock.advance(BATCH_S)
        self.successResultOf(one)
        self.assertNoResult(two)
        self.clock.advance(BATCH_S)
        self.next(self.successResultOf(two))

    def test_a_race_with_another_node_costs_the_others_nothing(self) -> None:
        class Racing(MemoryStore):
            """Somebody else writes between the reading and the writing, once."""

            raced = False

            async def transact(self, transaction: Transaction) -> Any:
                if not self.raced:
                    self.raced = True
                    put = next(each for each in transaction.then if isinstance(each, Put) and each.key.endswith(b"1"))
                    await MemoryStore.transact(self, Transaction((), (Put(put.key, put.value),)))
                return await MemoryStore.transact(self, transaction)

        self.ratchets = self.made(Racing(self.clock))
        turning = [self.ratchets.turn(login(id), "") for id in ("se-1", "se-2")]
        self.clock.advance(BATCH_S)
        for turn in turning:
            self.successResultOf(turn)

    def test_without_a_store_there_is_no_answer(self) -> None:
        self.store.unavailable = "no quorum"
        failure = self.failureResultOf(self.turn(""), Unavailable)
        self.assertEqual(str(failure.value), "no quorum")

    def test_when_the_node_stops_nobody_waits_for_ever(self) -> None:
        class Silent(MemoryStore):
            async def read(self, keys: Any) -> Snapshot:
                return await Deferred()

        self.ratchets = self.made(Silent(self.clock))
        turning = self.turn("")
        self.assertNoResult(turning)
        self.tasks.stop()
        self.failureResultOf(turning, Unavailable)

    def test_one_that_was_deleted_leaves_nothing_behind(self) -> None:
        office = Office(self.store)
        self.successResultOf(as_deferred(office.expect("se-1")))
        self.next(self.next(""))
        self.successResultOf(as_deferred(office.engines.forget("se-1", "ann")))
        self.next("")
