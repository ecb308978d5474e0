"""Certificates come to the service engines whose configuration names them, before it; no others ever hold them."""

from __future__ import annotations

import http.client
import json
from typing import Any

from typing_extensions import override

from demo.machine import free_ports
from tests.integration.certificates import Desk
from tests.integration.node import NodeCase
from tests.integration.web import web_server


class DeliveryTests(NodeCase):
    engines = ("se-1", "se-2")

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.desk = Desk(self.machine)
        self.server = web_server(self)
        (self.port,) = free_ports(1)

    def serve(self, *certificates: str) -> None:
        """Have se-1 serve these certificates, and wait until it says that it does."""
        web = {"name": "web", "address": "127.0.0.1", "port": self.port, "pool": "p"}
        document = {
            "name": "web",
            "applies_to": {"kind": "service-engine", "id": "se-1"},
            "virtual_services": [{**web, "tls": {"certificates": list(certificates)}}],
            "pools": [
                {"name": "p", "servers": [{"name": "s", "address": "127.0.0.1", "port": self.server.server_port}]}
            ],
        }
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.machine.avictl("config", "apply", "-f", str(path))
        self.machine.until("it runs", self.in_sync)

    def in_sync(self) -> bool:
        engine = self.node.engine("se-1")
        return bool(engine.get("connected_since") and engine["config"].get("applied") == engine["desired"])

    def shown(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.machine.asked("certificate", "show", name)
        return found

    def log(self) -> str:
        return (self.node.folder / "controller.log").read_text()

    def held(self, id: str) -> list[str]:
        """The certificates that a service engine holds, by its own word and on its disk."""
        named = sorted(json.loads(self.machine.avictl("run", id, "status"))["certificates"])
        files = (self.node.place(id) / "state" / "certificates").glob("*")
        self.assertEqual(sorted(path.stem for path in files), named)
        return named

    def test_who_needs_one_is_sent_it_before_its_configuration_and_nobody_else_is(self) -> None:
        shop, _, _ = (self.desk.put(name) for name in ("shop", "blog", "unused"))
        self.serve("shop", "blog")
        self.assertEqual(self.desk.served(self.port, "shop.example.com"), shop.chain[0])
        self.assertEqual(self.desk.served(self.port, "other.example.com", any_name=True), shop.chain[0])
        self.assertLess(self.log().index("se-1 holds certificate shop"), self.log().rindex("se-1 runs configuration"))
        self.assertEqual((self.held("se-1"), self.held("se-2")), (["blog", "shop"], []))
        self.assertEqual([self.shown(name).get("holders") for name in ("shop", "unused")], [["se-1"], None])
        self.another_version_goes_there_and_changes_no_configuration()
        self.while_the_node_is_away_nothing_is_lost()
        self.sealed_anew_it_is_the_same()
        self.assertNotIn("se-2 holds certificate", self.log())
        self.assertNotIn("has refused", self.log())

    def another_version_goes_there_and_changes_no_configuration(self) -> None:
        before = self.node.engine("se-1")
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.desk.trusting())
        self.addCleanup(connection.close)
        connection.request("GET", "/")
        self.assertEqual(connection.getresponse().read(), b"here")
        leaf = self.desk.put("shop").chain[0]
        self.machine.until("it is served", lambda: self.desk.served(self.port, "shop.example.com") == leaf)
        connection.request("GET", "/")
        self.assertEqual(connection.getresponse().read(), b"here", "what was open stays")
        after = self.node.engine("se-1")
        self.assertEqual((after["desired"], after["config"]), (before["desired"], before["config"]))
        shown = self.shown("shop")
        self.assertEqual((shown["version"], shown["needed"], shown["held"]), (2, 1, 1))

    def while_the_node_is_away_nothing_is_lost(self) -> None:
        """A node that comes back hears what is held, and sends what is not."""
        self.machine.kill("se-1")
        leaf = self.desk.put("blog").chain[0]
        self.machine.kill("controller")
        self.node.start_engine("se-1")
        self.machine.until("it serves", lambda: self.desk.served(self.port, "shop.example.com"))
        self.node.start_controller()
        self.machine.until("it is served", lambda: self.desk.served(self.port, "blog.example.com") == leaf)
        self.machine.until("it is said", lambda: self.shown("blog")["held"] == 1)
        self.assertEqual(self.log().count("se-1 holds certificate shop"), 2, "what is held is not sent again")

    def sealed_anew_it_is_the_same(self) -> None:
        """No service engine is sent what is only sealed with another key on the node."""
        path, count = self.node.folder / "controller" / "trust" / "secrets.key", self.log().count("holds certificate")
        before = path.read_bytes()
        self.assertIn("sealed anew: 3 certificates\ntake a backup", self.machine.avictl("certificate", "reseal"))
        self.assertNotEqual(path.read_bytes(), before)
        self.machine.kill("controller")
        self.node.start_controller()
        self.machine.until("it is back", self.in_sync)
        self.assertEqual((self.shown("shop")["held"], self.shown("shop").get("problem")), (1, None))
        self.assertEqual(self.log().count("holds certificate"), count)
        leaf = self.desk.put("shop").chain[0]
        self.machine.until("another version is served", lambda: self.desk.served(self.port, "shop.example.com") == leaf)
