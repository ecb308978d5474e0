"""Requests of SFTP, in any pieces: nothing but what is in the folder comes out, and no descriptor stays open."""

from __future__ import annotations

import os
from typing import Any

from twisted.conch.ssh import filetransfer as fx

from avinet.ssh.sftp import OPEN_HANDLES, READ_BYTES, REQUEST_BYTES, FileServer, Folder
from avinet.ssh.strings import string, uint32
from tests.fuzz.folder import SECRET, folder
from tests.fuzz.steps import Draw, joined, steps
from tests.fuzz.vocabulary import damaged
from tests.fuzz.watch import check, descriptors, watched

_PATHS = (
    *(b"/", b"a.log", b"sub", b"sub/b.log", b"sub/../a.log", b"../secret", b"link", b"up/secret", b"pipe", b".", b""),
    *(
        b"a.log\0",
        b"/".join([b"sub"] * 9),
        b"n" * 200,
        b"\xff",
        b"sub/./b.log",
        b"//sub//b.log",
        b".hidden",
        b"nothing",
    ),
)
_WRITE_KINDS = (
    fx.FXP_WRITE,
    fx.FXP_REMOVE,
    fx.FXP_RENAME,
    fx.FXP_MKDIR,
    fx.FXP_SETSTAT,
    fx.FXP_SYMLINK,
    fx.FXP_EXTENDED,
)
_BY_PATH = (fx.FXP_OPENDIR, fx.FXP_STAT, fx.FXP_LSTAT, fx.FXP_REALPATH, *_WRITE_KINDS)
_BY_HANDLE = (fx.FXP_READDIR, fx.FXP_FSTAT, fx.FXP_CLOSE)


class Peer:
    """Takes answers; what it does not take yet waits."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def write(self, data: bytes) -> None:
        self.written += data

    def loseConnection(self) -> None:
        self.closed = True

    def pauseProducing(self) -> None:
        """The server would rather not be asked more."""

    def resumeProducing(self) -> None:
        """It would."""

    def handles(self) -> list[bytes]:
        """The handles that it was given."""
        found, at = [b"0"], 0
        while at + 4 <= len(self.written):
            size = int.from_bytes(self.written[at : at + 4], "big")
            if self.written[at + 4] == fx.FXP_HANDLE:
                found.append(bytes(self.written[at + 13 : at + 4 + size]))
            at += 4 + size
        check(at == len(self.written), "an answer has another length than it says")
        return found


def _request(draw: Draw, peer: Peer) -> bytes:
    """A request that makes sense."""
    match draw.below(6):
        case 0:
            flags = draw.pick((fx.FXF_READ, fx.FXF_WRITE, fx.FXF_READ | fx.FXF_CREAT, 0))
            return bytes((fx.FXP_OPEN,)) + uint32(draw.byte()) + string(draw.pick(_PATHS)) + uint32(flags) + uint32(0)
        case 1:
            handle, offset = draw.pick(peer.handles()[-100:]), draw.number() << (draw.byte() & 40)
            return (
                bytes((fx.FXP_READ,))
                + uint32(1)
                + string(handle)
                + offset.to_bytes(9, "big")[1:]
                + uint32(draw.number())
            )
        case 2 | 3:
            kind = draw.pick(_BY_PATH)
            return bytes((kind,)) + uint32(draw.byte()) + string(draw.pick(_PATHS)) + draw.rest()
        case 4:
            kind = draw.pick(_BY_HANDLE)
            return bytes((kind,)) + uint32(draw.byte()) + string(draw.pick(peer.handles()[-100:])) + draw.rest()
        case _:
            return draw.pick((bytes((fx.FXP_INIT,)) + uint32(3), bytes((draw.byte(),)) + uint32(9) + draw.rest()))


def run(data: bytes) -> None:
    """Ask for what the program says."""
    path = folder()
    with watched():
        peer = Peer()
        shown = Folder(path)
        server = FileServer(shown)
        server.makeConnection(peer)  # type: ignore[arg-type]
        before = descriptors()
        for step in steps(data):
            draw = Draw(step)
            match draw.below(8):
                case 6:
                    peer.producer.pauseProducing()
                    continue
                case 7:
                    peer.producer.resumeProducing()
                    continue
                case 5:
                    sent = draw.rest()
                case how:
                    body = _request(draw, peer)
                    sent = uint32(len(body)) + body
                    if how == 4:
                        sent = damaged(sent, draw.byte(), draw.byte(), draw.some(16))
            half = len(sent) // 2 if draw.byte() & 1 else len(sent)
            for piece in (sent[:half], sent[half:]):
                answered = len(peer.written)
                if not peer.closed:
                    server.dataReceived(piece)
                most = READ_BYTES + 64 if not server._paused else 1 << 20
                check(len(peer.written) - answered <= max(most, 64 * (1 + len(piece))), "an answer is too long")
                check(len(server._unread) <= 4 + REQUEST_BYTES or server._paused, "what is not read piles up")
            check(descriptors() - before <= OPEN_HANDLES, "too many files are open")
        check(SECRET not in peer.written, "the secret came out")
        server.connectionLost()
        check(shown._handles == 0, "a file that was closed counts as open")
    check(sorted(os.listdir(path)) == ["a.log", "link", "pipe", "sub", "up"], "the folder was changed")


_OPENED = (b"\0\5", b"\0\0\0\0\1", b"\0\1\1\0\0\0\xd0", b"\0\4\1\0\1", b"\0\4\2\0\1")
SEEDS = [
    joined(_OPENED),
    joined([b"\0\2\0\0\0", b"\0\4\0\0\1", b"\0\4\0\0\1", b"\0\4\2\0\1"]),
    *(joined([bytes((0, 2, kind, 0, path)) for path in range(len(_PATHS))]) for kind in range(len(_BY_PATH))),
    joined([bytes((0, 0, 0, path)) for path in range(len(_PATHS))]),
    joined([b"\6", *_OPENED, b"\7", b"\5\0\0", b"\4\5\0\3\200"]),
    joined([b"\0\0\0\0\1"] * 20),
]
