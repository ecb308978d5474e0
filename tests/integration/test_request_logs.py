"""A real service engine keeps what its clients asked for: through its end, and through its death."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import duckdb
from typing_extensions import override

from demo.machine import free_ports
from tests.integration.node import NodeCase
from tests.integration.web import web_server

SETTINGS = '\n[spool]\nkeep = "always"\nsync_s = 0.05\nsegment_age_s = 1.0\n'


class RequestLogTests(NodeCase):
    engines = ()

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.server = web_server(self)
        (self.port,) = free_ports(1)
        self.node.expect("se-1")
        settings = self.node.place("se-1") / "se.toml"
        settings.write_text(settings.read_text() + SETTINGS)
        self.node.start_engine("se-1")
        document = {
            "name": "web",
            "applies_to": {"kind": "service-engine", "id": "se-1"},
            "virtual_services": [{"name": "web", "address": "127.0.0.1", "port": self.port, "pool": "p"}],
            "pools": [
                {"name": "p", "servers": [{"name": "s", "address": "127.0.0.1", "port": self.server.server_port}]}
            ],
        }
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.machine.avictl("config", "apply", "-f", str(path))

    @property
    def folder(self) -> Path:
        return self.node.place("se-1") / "state" / "logs"

    def ask(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read() == b"here"
        except OSError:
            return False
        finally:
            connection.close()

    def sealed(self, path: str) -> bool:
        """Whether a request for `path` is in a segment."""
        return any(each[1] == path for each in self.rows())

    def rows(self) -> list[tuple[int, str]]:
        """Numbers and paths of what is sealed."""
        files = sorted(self.folder.glob("[0-9]*.json"))
        rows: list[tuple[int, str]] = []
        for each in files:
            rows += duckdb.read_parquet(str(each.with_suffix(".parquet"))).project("seq, path").fetchall()
        return rows

    def test_what_was_asked_for_is_sealed_whatever_becomes_of_the_process(self) -> None:
        self.machine.until("it serves", lambda: self.ask("/first"))
        self.machine.until("it is sealed", lambda: self.sealed("/first"))
        self.assertTrue(self.ask("/before-its-end"))
        self.machine.end("se-1")
        self.node.start_engine("se-1")
        self.machine.until("it is sealed", lambda: self.sealed("/before-its-end"))
        self.assertEqual(self.gaps(), [])
        self.machine.until("it serves again", lambda: self.ask("/second"))
        self.machine.until("it is on the disk", lambda: self.sealed("/second"))
        self.machine.kill("se-1")
        self.node.start_engine("se-1")
        self.machine.until("it serves again", lambda: self.ask("/after-its-death"))
        self.machine.until("it is sealed", lambda: self.sealed("/after-its-death"))
        self.assertEqual([seq for seq, _ in self.rows()], list(range(1, len(self.rows()) + 1)))
        self.assertEqual(self.gaps(), ["crash"])

    def gaps(self) -> list[str]:
        """The reasons of what is missing."""
        manifests = [json.loads(each.read_text()) for each in sorted(self.folder.glob("[0-9]*.json"))]
        self.assertEqual({(each["engine"], each["generation"]) for each in manifests}, {("se-1", 1)})
        return [gap["reason"] for each in manifests for gap in each.get("gaps", [])]
