"""What each server was asked for is what `avictl metrics` says, through a real load balancer and a real node."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.dataplane.master import installed
from demo.machine import free_ports
from tests.integration.node import NodeCase
from tests.peers import missing

IDS = ("se-1", "se-2")
QUICK = "report_interval_s = 1.0\n"


def counting_server(test: SynchronousTestCase) -> tuple[int, list[str]]:
    """A web server: its port, and the paths that it was asked for; `/bad` is answered with 500."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            body = b"x" * 1000
            self.send_response(500 if self.path == "/bad" else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Nothing is written for each request."""

    class Server(ThreadingHTTPServer):
        @override
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Health checks reset their connections."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    test.addCleanup(server.server_close)
    test.addCleanup(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port, asked


class MetricsTests(NodeCase):
    balancer = "builtin"

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.servers = {name: counting_server(self) for name in ("blue", "green")}
        self.ports = dict(zip(IDS, free_ports(len(IDS)), strict=True))
        self.answered: Counter[int] = Counter()
        self.node.expect(*IDS)
        for id, port in self.ports.items():
            settings = self.node.place(id) / "se.toml"
            settings.write_text(QUICK + settings.read_text().replace('"builtin"', f'"{self.balancer}"'))
            self.node.start_engine(id)
            self.apply(id, port)
        for port in self.ports.values():
            self.machine.until("it serves", lambda port=port: self.ask(port, "/first") == 200)  # type: ignore[misc]

    def apply(self, id: str, port: int) -> None:
        """Three of four requests go to blue."""
        weights = {"blue": 30, "green": 10}
        document = {
            "name": id,
            "applies_to": {"kind": "service-engine", "id": id},
            "virtual_services": [{"name": "shop", "address": "127.0.0.1", "port": port, "pool": "web"}],
            "pools": [
                {
                    "name": "web",
                    "servers": [
                        {"name": name, "address": "127.0.0.1", "port": self.servers[name][0], "weight": weight}
                        for name, weight in weights.items()
                    ],
                }
            ],
        }
        path = self.node.folder / f"{id}.json"
        path.write_text(json.dumps(document))
        self.machine.avictl("config", "apply", "-f", str(path))

    def ask(self, port: int, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            self.answered[port] += 1
            return answer.status
        except OSError:
            return 0
        finally:
            connection.close()

    def metrics(self, *arguments: str) -> dict[str, Any]:
        """The totals of each series, by what it is of."""
        said = self.machine.asked("metrics", "shop", "--since", "1h", *arguments)
        return {
            each.get("server") or each.get("service_engine") or "": each["total"] for each in said.get("series", [])
        }

    def asked(self) -> int:
        return sum(len(paths) for _, paths in self.servers.values())

    def all_counted(self) -> dict[str, Any] | None:
        """The totals by server, once as much was reported as was asked for."""
        found = self.metrics("--by", "server")
        counted = sum(each.get("requests", 0) for each in found.values())
        self.assertLessEqual(counted, self.asked())
        return found if counted == self.asked() else None

    def test_what_each_server_was_asked_for_is_told_and_counts_once_whatever_dies(self) -> None:
        for number, port in itertools.product(range(20), self.ports.values()):
            self.assertEqual(self.ask(port, "/bad" if number % 5 == 0 else "/good"), 500 if number % 5 == 0 else 200)
        found = self.machine.until("all is counted", self.all_counted)
        for name, (_, paths) in self.servers.items():
            told = found[name]
            self.assertEqual(told["requests"], len(paths), name)
            self.assertEqual(told["status"].get("5xx", 0), paths.count("/bad"), name)
            self.assertEqual(told["errors"], paths.count("/bad"), name)
            self.assertGreater(told["bytes_out"], 1000 * len(paths))
            self.assertTrue(0 < told["p50_s"] <= told["p99_s"], told)
        self.assertGreater(len(self.servers["blue"][1]), len(self.servers["green"][1]))
        whole, each = self.metrics()[""], self.metrics("--by", "se")
        self.assertEqual(whole["requests"], sum(self.answered.values()))
        self.assertEqual({id: each[id]["requests"] for id in IDS}, {id: self.answered[self.ports[id]] for id in IDS})
        shown = self.machine.avictl("metrics", "shop", "--by", "server")
        self.assertIn("web/blue", shown)

        self.machine.end("controller")
        for port in self.ports.values():
            self.assertEqual(self.ask(port, "/while-it-was-away"), 200)
        self.node.start_controller()
        self.machine.kill("se-1")
        self.node.start_engine("se-1")
        self.machine.until("se-1 is back", lambda: self.node.connected("se-1"))
        self.machine.until("se-2 is back", lambda: self.node.connected("se-2"))
        self.machine.until("it serves", lambda: self.ask(self.ports["se-1"], "/again") == 200)
        self.assertEqual(self.ask(self.ports["se-2"], "/again"), 200)
        port = self.ports["se-2"]
        self.machine.until(
            "se-2 is counted", lambda: self.metrics("--by", "se")["se-2"]["requests"] == self.answered[port]
        )
        self.assertLessEqual(self.metrics()[""]["requests"], sum(self.answered.values()))


class HAProxyMetricsTests(MetricsTests):
    """With HAProxy, whose records and counters they are."""

    balancer = "haproxy"

    @override
    def setUp(self) -> None:
        if installed() is None:
            missing("HAProxy 2.6 or newer is not installed")
        super().setUp()
