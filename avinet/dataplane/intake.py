"""Records of HAProxy: lines of JSON through a UNIX socket, taken as they come; a bad line is told of and counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import within
from avinet.dataplane.interface import Why
from avinet.dataplane.records import Record
from avinet.errors import TimedOut

LINE_BYTES = 64 * 1024
"""What a line may have; those of HAProxy have less than 16 KiB."""
CLOSE_S = 2.0
"""How long the last records may take when a connection ends."""
_log = Logger()
_decoder = msgspec.json.Decoder(Record)
_SIGNED, _PLAIN = b',"r":+', b',"r":'
"""HAProxy writes a plus before the retries of a request that went to another server in the end, which is no JSON.

In a text it cannot stand like that: quotes in one are escaped.
"""


_DROPPED = re.compile(rb"([0-9]{1,9}) events? dropped\Z")
"""What stands in a ring in the place of lines that it had no room for. They are not among HAProxy's `DroppedLogs`."""


def _is_request(record: Record) -> bool:
    """False for a connection that ended before there was a request: the handshake of TLS has failed."""
    return record.status != 0 or record.termination != "PR"


class _Lines(Protocol):
    """Splits what comes into lines; all those of one read are one batch."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._rest = b""
        self._skipping = False

    @override
    def connectionMade(self) -> None:
        self._intake.open.add(self)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._rest:
            self._intake.spoil("parse")
        self._intake.open.discard(self)
        closed = self._intake.closed
        if closed is not None and not closed.called and not self._intake.open:
            closed.callback(None)

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._skipping:
            _, newline, data = data.partition(b"\n")
            self._skipping = not newline
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        if end:
            self._intake.take_block(data[:end])
        if len(self._rest) > LINE_BYTES:
            self._rest, self._skipping = b"", True
            self._intake.spoil("long")


class Intake(Factory):
    """Gives the records of each read to `take`, and their lines to `lines`; what is missing is told to `missed`, in its
    place between them, and counted in `bad` by why: `parse`, `long`, `dropped`.
    """

    noisy = False

    def __init__(
        self,
        take: Callable[[Sequence[Record]], None],
        lines: Callable[[Sequence[bytes]], None],
        missed: Callable[[Why, int], None],
    ) -> None:
        self._take = take
        self._lines = lines
        self._missed = missed
        self.bad = {"parse": 0, "long": 0, "dropped": 0}
        self.open: set[_Lines] = set()
        self.closed: Deferred[None] | None = None

    def take_block(self, block: bytes) -> None:
        """Take whole lines, each with its end."""
        if _SIGNED in block:
            block = block.replace(_SIGNED, _PLAIN)
        lines = block.split(b"\n")
        del lines[-1]
        fit = len(block) <= LINE_BYTES or max(map(len, lines)) <= LINE_BYTES
        try:
            records = _decoder.decode_lines(block) if fit else []
        except msgspec.MsgspecError:
            records = []
        if len(records) == len(lines):
            self._hand_on(records, lines)
        else:
            self._take_each(lines)

    def _take_each(self, lines: Sequence[bytes]) -> None:
        """Take lines of which one is bad: those between two bad ones are a batch."""
        good: list[tuple[Record, bytes]] = []
        for line in lines:
            why = "long"
            if len(line) <= LINE_BYTES:
                try:
                    good.append((_decoder.decode(line), line))
                    continue
                except msgspec.MsgspecError:
                    why = "parse"
            self._hand_on([record for record, _ in good], [line for _, line in good])
            good.clear()
            if dropped := _DROPPED.match(line):
                self._miss("dropped", "dropped", int(dropped[1]))
            else:
                self.spoil(why)
        self._hand_on([record for record, _ in good], [line for _, line in good])

    def _hand_on(self, records: list[Record], lines: list[bytes]) -> None:
        if not all(map(_is_request, records)):
            lines = [line for record, line in zip(records, lines, strict=True) if _is_request(record)]
            records = [record for record in records if _is_request(record)]
        if records:
            self._take(records)
            self._lines(lines)

    def spoil(self, why: str) -> None:
        """A line came that is none, and a record is missing."""
        self._miss("parse", why, 1)

    def _miss(self, reason: Literal["parse", "dropped"], why: str, records: int) -> None:
        self.bad[why] += records
        self._missed(reason, records)

    async def close(self, clock: IReactorTime) -> None:
        """End the connections that are open, and take what is on its way: HAProxy ends its side once that has gone."""
        if not self.open:
            return
        self.closed = Deferred()
        for each in self.open:
            assert each.transport is not None
            each.transport.loseWriteConnection()  # type: ignore[attr-defined]
        try:
            await within(clock, CLOSE_S, self.closed, "taking the last records of HAProxy")
        except TimedOut as error:
            _log.warn("{why}: some may be missing", why=str(error))
            for each in list(self.open):
                assert each.transport is not None
                each.transport.abortConnection()  # type: ignore[attr-defined]
        finally:
            self.closed = None

    @override
    def buildProtocol(self, addr: IAddress | None) -> _Lines:
        return _Lines(self)
