"""Who a service engine is, over its life: reset to a new key, copied with its disk."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

from avinet.cli.exits import REFUSED
from avinet.files import write_atomic
from tests.integration.node import NodeCase


class IdentityTests(NodeCase):
    engines = ("se-1",)

    def alarms(self) -> list[tuple[str, str]]:
        events = self.node.machine.asked("events", "--limit", "500")["items"]
        return [(each["kind"], each["id"]) for each in events if each.get("alarm")]

    def test_a_reset_cuts_the_old_one_off_and_lets_the_new_one_in(self) -> None:
        """(E7)"""
        machine = self.node.machine
        before = self.node.engine("se-1")
        claimed = machine.asked("se", "reset", "se-1", "--yes")
        self.assertEqual((claimed["id"], claimed["generation"]), ("se-1", 2))
        engine = self.node.engine("se-1")
        self.assertEqual((engine["state"], engine.get("connected_since")), ("expected", None))
        self.assertNotIn(before["fingerprint"], machine.avictl("se", "authorized-keys"))
        machine.until("the old one is turned away", lambda: "no tunnel to node-1 yet" in machine.log_tail("se-1", 50))
        self.node.boot_anew("se-1", claimed["generation"], claimed["claim"])
        machine.until("the new one is connected", lambda: self.node.connected("se-1"))
        engine = self.node.engine("se-1")
        self.assertEqual((engine["generation"], engine["labels"]), (2, before["labels"]))
        self.assertNotEqual(engine["fingerprint"], before["fingerprint"])
        self.assertEqual(set(self.alarms()), {("engine-key-as-login", "se-1")}, "of the old one, as long as it dials")

    def test_a_new_key_is_made_and_used_and_the_old_one_is_dead(self) -> None:
        machine = self.node.machine
        before = self.node.engine("se-1")
        machine.avictl("se", "rotate", "se-1")

        def back() -> bool:
            engine = self.node.engine("se-1")
            since = engine.get("connected_since") or 0
            return since > before["connected_since"] and self.node.connected("se-1")

        machine.until("it is back with its new key", back)
        after = self.node.engine("se-1")
        self.assertNotEqual(after["fingerprint"], before["fingerprint"])
        self.assertEqual((after["generation"], after["labels"]), (before["generation"], before["labels"]))
        self.assertNotIn(before["fingerprint"], machine.avictl("se", "authorized-keys"))
        machine.end("se-1")
        self.node.start_engine("se-1")
        machine.until("it has kept it", lambda: self.node.connected("se-1"))
        self.assertEqual(self.node.engine("se-1")["fingerprint"], after["fingerprint"])
        self.assertEqual(self.alarms(), [])

    def test_a_rotation_whose_answer_was_lost_is_found_out(self) -> None:
        """The node has the new key, and the service engine ended before it knew."""
        machine, state = self.node.machine, self.node.place("se-1") / "state"
        old = (state / "se_ed25519_key").read_bytes()
        machine.avictl("se", "rotate", "se-1")
        machine.until(
            "it is back", lambda: not (state / "se_ed25519_key.next").exists() and self.node.connected("se-1")
        )
        machine.end("se-1")
        new = (state / "se_ed25519_key").read_bytes()
        self.assertNotEqual(new, old)
        (state / "se_ed25519_key").write_bytes(old)
        write_atomic(state / "se_ed25519_key.next", new)
        self.node.start_engine("se-1")
        machine.until("it is back", lambda: self.node.connected("se-1"))
        machine.until("it has settled", lambda: not (state / "se_ed25519_key.next").exists())
        self.assertEqual((state / "se_ed25519_key").read_bytes(), new)

    def test_a_copied_disk_is_found_out_when_it_comes_after_its_owner(self) -> None:
        """(S32)"""
        machine = self.node.machine
        machine.kill("se-1")
        copy = self.node.folder / "copy"
        shutil.copytree(self.node.place("se-1"), copy)
        for _ in range(2):
            self.node.start_engine("se-1")
            machine.until("it is back", lambda: self.node.connected("se-1"))
            machine.end("se-1")
        shutil.rmtree(self.node.place("se-1"))
        shutil.copytree(copy, self.node.place("se-1"))
        self.node.start_engine("se-1")
        machine.until("it is found out", lambda: ("outdated-ratchet", "se-1") in self.alarms())
        machine.until("it is told why", lambda: "has shown an outdated secret" in machine.log_tail("se-1", 50))
        machine.until("it is out", lambda: self.node.engine("se-1").get("connected_since") is None)

    def test_a_past_that_was_removed_is_noticed_by_who_was_there(self) -> None:
        machine = self.node.machine
        self.assertIn("all there", machine.avictl("events", "--verify"))
        head = self.node.folder / "head.json"
        since = ("events", "--since-head", str(head))
        self.assertIn("nothing to compare", machine.avictl(*since))
        machine.avictl("se", "label", "se-1", "site=paris")
        self.assertIn("begins with", machine.avictl(*since))
        kept = head.read_bytes()
        machine.end("se-1")
        self.node.start_engine("se-1")
        machine.until("it is back", lambda: self.node.connected("se-1"))
        machine.end("controller")
        with contextlib.closing(sqlite3.connect(self.node.folder / "controller" / "store.sqlite")) as store:
            removed = store.execute(
                "DELETE FROM entries WHERE key >= CAST('log/' AS BLOB) AND key < CAST('log0' AS BLOB)"
            )
            self.assertGreater(removed.rowcount, 3)
            store.commit()
        self.node.start_controller()
        ended = self.node.avictl(*since)
        self.assertEqual((ended.returncode, ended.stdout), (REFUSED, b""))
        self.assertRegex(ended.stderr, b"the audit log was (cut off|rewritten)")
        self.assertEqual(head.read_bytes(), kept)
        machine.until(
            "it has noticed", lambda: "the past of the audit log was rewritten" in machine.log_tail("se-1", 99)
        )
        machine.end("se-1")
        self.node.start_engine("se-1")
        machine.until("the node was told", lambda: ("log-rewritten", "se-1") in self.alarms())
        self.assertIn("was: it had", machine.avictl("run", "se-1", "accept-log"))
