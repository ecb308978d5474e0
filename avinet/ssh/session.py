"""The SSH service of an engine: commands out of a table, and files out of one folder (RFC 4254 §6); no shell.

Each `session` channel does one thing: `exec` of a line that an injected function runs, or the subsystem `sftp`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import Tasks, pause, within
from avinet.errors import AvinetError, LocalError, PeerError
from avinet.ssh.channel import Channel, ChannelAddress
from avinet.ssh.connection import Connection
from avinet.ssh.identity import Identity
from avinet.ssh.messages import UNKNOWN_KIND
from avinet.ssh.opening import Accepted, ChannelLimits, OpenRefused
from avinet.ssh.strings import Reader, string, uint32
from avinet.wire.command import Ended

SESSION = b"session"
_LINE_BYTES = 4096
_NAME_BYTES = 64
_FAILED = 255

Run = Callable[[str, Channel], Awaitable[Ended]]
"""Runs a command line, which writes to the channel while it runs, as fast as the peer takes it: how it ended."""


@implementer(IHalfCloseableProtocol)
class Session(Protocol):
    """One session channel: it waits for what it is to do, and does that once. What comes before is not read."""

    log = Logger()

    transport: Channel

    def __init__(self, clock: IReactorTime, run: Run, files: Callable[[], IProtocol] | None, command_s: float) -> None:
        self._clock = clock
        self._run = run
        self._files = files
        self._command_s = command_s
        self._tasks = Tasks()
        self._begun = False
        self._subsystem: IProtocol | None = None

    def take_request(self, name: bytes, body: bytes) -> bool:
        """Do what a request of the channel asks for; the first that makes sense is the only one."""
        match name:
            case b"exec" if not self._begun:
                return self._exec(body)
            case b"subsystem" if not self._begun:
                return self._start_subsystem(body)
        return False

    def _exec(self, body: bytes) -> bool:
        reader = Reader(body, "request to run a command")
        line = reader.string()
        reader.end()
        if len(line) > _LINE_BYTES or not line.isascii():
            return False
        self._begun = True
        self._tasks.spawn(self._answer(line.decode("ascii")), "a command over SSH", lambda failure: self._end(_FAILED))
        return True

    def _start_subsystem(self, body: bytes) -> bool:
        reader = Reader(body, "request for a subsystem")
        name = reader.string(_NAME_BYTES)
        reader.end()
        if name != b"sftp" or self._files is None:
            return False
        try:
            self._subsystem = self._files()
        except LocalError as error:
            self.log.warn("there are no files for SFTP: {why}", why=str(error))
            return False
        self._begun = True
        self._subsystem.makeConnection(self.transport)
        return True

    async def _answer(self, line: str) -> None:
        # The peer is told that its request was taken before it hears of the outcome.
        await pause(self._clock, 0)
        try:
            ended = await within(self._clock, self._command_s, self._run(line, self.transport), "the command")
        except AvinetError as error:
            self.transport.write_error(f"{error}\n".encode())
            ended = Ended(exit_status=_FAILED)
        self._end(ended.exit_status, ended.signal)

    def _end(self, status: int, signal: str = "") -> None:
        """Say how it ended, as a program would (RFC 4254, section 6.10), and close once all it said is on its way."""
        if signal:
            self.transport.request(b"exit-signal", string(signal.encode("ascii")) + b"\0" + string(b"") + string(b""))
        else:
            self.transport.request(b"exit-status", uint32(status))
        self.transport.loseConnection()

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._subsystem is not None:
            self._subsystem.dataReceived(data)

    def readConnectionLost(self) -> None:
        """The peer has closed its standard input: a command goes on, a subsystem has done its work."""
        if self._subsystem is not None:
            self._end(0)
        elif not self._begun:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing more will be said; the channel ends by itself."""

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._tasks.stop()
        if self._subsystem is not None:
            self._subsystem.connectionLost(reason)


class SessionConnection(Connection):
    """One authenticated connection to an engine's SSH service.

    `run` runs command lines; `files` makes the protocol of the SFTP subsystem, raising `LocalError` when there are no
    files; None when there is no such subsystem. A command may take `command_s` seconds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        identity: Identity,
        run: Run,
        files: Callable[[], IProtocol] | None = None,
        *,
        limits: ChannelLimits | None = None,
        command_s: float = 120.0,
    ) -> None:
        super().__init__(clock, limits or ChannelLimits(channels=16))
        self.identity = identity
        self._run = run
        self._files = files
        self._command_s = command_s

    @override
    def accept(self, kind: bytes, body: bytes) -> Accepted:
        if kind != SESSION:
            raise OpenRefused("there are only sessions", UNKNOWN_KIND)
        if body:
            raise PeerError("a CHANNEL_OPEN of a session says too much")
        session = Session(self._clock, self._run, self._files, self._command_s)
        return Accepted(session, ChannelAddress("session", self.identity.address), session.take_request)
