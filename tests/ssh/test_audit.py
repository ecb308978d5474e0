"""What ssh-audit says of a server of ours, over a real socket."""

from __future__ import annotations

import json
import os
import sys

from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from avinet.ssh.policy import POST_QUANTUM, Policy
from avinet.ssh.server import Server
from tests.peers import require
from tests.ssh.pair import HOST_KEY, Guests, Recorder

CLASSICAL = {"curve25519-sha256", "curve25519-sha256@libssh.org"}


class AuditTests(TestCase):
    """Nothing that is offered is weak, but that a classical key exchange is kept for stock clients."""

    timeout = 60

    async def audited(self, policy: Policy) -> tuple[set[str], dict[str, list[str]], dict[str, list[str]]]:
        """What is offered, and by algorithm what fails and what is warned of."""
        require("ssh_audit")
        server = Server(reactor, HOST_KEY, Guests(), Recorder, policy=policy)
        port = reactor.listenTCP(0, server, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        number = str(port.getHost().port)
        command = ["-m", "ssh_audit", "--json", "--skip-rate-test", "--port", number, "127.0.0.1"]
        out, err, _ = await getProcessOutputAndValue(sys.executable, command, env=os.environ)
        found = json.loads(out)
        self.assertEqual((err, found["cves"], found["compression"]), (b"", [], ["none"]))
        offered: set[str] = set()
        failed, warned = {}, {}
        for kind in ("kex", "key", "enc", "mac"):
            self.assertTrue(found[kind], f"ssh-audit has seen no {kind}")
            for each in found[kind]:
                name, notes = each["algorithm"], each["notes"]
                offered.add(name)
                failed[name], warned[name] = notes.get("fail", []), notes.get("warn", [])
        self.assertEqual(set(found["recommendations"]) - {"informational", "warning"}, set())
        return offered, failed, warned

    async def test_only_the_classical_exchange_is_warned_of(self) -> None:
        offered, failed, warned = await self.audited(Policy())
        self.assertEqual([name for name, notes in failed.items() if notes], [])
        self.assertEqual({name for name, notes in warned.items() if notes}, CLASSICAL)
        for name in CLASSICAL:
            self.assertEqual(warned[name], ["does not provide protection against post-quantum attacks"])
        policy = Policy()
        for name in (*policy.key_exchanges, *policy.ciphers, *policy.macs):
            self.assertIn(name.decode(), offered)

    async def test_with_post_quantum_exchanges_alone_there_is_nothing_to_warn_of(self) -> None:
        offered, failed, warned = await self.audited(Policy(key_exchanges=POST_QUANTUM))
        self.assertEqual([name for name, notes in (*failed.items(), *warned.items()) if notes], [])
        self.assertEqual(offered & CLASSICAL, set())
