"""A connection service that is just enough for `ssh HOST cat`: one session channel, with flow control both ways."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import Deferred
from typing_extensions import override

from avinet.ssh.identity import Identity
from avinet.ssh.strings import Reader, string, uint32

WINDOW = 1 << 30
PACKET = 32768


class _Stream(SSHService):
    """One channel: what is queued is sent as the window and the transport allow."""

    name = b"ssh-connection"
    transport: Any

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.queue = bytearray()
        self.window = 0
        self.packet = 0
        self.remote = 0
        self.paused = False
        self.ending = False
        self.ended = False
        self.got = bytearray()
        self.started: Deferred[None] = Deferred()
        self.done: Deferred[bytes] = Deferred()
        self._closed = False

    @override
    def serviceStopped(self) -> None:
        if not self.done.called:
            self.done.callback(bytes(self.got))

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self.pump()

    def pump(self) -> None:
        """Send what may be sent."""
        while self.queue and self.window and not self.paused:
            part = bytes(self.queue[: min(self.window, self.packet, PACKET)])
            del self.queue[: len(part)]
            self.window -= len(part)
            self.transport.sendPacket(94, uint32(self.remote) + string(part))
        if self.ending and not self.queue and not self.ended:
            self.ended = True
            self.finish()

    def finish(self) -> None:
        """All has been sent, and the other side sends no more."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the channel, once."""
        if not self._closed:
            self._closed = True
            self.transport.sendPacket(97, uint32(self.remote))

    def data(self, data: bytes) -> None:
        """Bytes of the other side."""
        raise NotImplementedError

    def opened(self, reader: Reader) -> None:
        """A channel is asked for, or it is confirmed."""

    def end(self) -> None:
        """The other side sends no more."""

    @override
    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        reader = Reader(packet, "test message")
        match messageNum:
            case 80:
                reader.string()
                if reader.boolean():
                    self.transport.sendPacket(82, b"")
            case 90 | 91:
                self.opened(reader)
            case 93:
                reader.uint32()
                self.window += reader.uint32()
                self.pump()
            case 94:
                reader.uint32()
                self.data(reader.string())
            case 96:
                self.end()
            case 97:
                self.close()
            case 98:
                reader.uint32()
                if reader.string() in (b"exec", b"shell") and reader.boolean():
                    self.transport.sendPacket(99, uint32(self.remote))


class Cat(_Stream):
    """The server's side: sends back what it gets, then exit status 0."""

    @override
    def opened(self, reader: Reader) -> None:
        reader.string()
        self.remote, self.window, self.packet = reader.uint32(), reader.uint32(), reader.uint32()
        self.transport.sendPacket(91, struct.pack(">4I", self.remote, 0, WINDOW, PACKET))
        if not self.started.called:
            self.started.callback(None)

    @override
    def data(self, data: bytes) -> None:
        self.queue += data
        self.pump()

    @override
    def end(self) -> None:
        self.ending = True
        self.pump()

    @override
    def finish(self) -> None:
        remote = uint32(self.remote)
        self.transport.sendPacket(98, remote + string(b"exit-status") + b"\0" + uint32(0))
        self.transport.sendPacket(96, remote)
        self.close()


class RunCat(_Stream):
    """The client's side: runs `cat`, sends `queue`, and `done` fires with what came back."""

    @override
    def serviceStarted(self) -> None:
        self.transport.sendPacket(90, string(b"session") + struct.pack(">3I", 0, WINDOW, PACKET))

    @override
    def opened(self, reader: Reader) -> None:
        reader.uint32()
        self.remote, self.window, self.packet = reader.uint32(), reader.uint32(), reader.uint32()
        self.transport.sendPacket(98, uint32(self.remote) + string(b"exec") + b"\1" + string(b"cat"))
        self.ending = True
        self.pump()

    @override
    def data(self, data: bytes) -> None:
        self.got += data

    @override
    def finish(self) -> None:
        self.transport.sendPacket(96, uint32(self.remote))

    @override
    def end(self) -> None:
        self.done.callback(bytes(self.got))
