"""A request that goes wrong on a real service engine is before the eyes of an operator at once."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
from typing import Any

from typing_extensions import override

from demo.machine import AVICTL, free_ports
from tests.integration.node import PATIENCE_S, NodeCase
from tests.integration.web import web_server
from tests.peers import require


class Case(NodeCase):
    """A service engine `se-1` that is `balanced` by one of the data planes."""

    engines = ()
    balanced = "builtin"

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.server = web_server(self)
        (self.port,) = free_ports(1)
        self.node.expect("se-1")
        settings = self.node.place("se-1") / "se.toml"
        settings.write_text(settings.read_text().replace('"builtin"', f'"{self.balanced}"'))
        self.node.start_engine("se-1")
        service: dict[str, Any] = {"name": "web", "address": "127.0.0.1", "port": self.port, "pool": "p"}
        service |= {"significant": {"statuses": ["501"], "per_second": 3}}
        server = {"name": "s", "address": "127.0.0.1", "port": self.server.server_port}
        document = {"name": "web", "virtual_services": [service], "pools": [{"name": "p", "servers": [server]}]}
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.machine.avictl("config", "apply", "-f", str(path))
        self.machine.until("it serves", lambda: self.ask("GET", "/well") == 200)

    def ask(self, method: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


class TailTests(Case):
    def test_what_goes_wrong_is_followed_and_what_is_held_back_is_counted(self) -> None:
        with subprocess.Popen(
            [*AVICTL, "--output", "json", "logs", "tail", "se-1", "--service", "web"],
            env=self.machine.environment,
            stdout=subprocess.PIPE,
        ) as tail:
            late = threading.Timer(PATIENCE_S, tail.kill)
            late.start()
            self.addCleanup(late.cancel)
            self.addCleanup(tail.kill)
            assert tail.stdout is not None
            self.assertEqual(self.ask("PURGE", "/wrong-0"), 501, "the server knows GET alone")
            first = json.loads(tail.stdout.readline())
            self.assertEqual((first["event"], first["id"], first["why"]), ("record", "se-1", ["status"]))
            self.assertEqual((first["record"]["path"], first["record"]["method"]), ("/wrong-0", "PURGE"))
            for number in range(1, 21):
                self.ask("PURGE", f"/wrong-{number}")
            came, held = 1, 0
            while came + held < 21:
                event = json.loads(tail.stdout.readline())
                came += event["event"] == "record"
                held += event.get("records", 0)
            self.assertGreater(held, 0)
            tail.kill()
        shown = self.machine.avictl("logs", "tail", "--no-follow", "--label", "site=test")
        self.assertIn("PURGE", shown)
        self.assertNotIn("/well", shown)
        self.assertEqual(self.machine.avictl("logs", "tail", "--no-follow", "--label", "site=elsewhere"), "")


class AwayTests(Case):
    balanced = "haproxy"

    @override
    def setUp(self) -> None:
        require("haproxy")
        super().setUp()

    def test_what_goes_wrong_while_its_process_is_away_is_significant_when_it_is_back(self) -> None:
        self.machine.kill("se-1")
        self.assertEqual(self.ask("PURGE", "/meanwhile"), 501, "HAProxy serves on")
        self.node.start_engine("se-1")

        def shown() -> bool:
            return "/meanwhile" in self.machine.avictl("logs", "tail", "--no-follow")

        self.machine.until("it is shown", shown)
