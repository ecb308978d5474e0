"""A node whose state is in etcd: what goes on while the majority of the members is away, and what comes back by itself."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from typing_extensions import override

from avinet.cli.exits import UNREACHABLE
from demo.machine import free_ports
from demo.members import Cluster
from tests.integration.node import NodeCase
from tests.integration.web import web_server

WITHOUT_QUORUM = b"the store gave no answer"


class EtcdNodeTests(NodeCase):
    engines = ("se-1", "se-2")

    @override
    def store_settings(self) -> str:
        folder = Path(tempfile.mkdtemp(prefix="avinet-etcd-"))
        self.addCleanup(shutil.rmtree, folder)
        self.cluster = Cluster(folder)
        self.cluster.start()
        self.addCleanup(self.cluster.stop)
        return self.cluster.settings

    def serve(self, text: str = "here") -> int:
        """Have all service engines serve; the port."""
        [port] = free_ports(1)
        server = {"name": "s", "address": "127.0.0.1", "port": web_server(self).server_port}
        document = {
            "name": "web",
            "applies_to": {"kind": "service-engine", "id": "se-1"},
            "virtual_services": [{"name": "web", "address": "127.0.0.1", "port": port, "pool": "p"}],
            "pools": [{"name": "p", "servers": [server]}],
        }
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.node.machine.avictl("config", "apply", "-f", str(path))
        self.node.machine.until("it serves", lambda: self.answers(port))
        return port

    def answers(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read() == b"here"
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def status(self) -> Any:
        return self.node.machine.asked("status")

    def test_without_a_quorum_what_runs_goes_on_and_what_would_be_written_is_refused(self) -> None:
        machine = self.node.machine
        port = self.serve()
        applied, since = (self.node.engine("se-1")[field] for field in ("config", "connected_since"))
        self.node.expect("se-3")
        for name in self.cluster.names[1:]:
            self.cluster.kill(name)
        machine.until("the node has noticed", lambda: self.status().get("store_silent_s", 0) > 0)
        for command in (("se", "create", "se-9", "--driver", "none"), ("se", "revoke", "se-2")):
            refused = self.node.avictl(*command)
            self.assertEqual(refused.returncode, UNREACHABLE, command)
            self.assertIn(WITHOUT_QUORUM, refused.stderr)
            self.assertIn(b"avictl store check", refused.stderr)
        self.node.start_engine("se-3")  # 503 at enrolment: it tries on
        for _ in range(20):
            self.assertTrue(self.answers(port))
        self.assertIn("pong", machine.avictl("run", "se-1", "ping"))
        shown = self.node.avictl("se", "list")
        self.assertIn(b"se-1", shown.stdout)
        self.assertRegex(shown.stderr.decode(), "has not answered for [0-9]+ s: what is shown may be out of date")
        machine.kill("se-2")
        self.node.start_engine("se-2")  # a login, and a hello
        machine.until(
            "se-2 is back without the store", lambda: "pong" in self.node.avictl("run", "se-2", "ping").stdout.decode()
        )
        self.assertEqual(self.node.engine("se-1")["connected_since"], since)
        for name in self.cluster.names[1:]:
            self.cluster.start(name)
        machine.until("the store answers", lambda: self.status().get("store_silent_s", 0) == 0)
        machine.until("what waited has enrolled", lambda: self.node.connected("se-3"))
        machine.avictl("se", "create", "se-9", "--driver", "none")
        self.assertEqual(self.node.avictl("se", "list").stderr, b"")
        after = self.node.engine("se-1")
        self.assertEqual((after["config"], after["connected_since"]), (applied, since))
        verified = machine.avictl("events", "--verify")
        self.assertIn("records", verified)

    def test_a_node_that_is_gone_comes_back_from_etcd_whichever_member_is_left_out(self) -> None:
        machine = self.node.machine
        self.serve()
        applied = self.node.engine("se-1")["config"]["applied"]
        for name in self.cluster.names:
            self.cluster.kill(name)
            machine.kill("controller")
            self.node.start_controller()
            for id in self.engines:
                machine.until(f"{id} is back", lambda id=id: self.node.connected(id))  # type: ignore[misc]
            self.assertEqual(self.node.engine("se-1")["config"]["applied"], applied)
            self.cluster.start(name)

    def test_a_node_waits_for_its_store(self) -> None:
        machine = self.node.machine
        machine.kill("controller")
        for name in self.cluster.names[:2]:
            self.cluster.kill(name)
        machine.start("controller", *self.node.command())
        machine.until("it says so", lambda: "waits for its store" in machine.log_tail("controller", 20))
        for name in self.cluster.names[:2]:
            self.cluster.start(name)
        for id in self.engines:
            machine.until(f"{id} is back", lambda id=id: self.node.avictl("run", id, "ping").returncode == 0)  # type: ignore[misc]
