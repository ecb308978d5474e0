"""The life of service engines: labels that bring and take configuration, a life without a controller, revocation."""

from __future__ import annotations

import http.client
import json
from typing import Any

from typing_extensions import override

from avinet.cli.exits import REMOTE, UNREACHABLE
from demo.machine import free_ports
from tests.integration.node import NodeCase
from tests.integration.web import web_server


class LifeTests(NodeCase):
    engines = ("se-1", "se-2")

    @override
    def setUp(self) -> None:
        super().setUp()
        self.server = web_server(self)
        (self.port,) = free_ports(1)

    def apply(self, applies_to: dict[str, Any]) -> None:
        """A virtual service on `port`, for those that it applies to."""
        document = {
            "name": "web",
            "applies_to": applies_to,
            "virtual_services": [{"name": "web", "address": "127.0.0.1", "port": self.port, "pool": "p"}],
            "pools": [
                {"name": "p", "servers": [{"name": "s", "address": "127.0.0.1", "port": self.server.server_port}]}
            ],
        }
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.node.machine.avictl("config", "apply", "-f", str(path))

    def serves(self) -> bool:
        """Whether a request to the virtual service is answered by the server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read() == b"here"
        except ConnectionRefusedError:
            return False
        finally:
            connection.close()

    def in_sync(self, id: str) -> bool:
        engine = self.node.engine(id)
        return bool(engine.get("connected_since") and engine["config"].get("applied") == engine["desired"])

    def test_labels_bring_a_configuration_and_take_it_away(self) -> None:
        self.apply({"kind": "labels", "labels": {"tier": "gold"}})
        self.assertFalse(self.serves())
        self.node.machine.avictl("se", "label", "se-2", "tier=gold")
        self.node.machine.until("it serves", self.serves)
        self.node.machine.avictl("se", "label", "se-2", "tier-")
        self.node.machine.until("it serves no more", lambda: not self.serves())
        self.node.machine.until("that was acknowledged", lambda: self.in_sync("se-2"))

    def test_a_command_runs_on_all_that_match_and_is_remembered(self) -> None:
        machine = self.node.machine
        machine.avictl("se", "label", "se-2", "room=2")
        both = self.node.avictl("run", "-l", "site=test", "ping")
        lines = sorted(both.stdout.decode().splitlines())
        self.assertEqual(lines, ["se-1: pong from se-1", "se-2: pong from se-2"])
        self.assertIn("done: 2 of 2 ended well", both.stderr.decode())
        one = machine.avictl("run", "-l", "site=test,room!=2", "status", "-o", "json").splitlines()
        self.assertEqual({json.loads(line).get("id") for line in one}, {None, "se-1"})
        machine.kill("se-2")
        machine.until("it is noticed", lambda: self.node.engine("se-2").get("connected_since") is None)
        done = self.node.avictl("run", "se-1,se-2", "ping")
        self.assertEqual(done.returncode, REMOTE)
        self.assertIn("se-2: unreachable: ", done.stderr.decode())
        latest = machine.asked("jobs", "list")["items"][0]
        self.assertEqual((latest["command"], latest["targets"], latest["failed"]), ("ping", 2, 1))
        self.assertIn("se-1  ok  pong from se-1", machine.avictl("jobs", "show", latest["id"]))

    def test_a_program_of_the_machine_and_a_server_that_is_drained(self) -> None:
        machine = self.node.machine
        self.node.expect("se-3")
        settings = self.node.place("se-3") / "se.toml"
        settings.write_text(settings.read_text() + '\n[[commands]]\nname = "hello"\nargv = ["/bin/echo", "hello"]\n')
        self.node.start_engine("se-3")
        machine.until("se-3 is connected", lambda: self.node.connected("se-3"))
        self.assertEqual(machine.avictl("run", "se-3", "hello"), "hello\n")
        self.assertIn("hello", machine.avictl("run", "se-3", "help"))
        looked = machine.avictl("run", "se-3", "diagnose").splitlines()
        self.assertEqual([line for line in looked if not line.startswith("ok ")], [], looked)
        self.assertGreater(len(looked), 5)
        self.assertEqual(self.node.avictl("run", "se-1", "hello").returncode, REMOTE)
        self.apply({"kind": "service-engine", "id": "se-1"})
        machine.until("it serves", lambda: self.serves() and self.in_sync("se-1"))
        self.assertEqual(machine.avictl("run", "se-1", "traffic", "p", "s", "maint"), "p/s: maint\n")
        self.assertFalse(self.serves())
        machine.avictl("run", "se-1", "traffic", "p", "s", "ready")
        machine.until("it serves again", self.serves)
        self.assertEqual(self.node.avictl("run", "se-1", "traffic", "p", "x", "maint").returncode, REMOTE)

    def test_a_configuration_is_rolled_back(self) -> None:
        machine, first = self.node.machine, self.port
        self.apply({"kind": "service-engine", "id": "se-1"})
        machine.until("it serves", lambda: self.serves() and self.in_sync("se-1"))
        (self.port,) = free_ports(1)
        self.apply({"kind": "service-engine", "id": "se-1"})
        machine.until("it serves at the other port", lambda: self.serves() and self.in_sync("se-1"))
        changed = machine.avictl("config", "diff", "web")
        self.assertIn(f"-  port: {first}\n+  port: {self.port}\n", changed)
        self.assertIn("version 3 is as 1 was", machine.avictl("config", "rollback", "web"))
        self.port = first
        machine.until("it serves again where it did", lambda: self.serves() and self.in_sync("se-1"))

    def test_without_a_controller_it_runs_on_across_its_own_restart_too(self) -> None:
        self.apply({"kind": "service-engine", "id": "se-1"})
        self.node.machine.until("it serves", lambda: self.serves() and self.in_sync("se-1"))
        applied = self.node.engine("se-1")["config"]["applied"]
        self.node.machine.kill("controller")
        self.assertTrue(self.serves())
        self.node.machine.kill("se-1")
        self.node.start_engine("se-1")
        self.node.machine.until("it serves again", self.serves)
        self.node.start_controller()
        self.node.machine.until("it is back", lambda: self.in_sync("se-1"))
        self.assertEqual(self.node.engine("se-1")["config"]["applied"], applied)
        self.assertTrue(self.serves())

    def test_what_is_revoked_is_out_at_once_and_stays_out(self) -> None:
        """(E8)"""
        self.node.machine.avictl("se", "revoke", "se-1")
        self.assertNotIn("connected_since", self.node.engine("se-1"), "its tunnel was cut before the answer")
        said = lambda: "no tunnel to node-1 yet" in self.node.machine.log_tail("se-1", 50)  # noqa: E731
        self.node.machine.until("its key is refused", said)
        self.node.machine.kill("se-1")
        self.node.start_engine("se-1")
        self.node.machine.until("it is refused after a restart", said)
        done = self.node.avictl("run", "se-1", "ping")
        self.assertEqual((done.returncode, done.stderr.count(b"\n")), (UNREACHABLE, 1), done)
        engine = self.node.engine("se-1")
        self.assertEqual((engine["state"], engine.get("connected_since")), ("revoked", None))
        self.assertTrue(self.node.connected("se-2"))
        self.assertNotIn(engine["fingerprint"], self.node.machine.avictl("se", "authorized-keys"))
        kinds = [(each["kind"], each["id"]) for each in self.node.machine.asked("events")["items"] if each.get("id")]
        self.assertIn(("revoke", "se-1"), kinds)
