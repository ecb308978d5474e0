"""The store at the command line: the certificates of etcd."""

from __future__ import annotations

import json

from avinet.cli.exits import REFUSED
from tests.cli.scripted import ScriptedCase


class CertificateTests(ScriptedCase):
    def test_they_are_made_and_it_is_said_what_they_are_for(self) -> None:
        folder = str(self.folder / "etcd")
        shown = self.avictl("store", "certificates", folder, "etcd-1=10.0.0.1,etcd-1.example.com")
        self.assertEqual(shown.code, 0, shown)
        self.assertRegex(shown.out, r"etcd-1.pem +made +20\d\d-.* +10\.0\.0\.1, etcd-1\.example\.com\n")
        self.assertIn("the domain's is never for etcd", shown.out)
        again = self.avictl("store", "certificates", folder, "--output", "json")
        self.assertEqual(
            [(each["file"], each["became"], each["addresses"]) for each in json.loads(again.out)],
            [
                ("ca.pem", "kept", []),
                ("client.pem", "kept", []),
                ("etcd-1.pem", "kept", ["10.0.0.1", "etcd-1.example.com"]),
            ],
        )

    def test_what_is_no_member_is_refused_in_a_line(self) -> None:
        for member, said in (("etcd-1", "is no member"), ("etcd-1=a b", "neither a host name"), ("ca=a", "ca")):
            shown = self.avictl("store", "certificates", str(self.folder / "etcd"), member)
            self.assertEqual((shown.code, shown.err.count("\n")), (REFUSED, 1), shown)
            self.assertIn(said, shown.err)
