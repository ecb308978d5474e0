"""A real service engine brings its request logs to collectors in its network: to syslog over TLS, and to OTLP."""

from __future__ import annotations

import http.client
import json

from typing_extensions import override

from demo.machine import free_ports
from tests.integration.node import NodeCase
from tests.integration.web import web_server
from tests.logs.export.collectors import Files, OtlpCollector, SyslogCollector

SETTINGS = """
[[export]]
name = "soc"
kind = "syslog"
what = "all"
address = "127.0.0.1:{syslog}"
ca = "tls/ca.pem"
server_name = "collector.example"

[[export]]
name = "traces"
kind = "otlp"
url = "http://127.0.0.1:{otlp}"
"""


class ExportTests(NodeCase):
    engines = ()

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.server = web_server(self)
        (self.port,) = free_ports(1)
        self.node.expect("se-1")
        place = self.node.place("se-1")
        self.syslog = SyslogCollector(self, Files(place / "tls").context())
        self.otlp = OtlpCollector(self)
        settings = place / "se.toml"
        settings.write_text(settings.read_text() + SETTINGS.format(syslog=self.syslog.port, otlp=self.otlp.port))
        self.node.start_engine("se-1")
        server = {"name": "s", "address": "127.0.0.1", "port": self.server.server_port}
        document = {
            "name": "web",
            "virtual_services": [{"name": "web", "address": "127.0.0.1", "port": self.port, "pool": "p"}],
            "pools": [{"name": "p", "servers": [server]}],
        }
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.machine.avictl("config", "apply", "-f", str(path))

    def ask(self, method: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def paths(self) -> list[str]:
        return [json.loads(each.text)["u"] for each in self.syslog.messages if each.kind == "request"]

    def test_each_collector_has_what_it_is_for_and_the_operator_sees_how_it_goes(self) -> None:
        self.machine.until("it serves", lambda: self.ask("GET", "/well") == 200)
        self.assertEqual(self.ask("PURGE", "/wrong"), 501)
        self.machine.until("all of it is there", lambda: {"/well", "/wrong"} <= set(self.paths()))
        self.assertEqual(self.syslog.errors, [])
        self.assertEqual({each.data["se"] for each in self.syslog.messages}, {"se-1"})
        self.machine.until("what went wrong is there", lambda: self.otlp.logs)
        self.assertEqual([each["body"] for each in self.otlp.logs], [{"stringValue": "PURGE /wrong 501"}])

        def seen() -> bool:
            states = {each["name"]: each for each in self.node.engine("se-1").get("exports", [])}
            return set(states) == {"soc", "traces"} and all(each.get("sent") for each in states.values())

        self.machine.until("it is seen how it goes", seen)
        shown = self.machine.avictl("se", "show", "se-1")
        self.assertRegex(shown, r"(?m)^soc +syslog +all +[1-9]")
        self.assertTrue(self.ask("GET", "/last"))
        self.machine.end("se-1")
        self.machine.until("the last one is there", lambda: "/last" in self.paths())
