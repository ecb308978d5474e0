"""A real service engine brings its request logs to collectors in its network: to syslog over TLS, and to OTLP."""

from __future__ import annotations

import json

from typing_extensions import override

from tests.integration.serving import ServingCase
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


class ExportTests(ServingCase):
    @override
    def engine_settings(self) -> str:
        self.syslog = SyslogCollector(self, Files(self.node.place("se-1") / "tls").context())
        self.otlp = OtlpCollector(self)
        return SETTINGS.format(syslog=self.syslog.port, otlp=self.otlp.port)

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
        soc, traces = json.loads(self.machine.avictl("run", "se-1", "status"))["exports"]
        self.assertGreaterEqual(soc.pop("sent"), 2)
        well = {"waiting_bytes": 0, "lost": {}, "unknown": 0, "problem": ""}
        self.assertEqual(soc, {"name": "soc", "kind": "syslog", "what": "all", **well})
        self.assertEqual(traces, {"name": "traces", "kind": "otlp", "what": "significant", "sent": 1, **well})
        self.assertTrue(self.ask("GET", "/last"))
        self.machine.end("se-1")
        self.machine.until("the last one is there", lambda: "/last" in self.paths())
