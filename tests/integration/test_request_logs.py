"""A real service engine keeps what its clients asked for: through its end, and through its death."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
from typing_extensions import override

from tests.integration.serving import ServingCase

SETTINGS = '\n[spool]\nkeep = "always"\nsync_s = 0.05\nsegment_age_s = 1.0\n'


class RequestLogTests(ServingCase):
    @override
    def engine_settings(self) -> str:
        return SETTINGS

    @property
    def folder(self) -> Path:
        return self.node.place("se-1") / "state" / "logs"

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
        self.machine.until("it serves", lambda: self.ask("GET", "/first") == 200)
        self.machine.until("it is sealed", lambda: self.sealed("/first"))
        self.assertEqual(self.ask("GET", "/before-its-end"), 200)
        self.machine.end("se-1")
        self.node.start_engine("se-1")
        self.machine.until("it is sealed", lambda: self.sealed("/before-its-end"))
        self.assertEqual(self.gaps(), [])
        self.machine.until("it serves again", lambda: self.ask("GET", "/second") == 200)
        self.machine.until("it is on the disk", lambda: self.sealed("/second"))
        self.machine.kill("se-1")
        self.node.start_engine("se-1")
        self.machine.until("it serves again", lambda: self.ask("GET", "/after-its-death") == 200)
        self.machine.until("it is sealed", lambda: self.sealed("/after-its-death"))
        self.assertEqual([seq for seq, _ in self.rows()], list(range(1, len(self.rows()) + 1)))
        self.assertEqual(self.gaps(), ["crash"])

    def gaps(self) -> list[str]:
        """The reasons of what is missing."""
        manifests = [json.loads(each.read_text()) for each in sorted(self.folder.glob("[0-9]*.json"))]
        self.assertEqual({(each["engine"], each["generation"]) for each in manifests}, {("se-1", 1)})
        return [gap["reason"] for each in manifests for gap in each.get("gaps", [])]
