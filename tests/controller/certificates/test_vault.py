"""Certificates are kept with their keys sealed; each change is recorded with it, and no key comes out for people."""

from __future__ import annotations

from typing import Any

import msgspec

from avinet.aio import as_deferred
from avinet.controller.certificates import vault as vault_module
from avinet.controller.certificates.records import CERTIFICATES, NAMES
from avinet.enrolment.records import AUDIT
from avinet.errors import AvinetError, Conflict, Invalid, LocalError, NotFound, Precondition, TooLarge, Unavailable
from avinet.store.interface import Delete, Put, Transaction
from avinet.wire.certificates import CertificateVersion, material_sha256
from avinet.wire.message import encode
from tests.controller.certificates.making import ISSUER, VaultCase, put_of, secret_of
from tests.issuing import key_pem


class VaultTests(VaultCase):
    def refused(self, awaitable: Any, kind: type[AvinetError]) -> str:
        """The line, when it was refused as `kind` and nothing was written."""
        before = self.store.revision
        failure = self.failureResultOf(as_deferred(awaitable), kind)
        self.assertEqual(self.store.revision, before)
        self.assertNotIn("\n", str(failure.value))
        return str(failure.value)

    def audits(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(each.value) for each in self.result(self.store.range(AUDIT)).entries]

    def test_what_was_put_is_what_is_delivered(self) -> None:
        found = self.put("shop")
        material = self.vault.material("shop")
        self.assertEqual((material.chain, material.key), (found.chain_pem, found.key_pem))
        sha256 = material_sha256(found.chain_pem, found.key_pem)
        self.assertEqual(material.version, CertificateVersion(name="shop", revision=self.store.revision, sha256=sha256))
        self.assertEqual(self.vault.version("shop"), material.version)
        self.assertEqual(self.changes, ["shop"])

    def test_it_is_known_at_once_and_to_another_node(self) -> None:
        other = self.opened()
        self.put("shop")
        self.assertEqual(other.version("shop"), self.vault.version("shop"))
        self.assertEqual(list(self.opened()), ["shop"])
        self.result(other.delete("shop", "bob"))
        self.assertEqual((list(self.vault), list(other)), ([], []))

    def test_no_key_is_in_the_store_and_none_is_shown(self) -> None:
        found = self.put("shop")
        secret = secret_of(found)
        entries = self.result(self.store.range(b"")).entries
        self.assertEqual(len(entries), 3)
        for entry in entries:
            self.assertNotIn(secret.encode(), entry.value)
        shown = self.vault.require("shop").shown
        for text in (encode(shown).decode(), repr(shown), repr(put_of(found)), repr(self.vault.material("shop"))):
            self.assertNotIn(secret, text)
        self.assertIn(secret, self.vault.material("shop").key)

    def test_what_is_shown_is_what_it_is(self) -> None:
        self.put("shop", "shop.example.com", "*.Shop.example.com")
        shown = self.vault.require("shop").shown
        self.assertEqual((shown.name, shown.version, shown.certificates), ("shop", 1, 2))
        self.assertEqual(shown.names, ["shop.example.com", "*.shop.example.com"])
        self.assertEqual((shown.issuer, shown.kind), ("CN=Test CA issuing", "ECDSA secp256r1"))
        self.assertEqual((shown.author, shown.time, shown.earlier), ("ann", self.time, []))

    def test_the_same_once_more_is_no_change(self) -> None:
        found = self.put("shop")
        before = self.store.revision
        again = self.stored("shop", found)
        self.assertEqual((again.version, again.changed, self.store.revision), (1, False, before))

    def test_each_change_is_a_version_and_what_was_is_remembered_without_its_key(self) -> None:
        first = self.put("shop")
        self.time += 60
        for _ in range(12):
            self.put("shop")
        shown = self.vault.require("shop").shown
        self.assertEqual((shown.version, [each.version for each in shown.earlier]), (13, list(range(12, 2, -1))))
        self.put("blog")
        self.time += 60
        self.put("blog")
        [earlier] = self.vault.require("blog").shown.earlier
        self.assertEqual((earlier.version, earlier.author, earlier.time), (1, "ann", self.time - 60))
        self.assertNotIn(secret_of(first).encode(), self.result(self.store.range(CERTIFICATES)).entries[1].value)

    def test_who_has_seen_another_version_is_told(self) -> None:
        found = ISSUER.serve("a.example")
        self.refused(self.vault.put("shop", put_of(found), "ann", expected=1), Precondition)
        self.put("shop", expected=0)
        self.refused(self.vault.put("shop", put_of(found), "ann", expected=0), Precondition)
        self.refused(self.vault.delete("shop", "ann", expected=7), Precondition)
        self.put("shop", expected=1)
        self.result(self.vault.delete("shop", "ann", expected=2))

    def test_what_cannot_be_served_changes_nothing(self) -> None:
        found, other = ISSUER.serve("a.example"), ISSUER.serve("b.example")
        wrong = msgspec.structs.replace(put_of(found), key=other.key_pem)
        said = self.refused(self.vault.put("shop", wrong, "ann"), Invalid)
        self.assertIn("not that of the certificate", said)
        self.assertNotIn(secret_of(other), said)
        self.refused(self.vault.put("Not An Id", put_of(found), "ann"), Invalid)
        self.refused(self.vault.delete("shop", "ann"), NotFound)
        self.assertRaises(NotFound, self.vault.require, "shop")
        self.assertRaises(Invalid, self.vault.require, "../shop")

    def test_there_are_only_so_many(self) -> None:
        self.patch(vault_module, "MOST", 2)
        self.put("a")
        self.put("b")
        self.refused(self.vault.put("c", put_of(ISSUER.serve("c.example")), "ann"), TooLarge)
        self.put("b")
        self.result(self.vault.delete("a", "ann"))
        self.put("c")

    def test_the_names_are_known_with_the_condition_that_they_are_all(self) -> None:
        self.put("shop")
        names, unchanged = self.result(self.vault.names())
        self.assertEqual(names, {"shop"})
        self.put("shop")
        self.assertTrue(self.result(self.store.transact(Transaction((unchanged,), ()))).succeeded)
        self.put("blog")
        self.assertFalse(self.result(self.store.transact(Transaction((unchanged,), ()))).succeeded)

    def test_one_that_a_document_serves_stays(self) -> None:
        self.put("shop")
        self.documents.named["shop"] = ["a", "b", "c", "d"]
        said = self.refused(self.vault.delete("shop", "ann"), Conflict)
        self.assertIn("is served by document a, b, c and others", said)
        self.documents.named.clear()
        self.result(self.vault.delete("shop", "ann"))
        self.assertEqual((list(self.vault), self.result(self.vault.names())[0]), ([], frozenset()))

    def test_a_document_that_comes_to_name_it_meanwhile_is_not_overlooked(self) -> None:
        self.put("shop")

        def applied() -> None:
            self.documents.asked = lambda: None
            self.documents.named["shop"] = ["web"]
            self.result(self.store.transact(Transaction((), (Put(b"config/changed", b"web"),))))

        self.documents.asked = applied
        failure = self.failureResultOf(as_deferred(self.vault.delete("shop", "ann")), Conflict)
        self.assertIn("document web", str(failure.value))
        self.assertEqual(list(self.vault), ["shop"])

    def test_each_change_is_recorded_in_its_transaction_without_the_key(self) -> None:
        found = self.put("shop")
        self.put("shop")
        self.result(self.vault.delete("shop", "bob"))
        records = self.audits()
        self.assertEqual(
            sorted((each["kind"], each["source"], each["id"]) for each in records),
            [
                ("certificate-deleted", "bob", "shop"),
                ("certificate-put", "ann", "shop"),
                ("certificate-put", "ann", "shop"),
            ],
        )
        self.assertRegex(records[0]["outcome"], r"\Aversion \d, until \d{4}-\d\d-\d\d \d\d:\d\dZ\Z")
        self.assertEqual({len(each["fingerprint"]) for each in records}, {64})
        self.assertNotIn(secret_of(found), repr(records))
        for transaction in self.store.written:
            keys = {each.key.split(b"/")[0] for each in transaction.then}
            self.assertEqual(b"certificate" in keys, b"audit" in keys)

    def test_one_that_races_with_another_comes_after_it(self) -> None:
        self.put("shop")
        other, real, raced = self.opened(), self.store.read, []

        async def read(keys: Any) -> Any:
            found = await real(keys)
            if NAMES in keys and not raced:
                raced.append(True)
                await other.put("shop", put_of(ISSUER.serve("b.example")), "bob")
            return found

        self.patch(self.store, "read", read)
        self.put("shop", "c.example")
        shown = self.vault.require("shop").shown
        self.assertEqual((shown.version, shown.names, shown.earlier[0].author), (3, ["c.example"], "bob"))

    def test_without_a_store_nothing_is_put(self) -> None:
        self.store.unavailable = "no quorum"
        self.refused(self.vault.put("shop", put_of(ISSUER.serve("a.example")), "ann"), Unavailable)


class LostKeyTests(VaultCase):
    def test_without_the_key_that_sealed_them_that_is_said_and_they_can_be_put_again(self) -> None:
        found = self.put("shop")
        self.secrets_key.unlink()
        self.vault = self.opened()
        self.assertTrue(self.seals.lost)
        said = str(self.assertRaises(LocalError, self.vault.material, "shop"))
        self.assertIn("put the certificate again", said)
        self.assertEqual(self.vault.problem("shop"), said)
        again = self.stored("shop", found)
        self.assertEqual((again.version, again.changed, self.vault.problem("shop")), (2, True, ""))
        self.assertEqual(self.vault.material("shop").key, key_pem(found.key))

    def test_what_was_sealed_for_another_is_not_opened(self) -> None:
        self.put("shop")
        self.put("blog")
        entries = {
            entry.key: msgspec.json.decode(entry.value) for entry in self.result(self.store.range(CERTIFICATES)).entries
        }
        swapped = entries[b"certificate/shop"] | {"sealed": entries[b"certificate/blog"]["sealed"]}
        changed = Put(b"certificate/shop", msgspec.json.encode(swapped))
        self.result(self.store.transact(Transaction((), (changed,))))
        self.assertIn("another key, or is damaged", str(self.assertRaises(LocalError, self.vault.material, "shop")))

    def test_what_cannot_be_read_is_passed_over(self) -> None:
        self.put("shop")
        self.result(self.store.transact(Transaction((), (Put(b"certificate/blog", b"{}"), Delete(b"x")))))
        self.assertEqual(list(self.opened()), ["shop"])
