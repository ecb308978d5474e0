"""Keys used for what they are not for: every key of the domain, as every user, and what an operator sees of it (S16)."""

from __future__ import annotations

import time
from base64 import b64decode
from itertools import product
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import Tasks, as_deferred
from avinet.controller.misuse import BURST, PER_S, Alarms, Misuse
from avinet.controller.sessions import Sessions
from avinet.enrolment.directory import Directory
from avinet.enrolment.records import EngineRecord, engine_key, put_record
from avinet.ssh import phases
from avinet.ssh.strings import string
from avinet.store.interface import OPERATIONS, Transaction
from avinet.trust import keys
from tests.enrolment.making import Newborn, Office, document, domain
from tests.ssh.attacker import Siege
from tests.store.memory import MemoryStore

USERS = ("aviseuser", "avictlruser", "root", "")
ECDSA = b"ecdsa-sha2-nistp256"


class MisuseCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.alarms: list[tuple[str, str, str]] = []
        store = MemoryStore(self.clock)
        office = Office(store)
        self.result(office.admit_image())
        self.directory = Directory(store, self.clock, Tasks(), lambda id, record: None)
        self.result(self.directory.start())
        self.engines = {}
        for id in ("se-1", "se-2"):
            self.engines[id] = Newborn(id, self.result(office.expect(id)))
            self.result(office.registrar.enrol(self.engines[id].signed(office.time)))
        self.result(office.engines.revoke("se-2", "operator"))
        self.clock.advance(0)
        self.sessions = Sessions(
            self.clock, self.directory, alarm=lambda *_: None, ready=lambda _: None, gone=lambda _: None
        )
        self.former = keys.generate()
        self.misuse = Misuse(
            self.directory,
            lambda: frozenset({keys.public_line(domain().first_image.key)}),
            lambda: document().nodes,
            lambda: ("node-1", domain().server.public_line),
            lambda: [keys.public_line(self.former)],
            Alarms(self.clock.seconds, lambda *alarm: self.alarms.append(alarm)),
        )

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def siege(self) -> Siege:
        """An attacker who may log in now."""
        siege = Siege(admission=self.sessions, on_claim=self.misuse.turned_down)
        siege.attacker.begin()
        siege.flush()
        siege.attacker.heard.clear()
        return siege

    def tried(self, user: str, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bool:
        """Whether the key opens anything for the user, whose signature is good."""
        siege = self.siege()
        if isinstance(key, Ed25519PrivateKey):
            siege.attacker.say(*siege.attacker.query(user, key))
            siege.attacker.say(*siege.attacker.claim(user, key))
        else:
            blob = b64decode(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
            signature = key.sign(blob, ec.ECDSA(SHA256()))
            rest = b"\1" + string(ECDSA) + string(blob) + string(string(ECDSA) + string(signature))
            siege.attacker.say(*siege.attacker.request(user, b"publickey", rest))
        siege.flush()
        well = siege.server.identity is not None
        if not well:
            self.assertEqual(set(siege.attacker.heard_numbers()), {phases.USERAUTH_FAILURE})
            self.assertEqual(siege.services, [])
        siege.end()
        return well


class KeyTests(MisuseCase):
    def every_key(self) -> dict[str, tuple[Any, tuple[str, str]]]:
        """Every key there is, with the kind of alarm and the id in it."""
        of, one, two = domain(), self.engines["se-1"], self.engines["se-2"]
        return {
            "an image": (of.first_image.key, ("image-key-as-login", "")),
            "a node's certificate": (of.server.key, ("node-key-as-login", "node-1")),
            "a node's host key": (of.ssh_host_key, ("node-key-as-login", "node-1")),
            "a node's avictlruser key": (of.avictlruser_key, ("node-key-as-login", "node-1")),
            "a service engine": (one.key, ("engine-key-as-login", "se-1")),
            "a service engine's host key": (one.host_key, ("engine-key-as-login", "se-1")),
            "a revoked service engine": (two.key, ("engine-key-as-login", "se-2")),
            "a node's former key": (self.former, ("node-key-as-login", "")),
            "a stranger": (keys.generate(), ("", "")),
            "a stranger's certificate": (ec.generate_private_key(ec.SECP256R1()), ("", "")),
        }

    def test_each_opens_what_it_is_for_and_everything_else_is_an_alarm(self) -> None:
        for (name, (key, (kind, id))), user in product(self.every_key().items(), USERS):
            self.alarms.clear()
            self.clock.advance(3600)
            well = self.tried(user, key)
            self.assertEqual(well, (name, user) == ("a service engine", "aviseuser"), (name, user))
            seen = {(what, whose) for what, whose, _ in self.alarms}
            self.assertEqual(seen, set() if well or not kind else {(kind, id)}, (name, user))
            self.assertLessEqual({source for _, _, source in self.alarms}, {"192.0.2.1:22"})

    def test_a_key_shown_first_is_seen_behind_others(self) -> None:
        siege = self.siege()
        siege.attacker.say(*siege.attacker.claim(key=domain().first_image.key))
        for _ in range(5):
            siege.attacker.say(*siege.attacker.claim(key=keys.generate()))
        siege.flush()
        siege.end()
        self.assertEqual([kind for kind, _, _ in self.alarms], ["image-key-as-login"])
        self.assertEqual(len(siege.refusals), 1, "and it is one line")

    def test_passwords_are_refused_and_an_alarm(self) -> None:
        for method in (b"password", b"keyboard-interactive"):
            self.alarms.clear()
            siege = self.siege()
            siege.attacker.say(*siege.attacker.request("aviseuser", method, b"\0" + string(b"secret")))
            siege.flush()
            self.assertEqual(siege.attacker.heard, [(phases.USERAUTH_FAILURE, string(b"publickey") + b"\0")])
            siege.end()
            self.assertEqual([(kind, id) for kind, id, _ in self.alarms], [("password-as-login", "")])
            self.assertNotIn("secret", repr(siege.refusals))

    def test_a_flood_is_recorded_now_and_then(self) -> None:
        for _ in range(100):
            siege = self.siege()
            for _ in range(11):
                siege.attacker.say(*siege.attacker.request("aviseuser", b"password", b"\0" + string(b"x")))
            siege.flush()
            siege.end()
        self.assertEqual(len(self.alarms), BURST)
        for _ in range(10):
            self.clock.advance(1 / PER_S)
            self.assertFalse(self.tried("root", domain().first_image.key))
        kinds = [kind for kind, _, _ in self.alarms]
        self.assertEqual(kinds.count("password-as-login"), BURST)
        self.assertLessEqual(kinds.count("image-key-as-login"), BURST + 10)


class LookUpTests(MisuseCase):
    """What an attempt costs does not depend on how many keys there are."""

    def cost(self, count: int) -> float:
        """The CPU seconds of a thousand look-ups among `count` keys."""
        store = MemoryStore(self.clock)
        enrolled = [
            EngineRecord(
                id=f"se-{number}", state="enrolled", generation=1, created=0.0, fingerprint=f"SHA256:{number:043}"
            )
            for number in range(count)
        ]
        for at in range(0, count, OPERATIONS):
            puts = tuple(put_record(engine_key(each.id), each) for each in enrolled[at : at + OPERATIONS])
            self.result(store.transact(Transaction((), puts)))
        directory = Directory(store, self.clock, Tasks(), lambda id, record: None)
        self.result(directory.start())
        self.assertEqual(len(directory), count)
        sessions = Sessions(self.clock, directory, alarm=lambda *_: None, ready=lambda _: None, gone=lambda _: None)
        lines = [keys.public_line(keys.generate()) for _ in range(20)]
        costs = []
        for _ in range(5):
            began = time.process_time()
            for line in lines * 50:
                self.assertFalse(sessions.known("aviseuser", line))
            costs.append(time.process_time() - began)
        directory.stop()
        return min(costs)

    def test_10000_keys_cost_no_more_than_ten(self) -> None:
        """(S14)"""
        self.assertLess(self.cost(10_000), 3 * self.cost(10))
