"""The node's REST API over its UNIX socket, synchronously: `avictl` starts fast, and waits for one answer at a time."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

from typing_extensions import override

from avinet.errors import AvinetError, Invalid, PeerError, TimedOut, Unavailable
from avinet.rest.problems import PROBLEM_LIMIT_BYTES, error_from
from avinet.wire.jobs import LINE_BYTES
from avinet.wire.message import decode, encode

MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
PIPE_OPEN_S = 30.0
SILENT_S = 40.0
"""How long a streamed answer may be silent."""
PAGES = 10_000
_PIECE_BYTES = 256 * 1024


class Page(Protocol):
    """A list of which `next` asks for the rest."""

    @property
    def next(self) -> str: ...


M = TypeVar("M")
P = TypeVar("P", bound=Page)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("node", timeout=timeout_s)
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link.settimeout(timeout_s)
        self._path = path

    @override
    def connect(self) -> None:
        self._link.connect(self._path)
        self.sock = self._link

    def read(self, answer: http.client.HTTPResponse, limit_bytes: int, until: float) -> bytes:
        """The body of `answer`, whole by the time `until` (monotonic). Raises `PeerError` or `TimeoutError`."""
        body = bytearray()
        while True:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._link.settimeout(left_s)
            piece = answer.read1(_PIECE_BYTES)
            body += piece
            if len(body) > limit_bytes:
                raise PeerError(f"the answer of the node has more than {limit_bytes} bytes")
            if not piece:
                break
        if answer.length:
            raise http.client.IncompleteRead(bytes(body), answer.length)
        return bytes(body)


class Node:
    """The node behind the UNIX socket at `path`; `timeout_s`, where given, is the deadline of every answer.

    `warn` is told once, in a line, what makes the answers worth less than they seem.
    """

    def __init__(self, path: str, timeout_s: float | None = None, warn: Callable[[str], None] = lambda _: None) -> None:
        self.path = path
        self._warn = warn
        self._warned = False
        self.timeout_s = timeout_s

    def request(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        timeout_s: float = 60.0,
        limit_bytes: int = MESSAGE_LIMIT_BYTES,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """The body of the answer, whole within `timeout_s`; a `body` that is no bytes is sent as JSON.

        Raises the error that a problem stands for, `Unavailable` where no node answers, `TimedOut`, and `PeerError`
        for what is no answer, or one of more than `limit_bytes`.
        """
        timeout_s = self.timeout_s or timeout_s
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = encode(body)
            sent["content-type"] = "application/json"
        until = time.monotonic() + timeout_s
        with self._said(timeout_s), contextlib.closing(_UnixConnection(self.path, timeout_s)) as connection:
            with contextlib.suppress(BrokenPipeError):  # a node that has refused says why
                connection.request(method, target, body, sent)
            answer = connection.getresponse()
            refused = answer.status >= 400
            data = connection.read(answer, PROBLEM_LIMIT_BYTES if refused else limit_bytes, until)
            if refused:
                raise _refusal(answer, data)
        if (age_s := answer.getheader("age")) and not self._warned:
            self._warned = True
            self._warn(f"the store of the node has not answered for {age_s} s: what is shown may be out of date")
        return data

    def ask(
        self,
        method: str,
        target: str,
        into: type[M],
        body: Any = None,
        *,
        timeout_s: float = 60.0,
        headers: dict[str, str] | None = None,
    ) -> M:
        """The answer as a message of type `into`. Raises what `request` raises."""
        data = self.request(method, target, body, timeout_s=timeout_s, headers=headers)
        return self._decoded(data, into)

    def _decoded(self, data: bytes, into: type[M]) -> M:
        try:
            return decode(data, into, limit_bytes=MESSAGE_LIMIT_BYTES, what="answer of the node")
        except Invalid as error:
            raise PeerError(error.what, hint="is avictl of the same version as the node?") from error

    def stream(self, method: str, target: str, into: Any, body: Any = None) -> Iterator[Any]:
        """The messages of a streamed answer, as they come. Raises what `ask` raises, and `TimedOut` after silence."""
        timeout_s = self.timeout_s or SILENT_S
        sent = {"content-type": "application/json"} if body is not None else {}
        with self._said(timeout_s), contextlib.closing(_UnixConnection(self.path, timeout_s)) as connection:
            connection.request(method, target, encode(body) if body is not None else None, sent)
            answer = connection.getresponse()
            if answer.status >= 400:
                until = time.monotonic() + timeout_s
                raise _refusal(answer, connection.read(answer, PROBLEM_LIMIT_BYTES, until))
            while line := answer.readline(LINE_BYTES + 1):
                if not line.endswith(b"\n"):
                    raise PeerError("the node broke off its answer, or sent a line that is too long")
                if line.strip():
                    yield self._decoded(line, into)

    def pages(self, target: str, into: type[P], **query: str) -> Iterator[P]:
        """All pages of a list. Raises what `ask` raises, and `PeerError` for a list without end."""
        after = ""
        for _ in range(PAGES):
            page = self.ask("GET", with_query(target, **query, after=after), into)
            yield page
            if not page.next:
                return
            if page.next == after:
                break
            after = page.next
        raise PeerError(f"the list at {target} does not end")

    def pipe(self, target: str) -> socket.socket:
        """A byte pipe: the connection after `101 Switching Protocols`. Raises what `request` raises."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        timeout_s = self.timeout_s or PIPE_OPEN_S
        try:
            with self._said(timeout_s):
                link.settimeout(timeout_s)
                link.connect(self.path)
                request = f"GET {target} HTTP/1.1\r\nhost: node\r\nconnection: upgrade\r\nupgrade: avinet-pipe\r\n\r\n"
                link.sendall(request.encode("ascii"))
                answer = http.client.HTTPResponse(_Unbuffered(link), method="GET")  # type: ignore[arg-type]
                answer.begin()
                if answer.status != 101:
                    raise _refusal(answer, b"".join(iter(lambda: answer.read(PROBLEM_LIMIT_BYTES), b"")))
        except BaseException:
            link.close()
            raise
        link.settimeout(None)
        return link

    @contextlib.contextmanager
    def _said(self, timeout_s: float) -> Iterator[None]:
        """Say of each thing that can go wrong on the way what it means."""
        try:
            yield
        except TimeoutError as error:
            raise TimedOut(f"the node at {self.path} gave no answer within {timeout_s:g} s") from error
        except (http.client.HTTPException, ConnectionResetError) as error:
            raise PeerError(f"what listens on {self.path} gave no whole answer: {error!r}") from error
        except OSError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: OSError) -> AvinetError:
        why = error.strerror or str(error)
        hint = "start it: twistd avi-controller; or name its socket with --socket or AVINET_SOCKET"
        if isinstance(error, PermissionError):
            hint = "run avictl as a user who may open it"
        return Unavailable(f"no node answers on {self.path}: {why}", hint=hint)


class _Unbuffered:
    """A socket for an answer's head alone: what follows it is left to be read, it belongs to the pipe."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def makefile(self, mode: Literal["rb"]) -> socket.SocketIO:
        """The socket as a file that reads no byte ahead."""
        return self._link.makefile(mode, buffering=0)


def _refusal(answer: http.client.HTTPResponse, body: bytes) -> AvinetError:
    return error_from(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body, "the node")


def with_query(target: str, **query: str) -> str:
    """`target` with those of the parameters that are not empty."""
    given = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value)
    return f"{target}?{given}" if given else target
