"""The node's REST API over its UNIX socket, synchronously: `avictl` starts fast, and waits for one answer at a time."""

from __future__ import annotations

import http.client
import socket
from typing import Any, TypeVar

from typing_extensions import override

from avinet.errors import PeerError, TimedOut, Unavailable
from avinet.rest.problems import error_from
from avinet.wire.message import decode, encode
from avinet.wire.problem import CONTENT_TYPE

M = TypeVar("M")
LIMIT_BYTES = 512 * 1024 * 1024


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("node", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


class Node:
    """The node behind the UNIX socket at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def request(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        timeout_s: float = 60.0,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """The body of the answer. Raises the error that a problem stands for, or `Unavailable`."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = encode(body)
            sent["content-type"] = "application/json"
        connection = self._connection(timeout_s)
        try:
            connection.request(method, target, body, sent)
            answer = connection.getresponse()
            data = answer.read(LIMIT_BYTES)
        except TimeoutError as error:
            raise TimedOut(f"the node gave no answer within {timeout_s:g} s") from error
        except OSError as error:
            raise self._unreachable(error) from error
        except http.client.HTTPException as error:
            raise PeerError(f"what listens on {self.path} does not speak as a node does: {error!r}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            found = {name.lower(): value for name, value in answer.getheaders()}
            raise error_from(answer.status, found, data, "the node")
        return data

    def ask(self, method: str, target: str, into: type[M], body: Any = None, *, timeout_s: float = 60.0) -> M:
        """The answer as a message of type `into`."""
        data = self.request(method, target, body, timeout_s=timeout_s)
        return decode(data, into, limit_bytes=LIMIT_BYTES, what="answer of the node")

    def pipe(self, target: str) -> socket.socket:
        """A byte pipe: the connection after `101 Switching Protocols`."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(30)
        try:
            link.connect(self.path)
            request = f"GET {target} HTTP/1.1\r\nhost: node\r\nconnection: upgrade\r\nupgrade: avinet-pipe\r\n\r\n"
            link.sendall(request.encode("ascii"))
            head = _head(link)
        except TimeoutError as error:
            raise TimedOut("the node did not open the pipe within 30 s") from error
        except OSError as error:
            raise self._unreachable(error) from error
        status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
        if status != 101:
            rest = b"" if not status else _rest(link)
            link.close()
            fields = {"content-type": CONTENT_TYPE} if CONTENT_TYPE.encode() in head else {}
            raise error_from(status or 502, fields, rest, "the node")
        link.settimeout(None)
        return link

    def _connection(self, timeout_s: float) -> _UnixConnection:
        return _UnixConnection(self.path, timeout_s)

    def _unreachable(self, error: OSError) -> Unavailable:
        why = error.strerror or str(error)
        return Unavailable(
            f"no node answers on {self.path}: {why}",
            hint="start twistd avi-controller, or name its socket with --socket or AVINET_SOCKET",
        )


def _rest(link: socket.socket) -> bytes:
    """What is left of an answer that is no pipe."""
    link.shutdown(socket.SHUT_WR)
    parts = []
    while data := link.recv(65536):
        parts.append(data)
    return b"".join(parts)


def _head(link: socket.socket) -> bytes:
    """The head of the answer, read byte for byte: what follows it belongs to the pipe."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < 16384:
        byte = link.recv(1)
        if not byte:
            break
        head += byte
    return head
