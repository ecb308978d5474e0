"""Service engines that nobody expects: what becomes of them under each policy, with real processes."""

from __future__ import annotations

from typing import Any

from avinet.cli.exits import REFUSED, USAGE
from tests.integration.node import NodeCase


class PolicyTests(NodeCase):
    def pending(self, id: str) -> list[dict[str, Any]]:
        return [each for each in self.node.machine.asked("se", "pending")["items"] if each["id"] == id]

    def waits(self, id: str, keys: int = 1) -> list[dict[str, Any]]:
        return self.node.machine.until(
            f"{keys} wait to be {id}", lambda: found if len(found := self.pending(id)) == keys else None
        )

    def test_an_operator_lets_in_by_the_fingerprint_and_keeps_out(self) -> None:
        machine = self.node.machine
        machine.avictl("enrolment", "set", "--policy", "approve")
        self.node.boot_unasked("edge-1")
        self.node.boot_unasked("twin", proposal="edge-1")
        self.waits("edge-1", keys=2)
        shown = machine.until("its log says its key", lambda: "--fingerprint SHA256:" in machine.log_tail("edge-1"))
        self.assertTrue(shown)
        mine = machine.log_tail("edge-1", 100).partition("--fingerprint ")[2].split()[0]
        self.assertIn(mine, [each["fingerprint"] for each in self.pending("edge-1")])
        unsaid = self.node.avictl("se", "approve", "edge-1")
        self.assertEqual((unsaid.returncode, unsaid.stdout), (REFUSED, b""))
        self.assertIn(b"2 keys wait to be edge-1", unsaid.stderr)
        machine.avictl("se", "approve", "edge-1", "--fingerprint", mine, "--label", "site=paris")
        machine.until("edge-1 is connected", lambda: self.node.connected("edge-1"))
        engine = self.node.engine("edge-1")
        self.assertEqual((engine["fingerprint"], engine["labels"]), (mine, {"site": "paris"}))
        machine.until("its twin gives up", lambda: machine.ended("twin"))
        self.assertIn("another key", machine.log_tail("twin", 20))

        self.node.boot_unasked("edge-2")
        [waiting] = self.waits("edge-2")
        self.assertEqual(self.node.avictl("se", "refuse", "edge-2").returncode, USAGE)
        machine.avictl("se", "refuse", "edge-2", "--fingerprint", waiting["fingerprint"])
        machine.until("edge-2 gives up", lambda: machine.ended("edge-2"))
        self.assertIn("an operator has refused edge-2", machine.log_tail("edge-2", 20))

    def test_the_image_key_alone_is_enough_where_the_policy_says_so(self) -> None:
        machine = self.node.machine
        self.node.boot_unasked("edge-1")
        machine.until("it is turned away", lambda: machine.ended("edge-1"))
        self.assertIn("no service engine edge-1 is expected", machine.log_tail("edge-1", 20))
        machine.avictl("enrolment", "set", "--policy", "image")
        self.node.start_engine("edge-1")
        machine.until("edge-1 is connected", lambda: self.node.connected("edge-1"))
        events = machine.asked("events", "--limit", "500")["items"]
        self.assertEqual(
            [each["outcome"] for each in events if each.get("notice") and each.get("id")], ["enrolled-by-image"]
        )
