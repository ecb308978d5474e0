"""Certificates on a node that runs: put and shown, kept across restarts, losses and backups; and no key is ever seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from typing_extensions import override

from avinet.cli.exits import FAULT, NOT_FOUND, OK, REFUSED
from avinet.trust.domain import format_of, with_format
from avinet.trust.image import fingerprint
from tests.integration.certificates import Desk, found_in
from tests.integration.node import NodeCase


class CertificateCase(NodeCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.state: Path = self.node.folder / "controller"
        self.desk = Desk(self.machine)

    def shown(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.machine.asked("certificate", "show", name)
        return found

    def refused(self, code: int, said: str, *arguments: str) -> None:
        """`avictl` ends with `code`, and with one line in which `said` is found."""
        done = self.node.avictl(*arguments)
        line = done.stderr.decode()
        self.assertEqual((done.returncode, done.stdout, line.count("\n")), (code, b"", 1), (arguments, done))
        self.assertIn(said, line)

    def document(self, port: int, *certificates: str, engine: str = "se-1", **tls: str) -> str:
        """The file of a document that serves these certificates."""
        secure = {"certificates": list(certificates), **tls}
        path = self.node.folder / "web.json"
        web = {"name": "web", "address": "127.0.0.1", "port": port, "pool": "p", "tls": secure}
        pool = {"name": "p", "servers": [{"name": "s", "address": "127.0.0.1", "port": self.backend}]}
        document = {"name": "web", "virtual_services": [web], "pools": [pool]}
        path.write_text(json.dumps({**document, "applies_to": {"kind": "service-engine", "id": engine}}))
        return str(path)

    backend = 9


class KeptTests(CertificateCase):
    def test_one_is_put_and_looked_at_and_deleted(self) -> None:
        found = self.desk.put("shop", "shop.example.com", "www.example.com")
        shown = self.shown("shop")
        self.assertEqual((shown["version"], shown["names"]), (1, ["shop.example.com", "www.example.com"]))
        self.assertEqual((shown["issuer"], shown["fingerprint"]), ("CN=Test CA issuing", fingerprint(found.chain[0])))
        self.assertEqual(shown["not_after"], found.chain[0].not_valid_after_utc.timestamp())
        self.assertIn("shop.example.com www.example.com", self.machine.avictl("certificate", "list"))
        self.desk.put("shop", options=("--expect", "1"))
        self.assertEqual((self.shown("shop")["version"], self.shown("shop")["earlier"][0]["version"]), (2, 1))
        chain, key = self.desk.files(self.desk.issuer.serve("a.example"))
        put = ("certificate", "put", "shop", "--chain", chain, "--key", key)
        self.refused(REFUSED, "is at version 2, not 1", *put, "--expect", "1")
        self.refused(REFUSED, "the key is not that of the certificate", *put[:-1], self.desk.files(found)[1])
        self.refused(FAULT, "cannot read", *put[:-1], "missing.pem")
        document = self.document(443, "shop", "blog")
        self.refused(
            REFUSED, "there is no certificate blog, which document web names", "config", "apply", "-f", document
        )
        self.desk.put("blog")
        self.machine.avictl("config", "apply", "-f", document)
        self.refused(REFUSED, "certificate shop is served by document web", "certificate", "delete", "shop")
        self.assertEqual(self.shown("shop")["used_by"], [{"document": "web", "virtual_services": ["web"]}])
        self.machine.avictl("config", "delete", "web")
        self.machine.avictl("certificate", "delete", "shop")
        self.refused(NOT_FOUND, "there is no certificate shop", "certificate", "show", "shop")
        kinds = [each["kind"] for each in self.machine.asked("events", "--of", "shop")["items"]]
        self.assertEqual(kinds, ["certificate-put", "certificate-put", "certificate-deleted"])

    def test_a_key_that_was_lost_is_said_to_be_and_the_certificates_are_put_again(self) -> None:
        found = self.desk.put("shop")
        self.desk.put("blog")
        self.machine.kill("controller")
        (self.state / "trust" / "secrets.key").unlink()
        self.node.start_controller()
        self.assertIn("secrets.key is lost", self.machine.log_tail("controller", 50))
        self.assertIn("the private keys of 2 certificates cannot be opened", self.machine.log_tail("controller", 50))
        self.assertIn("put the certificate again", self.shown("shop")["problem"])
        ended = self.node.avictl("doctor")
        self.assertEqual(ended.returncode, FAULT)
        self.assertIn("BAD  private keys: of 2 certificates, those of 2 cannot be opened", ended.stdout.decode())
        chain, key = self.desk.files(found)
        for name in ("shop", "blog"):
            self.machine.avictl("certificate", "put", name, "--chain", chain, "--key", key)
        self.assertEqual((self.shown("shop")["version"], self.shown("shop").get("problem")), (2, None))
        self.machine.kill("controller")
        self.node.start_controller()
        self.assertNotIn("problem", self.shown("shop"))

    def test_they_come_back_from_a_backup(self) -> None:
        self.desk.put("shop")
        backup = self.node.folder / "backup.tar.gz"
        listed = self.machine.asked("backup", "--config", str(self.node.settings), "--out", str(backup))
        self.assertIn("trust/secrets.key", listed["files"])
        self.machine.kill("controller")
        shutil.rmtree(self.state)
        self.machine.avictl("restore", str(backup), "--config", str(self.node.settings))
        self.node.start_controller()
        self.assertNotIn("problem", self.shown("shop"))
        self.assertEqual(self.shown("shop")["version"], 1)

    def test_a_state_folder_of_an_older_version_is_upgraded_when_the_node_starts(self) -> None:
        self.machine.end("controller")
        (self.state / "trust" / "secrets.key").unlink()
        with_format(self.state / "trust", 1)
        self.node.start_controller()
        self.assertIn("has format 2 now", self.machine.log_tail("controller", 50))
        self.assertTrue((self.state / "before-format-2" / "trust" / "domain.json").exists())
        self.desk.put("shop")
        self.assertNotIn("problem", self.shown("shop"))
        self.refused(FAULT, "is in use by process", "node", "upgrade", "--undo", "--state", str(self.state))
        self.machine.end("controller")
        self.machine.avictl("node", "upgrade", "--undo", "--state", str(self.state))
        self.assertEqual(format_of(self.state / "trust"), 1)
        self.node.start_controller()
        self.assertNotIn("problem", self.shown("shop"))

    def test_what_expires_is_said(self) -> None:
        self.node.settings.write_text(
            self.node.settings.read_text() + f"\n[certificates]\nsoon_s = {100 * 86400.0}\nurgent_s = 60.0\n"
        )
        self.machine.end("controller")
        self.node.start_controller()
        self.desk.put("shop")

        def told() -> list[dict[str, Any]]:
            found = self.machine.asked("events", "--kind", "certificate-expires")["items"]
            return list(found)

        self.machine.until("it is told", told)
        [event] = told()
        self.assertEqual((event["id"], event["notice"], event.get("alarm")), ("shop", True, None))
        self.assertRegex(event["outcome"], r"\Aexpires in 89d 23h, at \d{4}-\d\d-\d\d \d\d:\d\dZ\Z")
        self.assertIn("certificate shop in 89d", self.machine.avictl("status"))
        self.assertIn("BAD  certificate shop: valid for 89d", self.node.avictl("doctor").stdout.decode())


class RedactionTests(CertificateCase):
    engines = ("se-1",)

    def test_no_private_key_is_seen_anywhere_but_where_it_is_served(self) -> None:
        desk, said = self.desk, []

        def tried(*arguments: str) -> int:
            done = self.node.avictl(*arguments)
            said.append(done.stdout + done.stderr)
            return done.returncode

        found = desk.put("shop")
        desk.put("shop")
        locked = found.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
        chain, key = desk.files(found)
        other, _ = desk.files(desk.issuer.serve("other.example.com"))
        for name, data in {
            "locked": locked.decode(),
            "torn": found.key_pem[:-40],
            "double": found.key_pem * 2,
            "both": found.chain_pem + found.key_pem,
            "plain": found.key_pem.splitlines()[1],
            "binary": "é" + found.key_pem,
            "huge": found.key_pem * 400,
        }.items():
            path = self.node.folder / f"key-{name}"
            path.write_text(data)
            brought = ("--chain", chain, "--key", str(path)) if name != "both" else ("--chain", str(path), "--key", key)
            self.assertNotEqual(tried("certificate", "put", "shop", *brought), OK, name)
        self.assertEqual(tried("certificate", "put", "shop", "--chain", other, "--key", key), REFUSED)
        self.assertEqual(tried("certificate", "put", "No-Id", "--chain", chain, "--key", key), REFUSED)
        self.raw(said, "PUT", "/v1/certificates/shop", {"chain": found.chain_pem, "key": [found.key_pem]})
        self.raw(said, "PUT", "/v1/certificates/shop", {"chain": found.chain_pem, "key": found.key_pem, "x": 1})
        self.raw(said, "PUT", "/v1/certificates/shop", found.key_pem)
        self.raw(said, "PUT", "/v1/configurations/shop", {"chain": found.chain_pem, "key": found.key_pem})
        self.raw(said, "POST", "/v1/certificates", {"chain": found.chain_pem, "key": found.key_pem})
        document = self.document(4430, "shop")
        backup = str(self.node.folder / "backup.tar.gz")
        for words in (
            "config apply -f DOCUMENT",
            "config diff web",
            "config history web",
            "config get web",
            "config list",
            "certificate list",
            "certificate show shop",
            "certificate reseal",
            "se list",
            "se show se-1",
            "run se-1 config",
            "run se-1 status",
            "run se-1 dataplane",
            "events --limit 500",
            "jobs list",
            "status",
            "doctor",
            "backup --config SETTINGS --out BACKUP",
            "certificate delete shop",
        ):
            places = {"DOCUMENT": document, "SETTINGS": str(self.node.settings), "BACKUP": backup}
            arguments = [places.get(word, word) for word in words.split()]
            tried("--output", "json", *arguments)  # it has all that other forms have
        self.assertGreater(len(said), 30)
        for text in said:
            for secret in desk.secrets:
                self.assertNotIn(secret, text.decode())
        for name in ("controller", "se-1"):
            log = (self.node.folder / f"{name}.log").read_text()
            self.assertEqual([secret for secret in desk.secrets if secret in log], [], name)
        everywhere = found_in(self.node.folder, desk.secrets)
        brought = {path.name for path in self.node.folder.iterdir() if "key" in path.name and path.suffix != ".log"}
        self.assertIn("0-key.pem", everywhere, "it is looked at the right place")
        self.assertEqual(everywhere - brought, set())

    def raw(self, said: list[bytes], method: str, path: str, body: Any) -> None:
        """What the operators' door answers to a body that `avictl` does not send."""
        done = self.node.run(
            "curl",
            "--silent",
            "--unix-socket",
            str(self.machine.socket),
            "--request",
            method,
            "--data-binary",
            json.dumps(body),
            f"http://node{path}",
        )
        self.assertIn(b'"status":4', done.stdout)
        said.append(done.stdout)
