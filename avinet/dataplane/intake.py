"""Records of HAProxy: lines of JSON through a UNIX socket, counted as they come; a bad line is counted too."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from typing_extensions import override

LINE_BYTES = 128 * 1024


class RequestRecord(msgspec.Struct, frozen=True):
    """One request, or one connection of a TCP service: the service, its status (HTTP), time in ms, bytes in and out,
    and how it ended (TCP), in HAProxy's letters (configuration manual, section 8.5).
    """

    s: str
    t: int
    i: int
    o: int
    c: int | None = None
    x: str = ""

    @property
    def served(self) -> bool:
        """Whether a server took it, or would have if the client had stayed."""
        return self.x[1:2] not in ("C", "Q") or self.x[:1] in ("C", "c")


class _Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A connection on which the handshake of TLS failed, with HAProxy's number for why: there was no request."""

    s: str
    e: int


_decode = msgspec.json.Decoder(RequestRecord).decode
_decode_failed = msgspec.json.Decoder(_Failed).decode


class _Lines(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = LINE_BYTES

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    @override
    def connectionMade(self) -> None:
        self._intake.open.add(self)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._intake.open.discard(self)
        if self._intake.closed is not None and not self._intake.open:
            self._intake.closed.callback(None)

    @override
    def lineReceived(self, line: bytes) -> None:
        try:
            record = _decode(line)
        except msgspec.MsgspecError:
            self._intake.bad += not _is_failure(line)
            return
        self._intake.take(record)

    @override
    def lineLengthExceeded(self, line: bytes) -> None:
        self._intake.bad += 1
        assert self.transport is not None
        self.transport.loseConnection()


def _is_failure(line: bytes) -> bool:
    try:
        _decode_failed(line)
    except msgspec.MsgspecError:
        return False
    return True


class Intake(Factory):
    """Gives each record to `take`; `bad` counts lines that were none."""

    noisy = False

    def __init__(self, take: Callable[[RequestRecord], None]) -> None:
        self.take = take
        self.bad = 0
        self.open: set[_Lines] = set()
        self.closed: Deferred[None] | None = None

    async def close(self) -> None:
        """End the connections that are open; what they still hold is lost to this process."""
        if self.open:
            self.closed = Deferred()
            for each in self.open:
                assert each.transport is not None
                each.transport.abortConnection()  # type: ignore[attr-defined]
            await self.closed
            self.closed = None

    @override
    def buildProtocol(self, addr: IAddress | None) -> _Lines:
        return _Lines(self)
