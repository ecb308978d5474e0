"""The CA of etcd: made once, renewed for the same keys, and never one of a domain of trust."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import Conflict, Invalid, LocalError
from avinet.files import private_folder
from avinet.store.etcd.members import CA_LIFE, MEMBER_LIFE, Held, MutualTLS, due, found_members
from avinet.trust.domain import found
from avinet.trust.path import signed_by

NOW = datetime(2027, 1, 1, tzinfo=UTC)
MEMBERS = {"etcd-1": ["10.0.0.1", "etcd-1.example.com"], "etcd-2": ["fd00::2"]}


class FoundMembersTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()

    def found(self, members: dict[str, list[str]] = MEMBERS, at: datetime = NOW, *, renew: bool = False) -> list[Held]:
        return found_members(self.folder, members, at, renew=renew)

    def became(self, held: list[Held]) -> dict[str, str]:
        return {each.name: each.became for each in held}

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def test_members_serve_and_a_client_does_not(self) -> None:
        ca, *others = self.found()
        self.assertEqual([ca.name, *(each.name for each in others)], ["ca", "client", "etcd-1", "etcd-2"])
        for each in others:
            self.assertTrue(signed_by(each.certificate, ca.certificate), each.name)
            usages = each.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            self.assertEqual(ExtendedKeyUsageOID.SERVER_AUTH in usages, each.name != "client", each.name)
            self.assertIn(ExtendedKeyUsageOID.CLIENT_AUTH, usages)
        self.assertEqual([each.addresses for each in others], [(), ("10.0.0.1", "etcd-1.example.com"), ("fd00::2",)])
        self.assertEqual(len(self.files()), 8)
        self.assertEqual({path.stat().st_mode & 0o777 for path in self.folder.iterdir()}, {0o600})
        self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)

    def test_what_is_there_stays_and_what_is_missing_is_made(self) -> None:
        self.found()
        before = self.files()
        (self.folder / "etcd-1.pem").unlink()
        held = self.found({"etcd-3": ["10.0.0.3"]})
        self.assertEqual(
            self.became(held), {"ca": "kept", "client": "kept", "etcd-2": "kept", "etcd-3": "made"}, "each by its name"
        )
        self.assertEqual(self.became(self.found())["etcd-1"], "made")
        after = self.files()
        for name in ("ca.pem", "ca.key", "client.pem", "client.key", "etcd-2.pem", "etcd-2.key"):
            self.assertEqual(after[name], before[name], name)

    def test_renewal_is_for_what_is_nearly_expired_and_keeps_the_key(self) -> None:
        self.found()
        before = self.files()
        late = NOW + MEMBER_LIFE * 0.74
        self.assertEqual(set(self.became(self.found({}, late, renew=True)).values()), {"kept"})
        late = NOW + MEMBER_LIFE * 0.76
        self.assertEqual(set(self.became(self.found({}, late)).values()), {"kept"}, "not without being told to")
        held = self.found({}, late, renew=True)
        self.assertEqual(
            self.became(held), {"ca": "kept", "client": "renewed", "etcd-1": "renewed", "etcd-2": "renewed"}
        )
        self.assertEqual([each.addresses for each in held][2:], [("10.0.0.1", "etcd-1.example.com"), ("fd00::2",)])
        after = self.files()
        self.assertEqual({name for name in after if after[name] == before[name]}, {
            "ca.pem", "ca.key", "client.key", "etcd-1.key", "etcd-2.key",
        })  # fmt: skip

    def test_under_a_ca_that_was_renewed_all_goes_on(self) -> None:
        ca, client, *_ = self.found()
        late = NOW + CA_LIFE * 0.9
        self.found({}, late - MEMBER_LIFE / 10, renew=True)
        before = self.found({}, late)
        renewed = self.found({}, late, renew=True)
        self.assertEqual(self.became(renewed)["ca"], "kept", "it was renewed a month ago")
        self.assertGreater(renewed[0].certificate.not_valid_after_utc, ca.certificate.not_valid_after_utc)
        self.assertTrue(signed_by(client.certificate, renewed[0].certificate), "one of before, under the new one")
        self.assertTrue(signed_by(before[1].certificate, ca.certificate), "a new one, where the old CA still is")

    def test_no_certificate_outlives_its_ca(self) -> None:
        self.found()
        ca, *others = self.found({"etcd-9": ["10.0.0.9"]}, NOW + CA_LIFE - timedelta(days=9))
        self.assertEqual(others[-1].certificate.not_valid_after_utc, ca.certificate.not_valid_after_utc)
        self.assertTrue(due(others[-1].certificate, NOW + CA_LIFE - timedelta(days=1)))

    def test_under_a_ca_that_has_expired_nothing_is_made(self) -> None:
        self.found()
        after = NOW + CA_LIFE + timedelta(days=1)
        self.assertIn("ca.pem has expired", str(self.assertRaises(LocalError, self.found, MEMBERS, after)))
        self.assertEqual(set(self.became(self.found({}, after, renew=True)).values()), {"renewed"})

    def test_other_addresses_are_refused_and_with_renewal_taken(self) -> None:
        self.found()
        moved = {"etcd-3": ["10.0.0.3"], "etcd-2": ["10.0.0.2"]}
        refused = self.assertRaises(Conflict, self.found, moved)
        self.assertIn("etcd-2.pem is for fd00::2; add --renew", str(refused))
        self.assertFalse((self.folder / "etcd-3.pem").exists(), "nothing of it was made")
        held = self.found(moved, renew=True)
        self.assertEqual({each.name: each.addresses for each in held}["etcd-2"], ("10.0.0.2",))
        self.assertEqual(self.became(self.found(MEMBERS | moved))["etcd-2"], "kept")

    def test_a_key_that_is_with_its_member_is_not_missed_until_it_is_needed(self) -> None:
        self.found()
        (self.folder / "etcd-1.key").unlink()
        self.assertEqual(self.became(self.found())["etcd-1"], "kept")
        late = NOW + MEMBER_LIFE * 0.9
        self.assertEqual(self.became(self.found({}, late, renew=True))["etcd-1"], "renewed")
        self.assertTrue((self.folder / "etcd-1.key").exists())

    def test_names_and_addresses_that_cannot_be_are_refused_before_anything_is_made(self) -> None:
        for name in ("ca", "client", "../etcd", "", "Etcd 1"):
            self.assertRaises(Invalid, self.found, {name: ["10.0.0.1"]})
        for address in ("", "a b", "https://etcd-1", "etcd_1", "-x", "10.0.0.1:2379", "x" * 64):
            self.assertRaises(Invalid, self.found, {"etcd-1": [address]})
        self.assertFalse(self.folder.exists())

    def test_a_folder_of_something_else_is_refused(self) -> None:
        found(self.folder, "node-1", NOW)
        self.assertIn("something else", str(self.assertRaises(Conflict, self.found)))

    def test_a_making_that_was_cut_off_is_begun_anew(self) -> None:
        private_folder(self.folder)
        (self.folder / "ca.key").write_bytes(b"half of it")
        self.assertEqual(set(self.became(self.found()).values()), {"made"})


class MutualTLSTests(SynchronousTestCase):
    def test_a_ca_of_a_domain_of_trust_is_refused(self) -> None:
        folder = private_folder(Path(self.mktemp()).absolute())
        domain = found(folder / "trust", "node-1", NOW)
        found_members(folder / "etcd", MEMBERS, NOW)
        pair = folder / "etcd" / "client.pem", folder / "etcd" / "client.key"
        MutualTLS.load(folder / "etcd" / "ca.pem", *pair, time.time)
        (folder / "issuing.pem").write_bytes(domain.issuing.certificate_pem)
        for place in (folder / "trust" / "root.pem", folder / "issuing.pem"):
            refused = self.assertRaises(LocalError, MutualTLS.load, place, *pair, time.time)
            self.assertIn("is a CA of a domain of trust", str(refused))
