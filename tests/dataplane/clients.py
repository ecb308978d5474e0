"""Clients of HTTP that send what a test says, byte by byte."""

from __future__ import annotations

import contextlib
import socket
from typing import IO

from twisted.internet.threads import deferToThread

from tests.dataplane.tls_client import TIMEOUT_S


def request(
    target: bytes = b"/", *headers: bytes, method: bytes = b"GET", host: bytes = b"example.net", body: bytes = b""
) -> bytes:
    """A request that is the last one of its connection."""
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: " + host, *headers, b"Connection: close"]
    lines += [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([*lines, b"", b""]) + body


def _talk(port: int, data: bytes) -> tuple[int, bytes]:
    answer = bytearray()
    with socket.socket() as opened:
        opened.settimeout(TIMEOUT_S)
        opened.bind(("127.0.0.1", 0))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # which may be while it is still connecting
            opened.connect(("127.0.0.1", port))
            opened.sendall(data)
            while more := opened.recv(65536):
                answer += more
        return opened.getsockname()[1], bytes(answer)


def pipelined(port: int, count: int, data: bytes) -> None:
    """Make the same request `count` times on one connection, a hundred ahead of their answers, which are read."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as opened:
        answers = opened.makefile("rb")
        for asked in range(count):
            opened.sendall(data)
            if asked >= 100:
                _skip_answer(answers)
        for _ in range(min(count, 100)):
            _skip_answer(answers)


def _skip_answer(answers: IO[bytes]) -> None:
    length = 0
    while (line := answers.readline()) != b"\r\n":
        name, _, value = line.lower().partition(b":")
        if name == b"content-length":
            length = int(value)
        elif not line:
            raise ConnectionError("the connection ended before its answers did")
    answers.read(length)


async def talk(port: int, data: bytes) -> tuple[int, bytes]:
    """The client's port of a connection, and all that it was answered until that was closed."""
    return await deferToThread(_talk, port, data)
