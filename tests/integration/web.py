"""A web server behind virtual services, in the test's own process."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override


class _Backend(BaseHTTPRequestHandler):
    """Any web server, which keeps connections."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "4")
        self.end_headers()
        self.wfile.write(b"here")

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written for each request."""


class _Server(ThreadingHTTPServer):
    """A service engine that was killed resets its connections; there is nothing to say about that."""

    daemon_threads = True
    request_queue_size = 1024

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """See the class."""


def web_server(test: SynchronousTestCase) -> ThreadingHTTPServer:
    """A server that answers every GET with `here`, until the test ends."""
    server = _Server(("127.0.0.1", 0), _Backend)
    test.addCleanup(server.server_close)
    test.addCleanup(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
