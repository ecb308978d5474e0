"""A service engine changes its key: only with both keys, only for itself, and without losing what it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.enrolment.directory import Login
from avinet.enrolment.ratchets import BATCH_S, Ratchets
from avinet.enrolment.records import FORMER, EngineRecord, engine_key
from avinet.enrolment.rotation import Rotations
from avinet.errors import Conflict, Gone, Invalid, Unauthenticated
from avinet.rest.route import Request
from avinet.trust import keys, signatures
from avinet.trust.signatures import BY_NEW_KEY, BY_OLD_KEY, Kind, SignedRequest
from avinet.wire.message import encode
from avinet.wire.session import KeyRotation
from tests.enrolment.making import Newborn, Office
from tests.store.memory import MemoryStore

Signer = tuple[Kind, Ed25519PrivateKey]


class RotationTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.office = Office(self.store)
        self.result(self.office.admit_image())
        self.engines = {}
        for id in ("se-1", "se-2"):
            self.engines[id] = Newborn(id, self.result(self.office.expect(id)))
            self.result(self.office.registrar.enrol(self.engines[id].signed(self.office.time)))
        self.old, self.new = self.engines["se-1"].key, keys.generate()
        self.rotations = Rotations(self.store, "node-1", self.office.now)

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def login(self, key: Ed25519PrivateKey | None = None, generation: int = 1) -> Login:
        return Login("se-1", generation, keys.fingerprint(keys.public_line(key or self.old)))

    def asked(self, *signers: Signer, key: Ed25519PrivateKey | None = None) -> Request:
        body = encode(KeyRotation(ssh_public_key=keys.public_line(key or self.new)))
        message = SignedRequest("POST", "control", "/v1/key", {"content-type": "application/json", "host": "control"})
        for kind, signer in signers or ((BY_OLD_KEY, self.old), (BY_NEW_KEY, self.new)):
            keyid = keys.fingerprint(keys.public_line(signer))
            signatures.sign(message, body, kind, signer, keyid, now=self.office.time)
        return self.engines["se-1"].request(message, body)

    def rotate(self, asked: Request | None = None, login: Login | None = None) -> None:
        self.result(self.rotations.rotate(login or self.login(), asked or self.asked(), "192.0.2.7"))

    def refused(self, error: type[Exception], asked: Request | None = None, login: Login | None = None) -> None:
        revision = self.store.revision
        rotating = self.rotations.rotate(login or self.login(), asked or self.asked(), "192.0.2.7")
        self.failureResultOf(as_deferred(rotating), error)
        self.assertEqual(self.store.revision, revision)

    def record(self) -> EngineRecord:
        entry = self.result(self.store.read([engine_key("se-1")])).entries[engine_key("se-1")]
        return msgspec.json.decode(entry.value, type=EngineRecord)

    def test_the_new_key_takes_the_place_of_the_old_one(self) -> None:
        before = self.record()
        self.rotate()
        after = self.record()
        line, was = keys.public_line(self.new), before.public_key
        wanted = msgspec.structs.replace(before, public_key=line, fingerprint=keys.fingerprint(line), former=[was])
        self.assertEqual(after, wanted)
        self.assertEqual(
            self.owned(),
            {after.fingerprint: "se-1", before.fingerprint: "se-1", self.engines["se-2"].fingerprint: "se-2"},
        )
        last = self.result(self.office.events())[-1]
        self.assertEqual((last.kind, last.fingerprint), ("rotate", after.fingerprint))
        self.assertIn(before.fingerprint, last.outcome)

    def owned(self) -> dict[str, str]:
        entries = self.result(self.store.range(b"key/")).entries
        return {entry.key[4:].decode(): entry.value.decode() for entry in entries}

    def test_a_former_key_is_nobody_s_any_more(self) -> None:
        self.rotate()
        again = self.asked((BY_OLD_KEY, self.new), (BY_NEW_KEY, self.old), key=self.old)
        self.refused(Conflict, again, self.login(self.new))
        claim = self.result(self.office.expect("se-3"))
        third = Newborn("se-3", claim)
        third.key = self.old
        self.failureResultOf(as_deferred(self.office.registrar.enrol(third.signed(self.office.time))), Conflict)

    def test_only_so_many_former_keys_are_remembered(self) -> None:
        every = [self.old]
        for _ in range(FORMER + 3):
            new = keys.generate()
            self.rotate(self.asked((BY_OLD_KEY, every[-1]), (BY_NEW_KEY, new), key=new), self.login(every[-1]))
            every.append(new)
        kept = [keys.public_line(each) for each in every[-FORMER - 1 : -1]]
        self.assertEqual(self.record().former, kept)
        mine = {fingerprint for fingerprint, id in self.owned().items() if id == "se-1"}
        self.assertEqual(mine, {keys.fingerprint(each) for each in (*kept, keys.public_line(every[-1]))})
        self.result(self.office.engines.forget("se-1", "ann"))
        self.assertEqual(set(self.owned().values()), {"se-2"})

    def test_a_key_that_is_for_something_else_is_not_taken(self) -> None:
        self.rotations = Rotations(self.store, "node-1", self.office.now, lambda key: key == keys.public_line(self.new))
        self.refused(Conflict)

    def test_once_more_it_changes_nothing(self) -> None:
        asked = self.asked()
        self.rotate(asked)
        revision = self.store.revision
        self.rotate(asked)
        self.assertEqual(self.store.revision, revision)

    def test_both_keys_must_have_signed(self) -> None:
        stranger = keys.generate()
        self.refused(Unauthenticated, self.asked((BY_OLD_KEY, self.old)))
        self.refused(Unauthenticated, self.asked((BY_NEW_KEY, self.new)))
        self.refused(Unauthenticated, self.asked((BY_OLD_KEY, stranger), (BY_NEW_KEY, self.new)))
        self.refused(Unauthenticated, self.asked((BY_OLD_KEY, self.old), (BY_NEW_KEY, stranger)))
        self.refused(Unauthenticated, self.asked((BY_OLD_KEY, self.new), (BY_NEW_KEY, self.old)))
        self.refused(Unauthenticated, self.asked((BY_OLD_KEY, self.old), (BY_NEW_KEY, self.new), key=stranger))
        other = self.engines["se-2"].key
        self.refused(Unauthenticated, self.asked((BY_OLD_KEY, other), (BY_NEW_KEY, self.new)))

    def test_what_was_changed_on_the_way_proves_nothing(self) -> None:
        asked = self.asked()
        self.refused(Unauthenticated, replace(asked, target="/v1/session"))
        self.refused(Unauthenticated, replace(asked, body=asked.body + b" "))
        self.refused(Invalid, replace(asked, body=b"{}"))

    def test_the_key_of_another_is_not_taken(self) -> None:
        other = self.engines["se-2"].key
        self.refused(Conflict, self.asked((BY_OLD_KEY, self.old), (BY_NEW_KEY, other), key=other))

    def test_a_session_that_is_over_changes_nothing(self) -> None:
        self.refused(Gone, login=self.login(generation=2))
        self.refused(Gone, login=self.login(keys.generate()))
        self.result(self.office.engines.revoke("se-1", "ann"))
        self.refused(Gone)
        self.result(self.office.engines.forget("se-1", "ann"))
        self.refused(Gone)

    def test_its_memory_goes_on_with_the_new_key(self) -> None:
        tasks = Tasks()
        self.addCleanup(tasks.stop)
        ratchets = Ratchets(self.store, self.clock, tasks)

        def hello(shown: str, login: Login) -> Any:
            turning = ratchets.turn(login, shown)
            self.clock.advance(BATCH_S)
            return turning

        first = self.successResultOf(hello("", self.login()))
        second = self.successResultOf(hello(first, self.login()))
        self.rotate()
        self.failureResultOf(hello("", self.login(self.new)), Conflict)
        self.successResultOf(hello(second, self.login(self.new)))
