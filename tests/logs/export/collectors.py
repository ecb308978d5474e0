"""Collectors on real sockets: a TLS receiver of syslog, and one of OTLP over HTTP, each in a thread of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests.issuing import Issuer, ec_key, key_pem, pem
from tests.logs.export.syslog_message import Message, unframed

PATIENCE_S = 30.0


class Files:
    """What TLS needs, in a folder: the CA, a server `collector.example`, and a client."""

    def __init__(self, folder: Path, name: str = "collector.example") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        issuer = Issuer()
        server, key = issuer.serve(name), ec_key()
        (folder / "ca.pem").write_text(pem(issuer.root))
        (folder / "server.pem").write_text(server.chain_pem + server.key_pem)
        (folder / "client.pem").write_text(pem(issuer.certificate(key, "se-1"), issuer.intermediate))
        (folder / "client.key").write_text(key_pem(key))

    def context(self, *, asks: bool = False) -> ssl.SSLContext:
        """The server's side; with `asks` it wants to know who the client is."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem")
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "ca.pem")
        return context


class SyslogCollector:
    """Reads what it is sent, strictly, while `reading` is set."""

    def __init__(self, test: SynchronousTestCase, context: ssl.SSLContext, port: int = 0) -> None:
        self.messages: list[Message] = []
        self.errors: list[BaseException] = []
        self.reading = threading.Event()
        self.reading.set()
        self._context = context
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        test.addCleanup(self.stop)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(PATIENCE_S)
            threading.Thread(target=self._read, args=(plain,), daemon=True).start()

    def _read(self, plain: socket.socket) -> None:
        rest = b""
        try:
            with self._context.wrap_socket(plain, server_side=True) as opened:
                self._open.append(opened)
                while self.reading.wait(PATIENCE_S) and (data := opened.recv(65536)):
                    messages, rest = unframed(rest + data)
                    self.messages += messages
        except ValueError as error:  # which is never right
            self.errors.append(error)
        except OSError:
            return

    def cut(self) -> None:
        """Lose all connections."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def stop(self) -> None:
        """Be gone."""
        self.reading.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # which wakes who accepts
        self._listener.close()
        for each in self._open:
            each.close()


class OtlpCollector:
    """Answers with what `answers` say in turn, (status, headers, body), and after them with success."""

    def __init__(self, test: SynchronousTestCase, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                collector.requests.append((self.path, headers, json.loads(body)))
                status, said, answer = collector.answers.pop(0) if collector.answers else (200, {}, b"{}")
                self.send_response(status)
                for name, value in {**said, "content-length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            @override
            def log_message(self, format: str, *args: object) -> None:
                """Nothing is written for each request."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            @override
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Who goes away goes away."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_port
        test.addCleanup(self._server.server_close)
        test.addCleanup(self._server.shutdown)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def logs(self) -> list[dict[str, Any]]:
        """All log records that came, in the shape of the standard."""
        return [
            log
            for _, _, body in self.requests
            for resource in body["resourceLogs"]
            for scope in resource["scopeLogs"]
            for log in scope["logRecords"]
        ]
