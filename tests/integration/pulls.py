"""Service engines with segments in their spools, and the archive of a node that pulls them."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import duckdb
from typing_extensions import override

from avinet.wire.segment import Manifest, manifest_bytes
from tests.integration.node import NodeCase

SETTINGS = '\n[spool]\nkeep = "always"\n'
SEGMENT_BYTES = 64 * 1024 * 1024
"""More than comes between two looks."""


def segment(folder: Path, engine: str, first: int, rows: int, size: int = 0) -> Manifest:
    """A sealed segment in the spool of a service engine that does not run; with `size`, of about so many bytes."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    last = first + rows - 1
    path = folder / f"{first:020d}-{last:020d}.parquet"
    begin_ms = int(time.time() * 1000) - 3_600_000
    filler = f"repeat('x', {size // rows})"
    duckdb.sql(
        f"COPY (SELECT seq, {begin_ms} + seq AS time, 'web' AS service, {filler} || seq AS path"
        f" FROM range({first}, {last + 1}) AS r(seq)) TO '{path}' (FORMAT parquet, COMPRESSION uncompressed)"
    )
    data = path.read_bytes()
    manifest = Manifest(
        schema=1,
        engine=engine,
        generation=1,
        first=first,
        last=last,
        rows=rows,
        from_ms=begin_ms + first,
        to_ms=begin_ms + last,
        services={"web": rows},
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    path.with_suffix(".json").write_bytes(manifest_bytes(manifest))
    return manifest


class PullCase(NodeCase):
    """`se-1` and `se-2` are expected, and keep request logs."""

    engines = ()

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.node.expect("se-1", "se-2")
        for id in ("se-1", "se-2"):
            settings = self.node.place(id) / "se.toml"
            settings.write_text(settings.read_text() + SETTINGS)

    def spool(self, id: str) -> Path:
        return self.node.place(id) / "state" / "logs"

    @property
    def archive(self) -> Path:
        return self.node.folder / "controller" / "archive"

    def settle(self, settings: str, *within: str) -> None:
        """Start the node again, with more settings, `within` another command."""
        self.machine.end("controller")
        self.node.settings.write_text(self.node.settings.read_text() + settings)
        self.node.start_controller(*within)

    def start(self, *ids: str) -> None:
        for id in ids:
            self.node.start_engine(id)
        for id in ids:
            self.machine.until(f"{id} is connected", lambda id=id: self.node.connected(id))  # type: ignore[misc]

    def archived(self) -> dict[str, str]:
        """The SHA-256 of what is in the archive, by its place."""
        return {
            str(each.relative_to(self.archive)): hashlib.sha256(each.read_bytes()).hexdigest()
            for each in self.archive.glob("se-*/*/*/*.parquet")
        }

    def part(self) -> int:
        """How many bytes of a segment have come that is not whole."""
        sizes = [each.stat().st_size for each in (self.archive / ".incoming").glob("*.part")]
        return sum(sizes) if (self.archive / ".incoming").is_dir() else 0

    def seen(self, pull: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.node.avictl("-o", "json", "logs", "pulls", pull).stdout)
        return found

    def ended(self, pull: str) -> dict[str, Any]:
        return self.machine.until(  # type: ignore[no-any-return]
            "the pull has ended",
            lambda: (seen := self.seen(pull))["pull"].get("state") not in (None, "running") and seen,
        )

    def have(self) -> int:
        """How many bytes of segments are here, whole ones or not."""
        return self.part() + sum(each.stat().st_size for each in self.archive.glob("se-*/*/*/*.parquet"))
