"""Request logs are pulled from whoever speaks as the protocol says: a stock OpenSSH client, and a small web server behind."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from avinet.wire.segment import Manifest
from tests.integration.pulls import segment
from tests.integration.test_stock_tunnel import TunnelCase


class Logs(BaseHTTPRequestHandler):
    """The `logs` service over segments in a folder: it lists all of them, whatever it is asked for."""

    protocol_version = "HTTP/1.1"
    folder: Path
    acknowledged: ClassVar[list[str]]

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/v1/log-segments":
            items = [json.loads(each.read_bytes()) for each in sorted(self.folder.glob("*.json"))]
            return self.answer(200, json.dumps({"items": items, "next": 0}).encode())
        first, _, last = path.rpartition("/")[2].partition("-")
        file = self.folder / f"{int(first):020d}-{int(last):020d}.parquet"
        etag = f'"{json.loads(file.with_suffix(".json").read_bytes())["sha256"]}"'
        return self.answer(200, file.read_bytes(), ETag=etag)

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/log-acknowledgements":
            self.acknowledged += [each["sha256"] for each in json.loads(said)["segments"]]
        self.answer(200, b"{}")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(404, b"")

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written for each request."""


class StockLogTests(TunnelCase):
    engines = ("se-1",)

    @override
    def setUp(self) -> None:
        super().setUp()
        folder = self.node.folder / "spool"
        self.there: list[Manifest] = [segment(folder, "se-1", first, 10) for first in (1, 11)]
        self.handler = type("Handler", (Logs,), {"folder": folder, "acknowledged": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        server.daemon_threads = True
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        behind = f":127.0.0.1:{server.server_port}"
        self.hold("-R", f"control:80{behind}", "-R", f"logs:80{behind}")

    def test_its_segments_are_archived_and_acknowledged(self) -> None:
        shown = self.node.avictl("logs", "pull", "se-1")
        self.assertEqual((shown.returncode, shown.stderr), (0, b""), shown)
        self.assertEqual(sorted(self.handler.acknowledged), sorted(each.sha256 for each in self.there))
        kept = [each.read_bytes() for each in self.node.folder.glob("controller/archive/se-1/*/*/*.parquet")]
        sealed = [each.read_bytes() for each in self.handler.folder.glob("*.parquet")]
        self.assertEqual(sorted(kept), sorted(sealed))

    def test_one_that_lists_what_nobody_asked_for_is_told_in_a_line(self) -> None:
        shown = self.node.avictl("logs", "pull", "se-1", "--service", "shop")
        self.assertEqual((shown.returncode, shown.stderr.count(b"\n")), (7, 1), shown)
        self.assertIn(b"its segment 1-10 is none that was asked for", shown.stderr)
        self.assertEqual(list(self.node.folder.glob("controller/archive/se-1")), [])
