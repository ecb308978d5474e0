"""Root CAs and keys of a node at the command line: made offline, shown, and what would be left behind."""

from __future__ import annotations

import msgspec

from avinet.cli.exits import FAULT, REFUSED, USAGE
from avinet.trust import keys
from avinet.wire.message import encode
from avinet.wire.succession import Succession
from avinet.wire.trust import Node, SignedTrust, TrustDocument
from tests.cli import fleet
from tests.cli.scripted import Asked, ScriptedCase, said

KEY = keys.public_line(keys.generate())


class NodeTests(ScriptedCase):
    def keys(self, asked: Asked) -> bytes:
        if asked.target == "/v1/status":
            return said(fleet.STATUS)
        self.assertTrue(asked.target.startswith("/v1/nodes/node-1/keys"), asked)
        return said(fleet.STEP if asked.target.endswith("/use") else fleet.NODE_KEYS)

    def test_its_keys_and_those_that_follow(self) -> None:
        self.answers(self.keys)
        for verb, method in (("keys", "GET"), ("rotate-keys", "POST")):
            shown = self.avictl("node", verb)
            self.assertEqual((shown.code, self.asked[-1].method), (0, method), shown)
            self.assertRegex(shown.out, f"next SSH host key +SHA256:{'b' * 43}\n")
        self.assertRegex(shown.out, "known to +2 of 3\n")
        asked = self.avictl("node", "use-keys", "--dry-run")
        self.assertIn("nothing was changed", asked.out)
        self.assertEqual(msgspec.json.decode(self.asked[-1].body), {"dry_run": True})

    def test_the_nodes_that_the_fleet_believes(self) -> None:
        node = Node(
            id="node-1",
            name="node-1.d1.avinet.internal",
            https=["10.0.0.1:8443"],
            ssh=["10.0.0.1:22"],
            ssh_host_keys=[KEY],
            avictlruser_keys=[KEY],
        )
        document = TrustDocument(epoch=1, domain="d1", roots=["PEM"], nodes=[node])
        self.answers(said(SignedTrust(document=encode(document).decode(), signature="", issuer="")))
        shown = self.avictl("node", "list")
        self.assertIn("node-1  10.0.0.1:22", shown.out)
        self.assertIn("SHA256:", shown.out)


class RootTests(ScriptedCase):
    def test_those_who_would_be_lost_are_named(self) -> None:
        self.answers(said(Succession(done=False, waiting=120, ids=[f"se-{n}" for n in range(100)])))
        shown = self.avictl("root", "retire", "ab12", "--dry-run").out
        self.assertIn("120 service engines do not know what follows; they would be lost", shown)
        self.assertIn("  se-99\n  ... and 20 more\n", shown)

    def test_one_is_made_without_a_node(self) -> None:
        state = self.folder / "state"
        self.avictl("init", "--state", str(state), "--node", "node-1")
        options = ("--root", str(state / "trust" / "root.pem"), "--key", str(state / "trust" / "root.key"))
        made = self.avictl("root", "new", str(self.folder / "next"), *options)
        self.assertEqual((made.code, made.err), (0, ""))
        self.assertIn("avictl root add", made.out)
        self.assertEqual(
            sorted(each.name for each in (self.folder / "next").iterdir()),
            ["issuing.pem", "root.key", "root.pem", "vouched.pem"],
        )
        again = self.refused(REFUSED, "root", "new", str(self.folder / "next"), *options)
        self.assertIn("it was left as it is", again)
        issued = self.avictl("root", "issue", str(self.folder / "issuing"), *options)
        self.assertIn("valid until", issued.out)
        self.assertEqual(self.asked, [])

    def test_what_is_wrong_is_said(self) -> None:
        state = self.folder / "state"
        self.avictl("init", "--state", str(state), "--node", "node-1")
        trust = state / "trust"
        out = str(self.folder / "next")
        none = self.refused(
            FAULT, "root", "new", out, "--root", str(trust / "root.pem"), "--key", str(trust / "no.key")
        )
        self.assertIn("No such file", none)
        other = self.refused(
            FAULT, "root", "new", out, "--root", str(trust / "root.pem"), "--key", str(trust / "node.pem")
        )
        self.assertIn("do not belong together", other)
        issuing = str(trust / "issuing.pem")
        self.assertIn("no root CA", self.refused(REFUSED, "root", "new", out, "--root", issuing, "--key", issuing))
        self.assertIn("hexadecimal", self.refused(USAGE, "root", "use", "../status"))
