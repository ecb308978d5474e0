"""A node that answers what a test says, on a UNIX socket; and `avictl` in this process, or on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import socketserver
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.cli.main import main
from avinet.wire.message import encode
from avinet.wire.problem import CONTENT_TYPE

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Asked:
    """A request as the node has read it."""

    method: str
    target: str
    body: bytes


Answer = Callable[[Asked], "bytes | Iterator[bytes]"]
"""An answer, or pieces of it, each of which is sent when the one before was."""


def said(message: Any = b"", status: int = 200, kind: str = "application/json") -> bytes:
    """An answer: head, and a body that is bytes or a message."""
    body = message if isinstance(message, bytes) else encode(message)
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def told(*messages: Any, whole: bool = True) -> bytes:
    """A streamed answer; one that is not `whole` is broken off."""
    lines = [(each if isinstance(each, bytes) else encode(each)) + b"\n" for each in messages]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in lines)
    head = b"HTTP/1.1 200 Said\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunks + (b"0\r\n\r\n" if whole else b"")


def problem(message: Any, status: int) -> bytes:
    """An answer that says no."""
    return said(message, status, CONTENT_TYPE)


class _Exchange(socketserver.StreamRequestHandler):
    timeout = PATIENCE_S
    server: _Server

    @override
    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split(" ")
        length = 0
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        asked = Asked(method, target, self.rfile.read(length))
        self.server.asked.append(asked)
        with contextlib.suppress(OSError):  # who asked may have read enough
            answer = self.server.answer(asked)
            for piece in (answer,) if isinstance(answer, bytes) else answer:
                self.wfile.write(piece)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    answer: Answer
    asked: list[Asked]


@dataclass(frozen=True)
class Ended:
    """How `avictl` ended, and what it printed."""

    code: int
    out: str
    err: str


class ScriptedCase(SynchronousTestCase):
    """`self.answer` is what the node says next; `self.asked` is what it was asked."""

    @override
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="avictl-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = str(self.folder / "node.sock")
        self._server = _Server(self.path, _Exchange)
        self._server.asked = []
        serving = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        serving.start()
        self.addCleanup(self._server.server_close)
        self.addCleanup(serving.join)
        self.addCleanup(self._server.shutdown)
        self.answers(said())

    @property
    def asked(self) -> list[Asked]:
        return self._server.asked

    def answers(self, answer: bytes | Answer) -> None:
        """From now on the node says `answer`, or what it makes of the request."""
        self._server.answer = (lambda asked: answer) if isinstance(answer, bytes) else answer

    def avictl(self, *arguments: str, socket: str | None = None) -> Ended:
        """`avictl` with its output in a pipe, run by this process."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        code: Any = None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "stdin", None):
            try:
                main(["--socket", socket or self.path, *arguments])
            except SystemExit as ended:
                code = ended.code
        texts = [each.buffer.getvalue().decode("utf-8", "surrogateescape") for each in (out, err)]  # type: ignore[attr-defined]
        return Ended(code, *texts)

    def refused(self, code: int, *arguments: str, socket: str | None = None) -> str:
        """The one line with which `avictl` ends with `code`, without its name; nothing else is printed."""
        ended = self.avictl(*arguments, socket=socket)
        self.assertEqual((ended.code, ended.out), (code, ""), (arguments, ended))
        self.assertTrue(ended.err.startswith("avictl: "), ended)
        self.assertTrue(ended.err.endswith("\n"), ended)
        line = ended.err[len("avictl: ") : -1]
        self.assertTrue(line.isprintable(), ended)
        return line

    def on_terminal(
        self, *arguments: str, typed: bytes = b"", when: bytes = b"", again: tuple[bytes, bytes] = (b"", b"")
    ) -> tuple[int, bytes]:
        """How `avictl` ends on a terminal, where `typed` is typed as soon as `when` is seen; and all that it shows.

        `again` is what is typed after that, when what is seen.
        """
        near, far = pty.openpty()
        with open(near, "r+b", buffering=0) as terminal:
            process = subprocess.Popen(
                [sys.executable, "-m", "avinet.cli", "--socket", self.path, *arguments],
                stdin=far,
                stdout=far,
                stderr=far,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"},
            )
            os.close(far)
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the far side was closed
                while data := terminal.read(65536):
                    shown += data
                    if typed and when in shown:
                        terminal.write(typed)
                        (typed, when), again = again, (b"", b"")
            return process.wait(PATIENCE_S), shown
