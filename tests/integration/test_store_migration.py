"""A node that moves with its fleet: on SQLite, on etcd, and back, and nobody is asked to do anything."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from typing_extensions import override

from avinet.cli.exits import FAULT
from demo.members import Cluster
from tests.integration.node import NodeCase
from tests.peers import require


class MigratedNodeTests(NodeCase):
    engines = ("se-1",)

    @override
    def setUp(self) -> None:
        require("etcd")
        folder = Path(tempfile.mkdtemp(prefix="avinet-etcd-"))
        self.addCleanup(shutil.rmtree, folder)
        self.cluster = Cluster(folder)
        self.cluster.start()
        self.addCleanup(self.cluster.stop)
        super().setUp()

    @override
    def store_settings(self) -> str:
        return self.cluster.settings.replace('"etcd"', '"sqlite"')

    def use(self, engine: str) -> None:
        text, other = self.node.settings.read_text(), {"etcd": "sqlite", "sqlite": "etcd"}[engine]
        self.node.settings.write_text(text.replace(f'engine = "{other}"', f'engine = "{engine}"'))

    def migrate(self, to: str, *more: str) -> Any:
        done = self.node.avictl(
            "store", "migrate", "--config", str(self.node.settings), "--to", to, "-o", "json", *more
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        return json.loads(done.stdout)

    def document(self, weight: int) -> None:
        server = {"name": "s", "address": "127.0.0.1", "port": 9, "weight": weight}
        document = {
            "name": "web",
            "virtual_services": [{"name": "web", "address": "127.0.0.1", "port": 1, "pool": "p"}],
            "pools": [{"name": "p", "servers": [server]}],
        }
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.node.machine.avictl("config", "apply", "-f", str(path))

    def in_sync(self) -> Any:
        def seen() -> Any:
            engine = self.node.engine("se-1")
            answered = {**(engine["config"].get("applied") or {}), **(engine["config"].get("refused") or {})}
            return engine if engine.get("desired") and answered == engine["desired"] else None

        return self.node.machine.until("what it should run was answered", seen)

    def back(self, engine: str) -> Any:
        """The node started on `engine`, with its fleet."""
        self.use(engine)
        self.node.start_controller()
        self.node.machine.until("se-1 is back", lambda: self.node.connected("se-1"))
        return self.in_sync()

    def restored_beside(self) -> None:
        """A backup of the node, which runs, put back into etcd below another prefix."""
        backup, other = self.node.folder / "backup.tar.gz", self.node.folder / "again.toml"
        self.node.machine.avictl("backup", "--config", str(self.node.settings), "--out", str(backup))
        text = self.node.settings.read_text().replace('"controller"', '"again"')
        other.write_text(f'{text}prefix = "again"\n')
        shown = self.node.machine.avictl("restore", str(backup), "--config", str(other))
        self.assertIn("avictl store migrate --to etcd moves it", shown)
        done = self.node.avictl("store", "migrate", "--config", str(other), "--to", "etcd", "-o", "json")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        made = json.loads(done.stdout)
        checked = self.node.avictl("store", "check", "--config", str(other), "-o", "json")
        seen = json.loads(checked.stdout)
        self.assertEqual((checked.returncode, seen["state"], seen["faults"]), (0, "used", []))
        self.assertEqual(seen["keys"], made["content"]["keys"])
        self.assertGreater(made["revision"], 1 << 32)
        shutil.rmtree(self.node.folder / "again")

    def restored_on_another_machine(self) -> Any:
        """The machine of the node is lost, and all that etcd has is there still, newer than the backup."""
        machine = self.node.machine
        self.document(3)
        before = self.in_sync()
        machine.kill("controller")
        shutil.rmtree(self.node.folder / "controller")
        shown = machine.avictl("restore", str(self.node.folder / "backup.tar.gz"), "--config", str(self.node.settings))
        self.assertIn("in etcd, as it is: nothing of it was put back", shown)
        after = self.back("etcd")
        self.assertEqual(after["desired"], before["desired"])
        self.document(2)
        return self.in_sync()

    def test_a_fleet_does_not_notice(self) -> None:
        machine = self.node.machine
        self.document(1)
        self.document(2)
        before = self.in_sync()
        refused = self.node.avictl("store", "migrate", "--config", str(self.node.settings), "--to", "etcd")
        self.assertEqual((refused.returncode, refused.stdout), (FAULT, b""))
        self.assertRegex(refused.stderr.decode(), r"^avictl: the state folder .* is in use by process \d+; .*\n$")
        history = machine.asked("config", "history", "web")
        events = machine.asked("events")["items"]
        for to, start_again in (("etcd", "sqlite"), ("sqlite", "etcd")):
            machine.end("controller")
            self.assertFalse(self.migrate(to, "--dry-run")["done"])
            made = self.migrate(to)
            self.assertTrue(made["done"])
            self.assertGreater(made["content"]["keys"], 10)
            # whoever starts it with the settings of before is told what to do, and nothing is made anew
            self.use(start_again)
            machine.start("controller", *self.node.command())
            machine.until("it has ended", lambda: machine.ended("controller"))
            self.assertIn(f'set engine = "{to}"', machine.log_tail("controller", 20))
            after = self.back(to)
            self.assertEqual(
                [after[field] for field in ("generation", "fingerprint")],
                [before[field] for field in ("generation", "fingerprint")],
            )
            self.assertEqual(after["desired"]["sha256"], before["desired"]["sha256"])
            self.assertGreater(after["desired"]["revision"], before["desired"]["revision"])
            self.assertEqual(machine.asked("config", "history", "web"), history)
            known = machine.asked("events", "--limit", "500")["items"]
            self.assertEqual([each for each in events if each not in known], [])
            self.assertIn("records", machine.avictl("events", "--verify"))
            machine.avictl("run", "se-1", "ping")  # a request with the fence of now
            if to == "etcd":
                self.restored_beside()
                after = self.restored_on_another_machine()
                history = machine.asked("config", "history", "web")
            before = after
