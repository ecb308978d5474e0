"""The store at the command line: the certificates of etcd, and whether it is well."""

from __future__ import annotations

import json

from avinet.cli.exits import FAULT, OK, REFUSED
from avinet.files import private_folder
from avinet.store.tables import Tables
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


class CheckTests(ScriptedCase):
    def test_a_file_is_looked_at_and_the_code_says_whether_it_is_well(self) -> None:
        settings = self.folder / "controller.toml"
        settings.write_text('state = "state"\n')
        shown = self.avictl("store", "check", "--config", str(settings))
        self.assertEqual(shown.code, FAULT, shown)
        self.assertRegex(shown.out, r"BAD  there is no store .*/state/store.sqlite; a node makes it when it starts\n$")
        tables = Tables(private_folder(self.folder / "state") / "store.sqlite")
        self.addCleanup(tables.close)
        shown = self.avictl("store", "check", "--config", str(settings))
        self.assertEqual(shown.code, OK, shown)
        self.assertRegex(shown.out, r"store +SQLite, .*/state/store.sqlite\n")
        self.assertTrue(shown.out.endswith("ok   nothing is wrong\n"), shown)
        found = json.loads(self.avictl("store", "check", "--config", str(settings), "-o", "json").out)
        self.assertEqual((found["engine"], found["revision"], found["faults"]), ("sqlite", 0, []))

    def test_without_a_domain_nobody_knows_what_to_look_for_in_etcd(self) -> None:
        settings = self.folder / "controller.toml"
        settings.write_text('state = "state"\n[store]\nengine = "etcd"\n')
        self.assertIn("there is no domain of trust", self.refused(FAULT, "store", "check", "--config", str(settings)))
