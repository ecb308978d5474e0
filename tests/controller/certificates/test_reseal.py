"""Private keys are sealed with another key, and whatever cuts that off, each of them can be opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.controller.certificates.records import CERTIFICATES
from avinet.controller.certificates.reseal import Resealing
from avinet.enrolment.records import AUDIT
from avinet.errors import LocalError, Unavailable
from avinet.store.interface import Put, Transaction
from avinet.trust.sealing import load_seal
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.certificates import Resealed
from tests.controller.certificates.making import VaultCase, at_once, put_of
from tests.trust.test_domain import Cut


class ResealCase(VaultCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.served: dict[str, ServerCertificate] = {name: self.put(name) for name in ("a", "b", "c")}

    def resealing(self) -> Resealing:
        return Resealing(self.store, self.vault, self.seals, "node-1", at_once, lambda: self.time)

    def sealed_by(self) -> set[str]:
        entries = self.result(self.store.range(CERTIFICATES)).entries
        return {msgspec.json.decode(entry.value)["sealed_by"] for entry in entries}

    def all_open(self) -> None:
        for name, found in self.served.items():
            self.assertEqual(self.vault.material(name).key, found.key_pem)


class ResealTests(ResealCase):
    def test_all_are_sealed_with_another_key_and_nothing_else_changes(self) -> None:
        before, versions = load_seal(self.secrets_key), [self.vault.version(name) for name in self.served]
        done = self.result(self.resealing().reseal("ann"))
        self.assertEqual(done, Resealed(certificates=3))
        after = load_seal(self.secrets_key)
        self.assertNotEqual(after.id, before.id)
        self.assertEqual(
            (self.sealed_by(), list(self.secrets_key.parent.glob(f"{self.secrets_key.name}*"))),
            ({after.id}, [self.secrets_key]),
        )
        self.assertEqual(self.secrets_key.stat().st_mode & 0o777, 0o600)
        self.all_open()
        self.assertEqual([self.vault.version(name) for name in self.served], versions, "no service engine is sent it")
        self.vault = self.opened()
        self.all_open()
        self.assertEqual([self.vault.version(name) for name in self.served], versions)
        self.assertEqual(self.vault.require("a").shown.version, 1)

    def test_it_is_recorded_and_can_be_repeated(self) -> None:
        for _ in range(2):
            self.assertEqual(self.result(self.resealing().reseal("ann")).certificates, 3)
        records = [msgspec.json.decode(each.value) for each in self.result(self.store.range(AUDIT)).entries]
        found = [(each["source"], each["outcome"]) for each in records if each["kind"] == "certificates-resealed"]
        self.assertEqual(found, [("ann", "3 certificates")] * 2)
        self.all_open()

    def test_one_that_is_put_afterwards_is_a_newer_version(self) -> None:
        before = self.vault.version("a")
        self.result(self.resealing().reseal("ann"))
        self.served["a"] = self.put("a")
        after = self.vault.version("a")
        assert before is not None
        assert after is not None
        self.assertGreater(after.revision, before.revision)
        self.assertEqual(self.vault.require("a").shown.version, 2)
        self.all_open()

    def test_what_cannot_be_opened_stays_as_it_is(self) -> None:
        self.secrets_key.unlink()
        self.vault = self.opened()
        self.served = {"c": self.put("c")}
        self.assertEqual(self.result(self.resealing().reseal("ann")), Resealed(certificates=1, closed=2))
        self.all_open()
        self.assertIn("put the certificate again", self.vault.problem("a"))

    def test_a_damaged_one_hinders_no_other(self) -> None:
        entry = self.result(self.store.read([b"certificate/b"])).entries[b"certificate/b"]
        damaged = msgspec.json.decode(entry.value) | {"sealed": "AAAA"}
        self.result(self.store.transact(Transaction((), (Put(entry.key, msgspec.json.encode(damaged)),))))
        self.served.pop("b")
        self.assertEqual(self.result(self.resealing().reseal("ann")).certificates, 2)
        self.all_open()

    def test_one_that_cannot_be_read_loses_no_key(self) -> None:
        entry = self.result(self.store.read([b"certificate/b"])).entries[b"certificate/b"]
        newer = msgspec.json.decode(entry.value) | {"version": "two"}
        self.result(self.store.transact(Transaction((), (Put(entry.key, msgspec.json.encode(newer)),))))
        self.failureResultOf(as_deferred(self.resealing().reseal("ann")), LocalError)
        self.result(self.store.transact(Transaction((), (Put(entry.key, entry.value),))))
        self.vault = self.opened()
        self.all_open()

    def test_one_that_is_put_meanwhile_is_sealed_with_the_new_key(self) -> None:
        real, putting = self.store.transact, []

        async def transact(transaction: Any) -> Any:
            if not putting:
                putting.append(as_deferred(self.vault.put("d", put_of(self.served["a"]), "bob")))
                self.assertNoResult(putting[0])
            return await real(transaction)

        self.patch(self.store, "transact", transact)
        self.result(self.resealing().reseal("ann"))
        self.successResultOf(putting[0])
        self.assertEqual(self.sealed_by(), {load_seal(self.secrets_key).id})


class CutTests(ResealCase):
    def cuts(self) -> Iterator[int]:
        """Have the power cut in the n-th thing that is made durable, until there are no more."""
        rename, transact = os.rename, self.store.transact
        for at in range(1, 100):
            left = at

            def counted() -> None:
                nonlocal left
                left -= 1
                if not left:
                    raise Cut

            def renamed(*arguments: Any) -> None:
                counted()
                rename(*arguments)

            async def transacted(transaction: Any) -> Any:
                counted()
                return await transact(transaction)

            patches = [self.patch(os, "rename", renamed), self.patch(self.store, "transact", transacted)]
            cut = False
            try:
                self.resealing().reseal("ann").send(None)
            except Cut:
                cut = True
            except StopIteration:
                pass
            for patch in patches:
                patch.restore()
            if not cut:
                return
            yield at

    def test_the_power_may_be_cut_anywhere_and_it_goes_on_with_the_next_start(self) -> None:
        count = 0
        for _ in self.cuts():
            count += 1
            self.vault = self.opened()
            self.all_open()
            self.result(self.resealing().go_on())
            self.assertFalse(self.seals.succeeding)
            self.assertEqual(self.sealed_by(), {load_seal(self.secrets_key).id})
            self.all_open()
        self.assertEqual(count, 6, "the new key, three certificates, the record, the old key")

    def test_a_store_that_is_away_is_said_to_be_and_nothing_is_lost(self) -> None:
        self.store.unavailable = "no quorum"
        self.failureResultOf(as_deferred(self.resealing().reseal("ann")), Unavailable)
        self.all_open()
        self.store.unavailable = ""
        self.result(self.resealing().reseal("ann"))
        self.all_open()

    def test_a_full_disk_is_said_to_be_and_nothing_is_lost(self) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch = self.patch(os, "rename", full)
        failure = self.failureResultOf(as_deferred(self.resealing().reseal("ann")), LocalError)
        patch.restore()
        self.assertIn("No space left", str(failure.value))
        self.all_open()
        self.result(self.resealing().reseal("ann"))
        self.all_open()

    def test_without_one_that_was_cut_off_nothing_is_done_at_the_start(self) -> None:
        before = self.store.revision
        self.result(self.resealing().go_on())
        self.assertEqual(self.store.revision, before)
