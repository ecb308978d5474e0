"""What ssh-audit says of a running controller, how often it lets a stranger begin a key exchange included (S7, S12)."""

from __future__ import annotations

import json
import sys
from typing import Any

from typing_extensions import override

from avinet.ssh.policy import Policy
from tests.integration.node import NodeCase
from tests.peers import require

CLASSICAL = {"curve25519-sha256", "curve25519-sha256@libssh.org"}


class AuditCase(NodeCase):
    @override
    def setUp(self) -> None:
        require("ssh_audit")
        super().setUp()

    def audited(self) -> dict[str, dict[str, list[str]]]:
        """What it says of each algorithm on offer, by `fail`, `warn` and `info`."""
        command = (sys.executable, "-m", "ssh_audit", "--json", "--port", str(self.node.ssh_port), "127.0.0.1")
        done = self.node.run(*command)
        found: dict[str, Any] = json.loads(done.stdout)
        self.assertEqual((done.stderr, found["cves"], found["compression"]), (b"", [], ["none"]))
        self.assertEqual([note for note in found["additional_notes"] if "Terrapin" not in note], [])
        for kind in ("kex", "key", "enc", "mac"):
            self.assertTrue(found[kind], f"ssh-audit has seen no {kind}")
        self.assertEqual(set(found["recommendations"]) - {"informational", "warning"}, set())
        return {each["algorithm"]: each["notes"] for kind in ("kex", "key", "enc", "mac") for each in found[kind]}

    def assert_throttled(self) -> None:
        """The rate test was not only passed over: strangers were turned away."""
        log = self.node.machine.log_tail("controller", lines=10_000)
        self.assertIn("too many peers of this address finish no key exchange", log)


class DefaultTests(AuditCase):
    """Nothing that is offered is weak, but that a classical key exchange is kept for stock clients."""

    def test_only_the_classical_exchange_is_warned_of(self) -> None:
        said = self.audited()
        self.assertEqual([name for name, notes in said.items() if notes.get("fail")], [])
        warned = {(name, *notes["warn"]) for name, notes in said.items() if notes.get("warn")}
        self.assertEqual(
            warned, {(name, "does not provide protection against post-quantum attacks") for name in CLASSICAL}
        )
        policy = Policy()
        for name in (*policy.key_exchanges, *policy.ciphers, *policy.macs):
            self.assertIn(name.decode(), said)
        self.assert_throttled()


class PostQuantumTests(AuditCase):
    ssh_settings = "post_quantum_only = true\n"

    def test_with_post_quantum_exchanges_alone_there_is_nothing_to_warn_of(self) -> None:
        said = self.audited()
        self.assertEqual([name for name, notes in said.items() if notes.get("fail") or notes.get("warn")], [])
        self.assertFalse(CLASSICAL & set(said))
