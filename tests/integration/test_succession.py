"""Root CAs and keys of a node that follow one another while the fleet is connected, and what sleeps through it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
from typing import Any

from typing_extensions import override

from avinet.cli.exits import REFUSED
from demo.machine import free_ports
from tests.integration.node import NodeCase
from tests.integration.web import web_server

FLEET = 50


class SuccessionCase(NodeCase):
    def roots(self) -> list[dict[str, Any]]:
        return list(self.node.machine.asked("root", "list")["items"])

    def since(self) -> dict[str, float]:
        """Since when each service engine has the tunnel that it has."""
        listed = self.node.machine.asked("se", "list")["items"]
        return {each["id"]: each.get("connected_since", 0.0) for each in listed}

    def make_root(self, folder: str = "root-2", of: str = "controller/trust") -> None:
        place = self.node.folder / of
        out = str(self.node.folder / folder)
        self.node.machine.avictl("root", "new", out, "--root", f"{place}/root.pem", "--key", f"{place}/root.key")

    def add_root(self, folder: str = "root-2") -> str:
        """Add the root CA that was made; its fingerprint."""
        before = {each["fingerprint"] for each in self.roots()}
        self.node.machine.avictl("root", "add", str(self.node.folder / folder / "issuing.pem"))
        [added] = [each["fingerprint"] for each in self.roots() if each["fingerprint"] not in before]
        return str(added)

    def known(self, fingerprint: str, count: int) -> None:
        def seen() -> bool:
            return any(each["fingerprint"] == fingerprint and each["acknowledged"] == count for each in self.roots())

        self.node.machine.until(f"{count} know the root CA", seen)

    def keys_known(self, count: int) -> None:
        """Wait until so many service engines know the keys of the node that follow, or have followed."""
        machine = self.node.machine
        machine.until(f"{count} know the keys", lambda: machine.asked("node", "keys")["acknowledged"] == count)


class RolloverTests(SuccessionCase):
    engines = ("se-1", "se-2")

    def test_one_that_slept_through_it_and_one_of_an_old_image_come_all_the_same(self) -> None:
        machine = self.node.machine
        machine.kill("se-2")
        self.node.expect("se-3")  # with an image of before
        self.make_root()
        [old] = [each["fingerprint"] for each in self.roots()]
        new = self.add_root()
        self.known(new, 1)
        self.assertEqual([each["state"] for each in self.roots()], ["in-use", "next"])
        refused = self.node.avictl("root", "use", new[:12])
        self.assertEqual((refused.returncode, refused.stdout), (REFUSED, b""))
        self.assertIn(b"1 service engines do not know the root CA that follows yet: se-2", refused.stderr)
        tried = machine.asked("root", "use", new[:12], "--dry-run")
        self.assertEqual((tried["done"], tried["waiting"], tried["ids"]), (False, 1, ["se-2"]))
        self.assertGreater(tried["until"], 0)
        before = self.since()["se-1"]
        machine.avictl("root", "use", new[:12], "--force")
        machine.avictl("root", "retire", old[:12], "--force")
        self.known(new, 1)
        self.assertEqual([(each["fingerprint"], each["state"]) for each in self.roots()], [(new, "in-use")])
        # What the node shows at its doors has changed as well: its keys, and its certificate.
        machine.avictl("node", "rotate-keys")
        self.keys_known(1)  # se-1, which would otherwise have to dial anew
        machine.avictl("node", "use-keys", "--force")
        self.assertEqual(self.since()["se-1"], before)
        self.node.start_engine("se-2")
        self.node.start_engine("se-3")
        for id in ("se-2", "se-3"):
            machine.until(f"{id} is connected", lambda id=id: self.node.connected(id))  # type: ignore[misc]
        self.known(new, 3)
        self.assertRegex(machine.log_tail("se-2", 50), "trust document of epoch [0-9]+ taken")
        verified = machine.avictl("events", "--verify", "--root", str(self.node.folder / "root-2" / "root.pem"))
        self.assertIn("records", verified)
        kinds = [each["kind"] for each in machine.asked("events", "--limit", "500")["items"]]
        for kind in ("root-added", "root-used", "root-retired", "node-keys-made", "node-keys-used"):
            self.assertEqual(kinds.count(kind), 1, kind)
        # The next one follows from the key of the second, and the first of all is still believed by what it vouched.
        machine.kill("se-1")
        self.make_root("root-3", of="root-2")
        third = self.add_root("root-3")
        self.known(third, 2)
        machine.avictl("root", "use", third, "--force")
        machine.kill("controller")
        self.node.start_controller()
        self.assertEqual([each["state"] for each in self.roots()], ["former", "in-use"])
        self.node.start_engine("se-1")
        self.known(third, 3)

    def test_an_issuing_ca_follows_under_the_same_root(self) -> None:
        place = self.node.folder / "controller" / "trust"
        out = str(self.node.folder / "issuing-2")
        arguments = ("--root", f"{place}/root.pem", "--key", f"{place}/root.key")
        self.node.machine.avictl("root", "issue", out, *arguments)
        before = self.since()
        self.node.machine.avictl("root", "add", f"{out}/issuing.pem")
        [root] = self.roots()
        self.known(root["fingerprint"], 2)
        self.assertEqual(self.since(), before)
        self.node.create("se-3")

    def test_what_cannot_be_used_changes_nothing(self) -> None:
        machine = self.node.machine
        [root] = self.roots()
        stranger = self.node.folder / "stranger"
        machine.avictl("init", "--state", str(stranger), "--node", "node-1")
        for arguments, says in (
            (("add", str(stranger / "trust" / "issuing.pem")), b"of another domain of trust"),
            (("add", str(stranger / "trust" / "root.pem")), b"that is no issuing CA: what was sent cannot be read"),
            (("retire", root["fingerprint"]), b"use another one first"),
            (("use", "abcd"), b"no root CA begins with abcd"),
        ):
            refused = self.node.avictl("root", *arguments)
            self.assertNotEqual(refused.returncode, 0, arguments)
            self.assertIn(says, refused.stderr)
        self.assertEqual([each["fingerprint"] for each in self.roots()], [root["fingerprint"]])


class NodeKeyTests(SuccessionCase):
    engines = ("se-1", "se-2")

    def test_new_keys_are_used_when_the_whole_fleet_knows_them(self) -> None:
        machine = self.node.machine
        before, tunnels = machine.asked("node", "keys"), self.since()
        made = machine.asked("node", "rotate-keys")
        self.assertNotIn(made["next_ssh_host_key"], (None, before["ssh_host_key"]))

        def used() -> bool:
            return bool(machine.asked("node", "keys")["ssh_host_key"] == made["next_ssh_host_key"])

        machine.until("the new keys are used", used)
        after = machine.asked("node", "keys")
        self.assertEqual(after["avictlruser_key"], made["next_avictlruser_key"])
        self.assertIsNone(after.get("next_ssh_host_key"))
        self.assertEqual(self.since(), tunnels)
        self.assertIn("pong", machine.avictl("run", "se-1", "ping"))
        machine.kill("controller")
        self.node.start_controller()
        for id in self.engines:
            machine.until(f"{id} is back", lambda id=id: self.node.connected(id))  # type: ignore[misc]
        self.assertEqual(machine.asked("node", "keys")["ssh_host_key"], after["ssh_host_key"])

    def test_they_wait_for_one_that_sleeps_until_an_operator_says_otherwise(self) -> None:
        machine = self.node.machine
        machine.kill("se-2")
        made = machine.asked("node", "rotate-keys")
        self.keys_known(1)
        refused = self.node.avictl("node", "use-keys")
        self.assertEqual(refused.returncode, REFUSED)
        self.assertIn(b"1 service engines do not know the keys that follow yet: se-2", refused.stderr)
        machine.avictl("node", "use-keys", "--force")
        self.assertEqual(machine.asked("node", "keys")["ssh_host_key"], made["next_ssh_host_key"])
        self.node.start_engine("se-2")
        machine.until("se-2 is back", lambda: self.node.connected("se-2"))
        self.assertIn("trust document of epoch", machine.log_tail("se-2", 50))

    def test_one_that_is_connected_and_behind_reads_of_them_when_it_dials_anew(self) -> None:
        machine = self.node.machine
        os.kill(machine.process("se-2"), signal.SIGSTOP)
        made = machine.asked("node", "rotate-keys")
        self.keys_known(1)
        machine.avictl("node", "use-keys", "--force")
        os.kill(machine.process("se-2"), signal.SIGCONT)
        self.keys_known(2)
        machine.until("it takes commands", lambda: self.node.avictl("run", "se-2", "ping").returncode == 0)
        self.assertEqual(machine.asked("node", "keys")["ssh_host_key"], made["next_ssh_host_key"])


class Traffic(threading.Thread):
    """Requests to each of `ports` in turn, over connections that are kept, until it is told to stop."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__(daemon=True)
        self.ports = ports
        self.answered = 0
        self.failed: list[str] = []
        self.over = threading.Event()

    @override
    def run(self) -> None:
        kept = {port: http.client.HTTPConnection("127.0.0.1", port, timeout=20) for port in self.ports}
        while not self.over.is_set():
            for port, connection in kept.items():
                try:
                    connection.request("GET", "/")
                    answer = connection.getresponse()
                    if (body := answer.read()) != b"here":
                        raise OSError(f"{answer.status} {body[:200]!r}")
                    self.answered += 1
                except (OSError, http.client.HTTPException) as error:
                    self.failed.append(f"{port}: {error!r}")
                    connection.close()
        for connection in kept.values():
            connection.close()


class FleetTests(SuccessionCase):
    def test_a_fleet_under_traffic_loses_no_tunnel_and_no_request(self) -> None:
        machine = self.node.machine
        server = web_server(self)
        ids = [f"se-{number}" for number in range(1, FLEET + 1)]
        ports = free_ports(FLEET)
        self.node.expect(*ids)
        machine.start("engines", sys.executable, "-m", "bench.engines", *(str(self.node.place(id)) for id in ids))
        documents = []
        for id, port in zip(ids, ports, strict=True):
            service = {"name": "web", "address": "127.0.0.1", "port": port, "pool": "p"}
            check = {
                "timeout_ms": 10_000,
                "fall": 10,
            }  # a machine that is busy with fifty of them is no server that is down
            pool = {
                "name": "p",
                "health_check": check,
                "servers": [{"name": "s", "address": "127.0.0.1", "port": server.server_port}],
            }
            applies = {"kind": "service-engine", "id": id}
            documents.append({"name": id, "applies_to": applies, "virtual_services": [service], "pools": [pool]})
        path = self.node.folder / "documents.yaml"
        path.write_text("---\n".join(json.dumps(each) + "\n" for each in documents))
        machine.avictl("config", "apply", "-f", str(path))

        def ready() -> bool:
            status = machine.asked("status")
            counts = status["engines"]
            return {counts.get("connected"), counts.get("in_sync"), status.get("servers_up")} == {FLEET}

        machine.until("the whole fleet serves", ready)
        traffic = Traffic(ports)
        traffic.start()
        self.addCleanup(traffic.over.set)
        machine.until("traffic flows", lambda: traffic.answered >= FLEET)
        before, epoch = self.since(), machine.asked("status")["trust_epoch"]
        self.make_root()
        [old] = [each["fingerprint"] for each in self.roots()]
        new = self.add_root()
        self.known(new, FLEET)
        machine.avictl("root", "use", new)
        machine.avictl("root", "retire", old)
        self.known(new, FLEET)
        made = machine.asked("node", "rotate-keys")["next_ssh_host_key"]
        machine.until("the keys of the node follow", lambda: machine.asked("node", "keys")["ssh_host_key"] == made)
        machine.until(
            "all hold the last trust document",
            lambda: machine.asked("root", "list")["epoch"] >= epoch + 5,
        )
        answered = traffic.answered
        machine.until("traffic flows still", lambda: traffic.answered >= answered + FLEET)
        traffic.over.set()
        traffic.join()
        self.assertEqual(traffic.failed, [])
        self.assertEqual(self.since(), before)
        self.assertEqual([each["fingerprint"] for each in self.roots()], [new])
