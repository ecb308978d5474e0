"""Records of HAProxy: lines of JSON through a UNIX socket, taken as they come; a bad line is told of and counted."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import within
from avinet.dataplane.interface import Records, Why
from avinet.dataplane.records import Record
from avinet.errors import TimedOut

LINE_BYTES = 64 * 1024
"""What a line may have; those of HAProxy have less than 16 KiB."""
_LAST_BYTES = 2 * LINE_BYTES
CLOSE_S = 2.0
"""How long the last records may take when a connection ends."""
_PEER = struct.Struct("3i")
"""`struct ucred` (unix(7)): process, user, group."""
_log = Logger()
_decoder = msgspec.json.Decoder(Record)
_SIGNED, _PLAIN = b',"r":+', b',"r":'
"""HAProxy writes a plus before the retries of a request that went to another server in the end, which is no JSON.

In a text it cannot stand like that: quotes in one are escaped.
"""


_DROPPED = re.compile(rb"([0-9]{1,9}) events? dropped\Z")
"""What stands in a ring in the place of lines that it had no room for. They are not among HAProxy's `DroppedLogs`."""

_NOTICE = re.compile(rb"[A-Z][a-z]+ [^\n]{1,500}\Z")
"""What HAProxy says of itself in its log, such as "Proxy f-web stopped": no record is missing there."""


def _is_request(record: Record) -> bool:
    """False for a connection that ended before there was a request: the handshake of TLS has failed.

    What is no request by the rules of HTTP/2 looks the same.
    """
    return record.status != 0 or record.termination != "PR"


class Worker:
    """A worker of HAProxy, `pid`: `last` is the last record that has come from it, and the lines behind that.

    Only a record is one of its kind: "1 event dropped" may stand in a ring twice. `ended` are those of its connections
    of which only our half is open.
    """

    def __init__(self, pid: int, take: Callable[[bytes], None]) -> None:
        self.pid = pid
        self._take = take
        self.last = b""
        self.ended: list[_Lines] = []
        self.open = 0

    def take_block(self, block: bytes) -> None:
        """Take whole lines, each with its end."""
        at = block.rfind(b"\n{") + 1
        if at or not self.last or block.startswith(b"{"):
            self.last = block[at:-1]
        else:
            self.last += b"\n" + block[:-1]
        if len(self.last) > _LAST_BYTES:
            self.last = self.last[self.last.find(b"\n", len(self.last) - _LAST_BYTES) + 1 :]
        self._take(block)

    def let_go(self, count: int) -> None:
        """End our half of the first connections that have ended."""
        for each in self.ended[:count]:
            assert each.transport is not None
            each.transport.loseConnection()
        del self.ended[:count]


@implementer(IHalfCloseableProtocol)
class _Lines(Protocol):
    """Splits what comes from the ring of a worker into lines; all those of one read are one batch."""

    _worker: Worker

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._rest = b""
        self._skipping = False

    @override
    def connectionMade(self) -> None:
        assert self.transport is not None
        self._intake.open.add(self)
        self._worker = self._intake.worker(_peer(self.transport))
        self._worker.open += 1

    def readConnectionLost(self) -> None:
        """See `IHalfCloseableProtocol`: the worker is to stop, has died, or has looked whether we are there."""
        if self._intake.closed is not None:
            assert self.transport is not None
            self.transport.loseConnection()
            return
        self._rest = b""  # what is cut off is whole in its ring
        self._worker.ended.append(self)
        if len(self._worker.ended) == 1:
            self._intake.ended(self._worker)

    def writeConnectionLost(self) -> None:
        """See `IHalfCloseableProtocol`: we have ended our half."""

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._rest:
            self._intake.spoil("parse")
        self._intake.open.discard(self)
        self._intake.left(self._worker)
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
            self._worker.take_block(data[:end])
        if len(self._rest) > LINE_BYTES:
            self._rest, self._skipping = b"", True
            self._intake.spoil("long")


def _let_go(worker: Worker) -> None:
    worker.let_go(len(worker.ended))


def _peer(transport: Any) -> int:
    """The process at the other end of a UNIX socket; 0 for a transport that is none."""
    handle = getattr(transport, "getHandle", lambda: None)()
    if handle is None:
        return 0
    return int(_PEER.unpack(handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0])


class Intake(Factory):
    """Gives the records of each read to `take`, with their lines; what is missing is told to `missed`, in its
    place between them, and counted in `bad` by why: `parse`, `long`, `dropped`. `ended` is given a worker that
    has ended a connection, when it had ended none: to let it go.
    """

    noisy = False

    def __init__(
        self,
        take: Records,
        missed: Callable[[Why, int], None],
        ended: Callable[[Worker], None] = _let_go,
    ) -> None:
        self._take = take
        self._missed = missed
        self.ended = ended
        self.bad = {"parse": 0, "long": 0, "dropped": 0}
        self.open: set[_Lines] = set()
        self.closed: Deferred[None] | None = None
        self._workers: dict[int, Worker] = {}

    def worker(self, pid: int) -> Worker:
        """The worker of that process, as long as it has a connection."""
        return self._workers.setdefault(pid, Worker(pid, self.take_block))

    def left(self, worker: Worker) -> None:
        """A connection of `worker` is gone."""
        worker.open -= 1
        if not worker.open:
            self._workers.pop(worker.pid, None)

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
            elif not _NOTICE.match(line):
                self.spoil(why)
        self._hand_on([record for record, _ in good], [line for _, line in good])

    def _hand_on(self, records: list[Record], lines: list[bytes]) -> None:
        if not all(map(_is_request, records)):
            lines = [line for record, line in zip(records, lines, strict=True) if _is_request(record)]
            records = [record for record in records if _is_request(record)]
        if records:
            self._take(records, lines)

    def spoil(self, why: str) -> None:
        """A line came that is none, and a record is missing."""
        self._miss("parse", why, 1)

    def _miss(self, reason: Why, why: str, records: int) -> None:
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
