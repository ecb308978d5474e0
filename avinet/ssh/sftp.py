"""SFTP version 3 (draft-ietf-secsh-filexfer-02), read-only, out of one folder: Conch's protocol between two guards.

Below it, packets are framed with a limit, only reading requests reach Conch, and nothing is answered faster than the
peer takes it. Above it, a path is a list of names of allowed characters, opened one by one beneath the folder without
following any link.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from twisted.conch.interfaces import ISFTPFile, ISFTPServer
from twisted.conch.ssh import filetransfer as fx
from twisted.internet.protocol import connectionDone
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer, provider

from avinet.files import cannot

REQUEST_BYTES = 34 * 1024
"""The longest request that is read; those that make sense here are much shorter."""
READ_BYTES = 32 * 1024
"""What one request reads at most."""
OPEN_HANDLES = 16
LISTED_NAMES = 4096

_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9._+,=@-]{0,127}\Z")
_DEPTH = 8
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILE_OFFSETS = 1 << 62

Attributes = dict[str, int]


def _denied(what: str) -> fx.SFTPError:
    return fx.SFTPError(fx.FX_PERMISSION_DENIED, what)


def names_of(path: bytes) -> list[bytes]:
    """The names in `path`, which is taken to begin at the folder. Raises `SFTPError` for any that is not allowed."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if len(names) > _DEPTH or not all(map(_NAME.match, names)):
        raise _denied("this name is not allowed")
    return names


def _attributes(status: os.stat_result) -> Attributes:
    return {
        "size": status.st_size,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "permissions": status.st_mode,
        "atime": int(status.st_atime),
        "mtime": int(status.st_mtime),
    }


@implementer(ISFTPFile)
class ReadFile:
    """A regular file that is open for reading; `closed` is called once."""

    def __init__(self, descriptor: int, closed: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._closed = closed

    def close(self) -> None:
        """Give the file up."""
        os.close(self._descriptor)
        self._closed()

    def readChunk(self, offset: int, length: int) -> bytes:  # noqa: N802
        """Up to `length` bytes from `offset` on; a short answer does not mean the end. Raises `EOFError`."""
        data = os.pread(self._descriptor, min(length, READ_BYTES), offset) if offset < _FILE_OFFSETS else b""
        if not data:
            raise EOFError("there is no more")
        return data

    def writeChunk(self, offset: int, data: bytes) -> None:  # noqa: N802
        """Nothing is written here."""
        raise _denied("files can only be read")

    def getAttrs(self) -> Attributes:  # noqa: N802
        """What is known of the file."""
        return _attributes(os.fstat(self._descriptor))

    def setAttrs(self, attrs: Attributes) -> None:  # noqa: N802
        """Nothing is changed here."""
        raise _denied("files can only be read")


class ReadFolder:
    """A folder that is being listed: its files and folders with names that are allowed, and no links."""

    def __init__(self, descriptor: int, closed: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._closed = closed

    def close(self) -> None:
        """Give the folder up."""
        os.close(self._descriptor)
        self._closed()

    def __iter__(self) -> Iterator[tuple[bytes, bytes, Attributes]]:
        with os.scandir(self._descriptor) as entries:
            names = [os.fsencode(entry.name) for entry in islice(entries, LISTED_NAMES)]
        for name in sorted(filter(_NAME.match, names)):
            try:
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                yield name, _long_name(name, status), _attributes(status)


def _long_name(name: bytes, status: os.stat_result) -> bytes:
    mode = stat.filemode(status.st_mode)
    return b"%s %d %d %d %d %s" % (mode.encode(), status.st_nlink, status.st_uid, status.st_gid, status.st_size, name)


@implementer(ISFTPServer)
class Folder:
    """What a peer may see of the folder at `path`; it holds a limited number of open files. Raises `LocalError`."""

    avatar = None

    def __init__(self, path: Path) -> None:
        try:
            self._root = os.open(path, _OPEN | os.O_DIRECTORY)
        except OSError as error:
            raise cannot("read", path, error) from error
        self._handles = 0

    def close(self) -> None:
        """Give the folder up."""
        os.close(self._root)

    def _descend(self, names: list[bytes]) -> int:
        """A descriptor of the folder `names` beneath this one, for the caller to close."""
        descriptor = os.dup(self._root)
        for name in names:
            try:
                below = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _beneath(self, names: list[bytes], flags: int) -> int:
        """A descriptor of `names` beneath this folder; links on the way there are refused."""
        try:
            if not names:
                return self._descend([])
            parent = self._descend(names[:-1])
            try:
                return os.open(names[-1], flags, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise _explained(error) from error

    def _counted(self) -> None:
        if self._handles >= OPEN_HANDLES:
            raise fx.SFTPError(fx.FX_FAILURE, "too many files are open")
        self._handles += 1

    def _released(self) -> None:
        self._handles -= 1

    def gotVersion(self, otherVersion: int, extData: dict[bytes, bytes]) -> dict[bytes, bytes]:  # noqa: N802, N803
        """There are no extensions."""
        return {}

    def openFile(self, filename: bytes, flags: int, attrs: Attributes) -> ReadFile:  # noqa: N802
        """A regular file, for reading and nothing else."""
        if flags != fx.FXF_READ:
            raise _denied("files can only be read")
        self._counted()
        try:
            descriptor = self._beneath(names_of(filename), _OPEN)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise _denied("this is no file")
        except BaseException:
            self._released()
            raise
        return ReadFile(descriptor, self._released)

    def openDirectory(self, path: bytes) -> ReadFolder:  # noqa: N802
        """A folder, for listing."""
        self._counted()
        try:
            return ReadFolder(self._beneath(names_of(path), _OPEN | os.O_DIRECTORY), self._released)
        except BaseException:
            self._released()
            raise

    def getAttrs(self, path: bytes, followLinks: bool) -> Attributes:  # noqa: N802, N803
        """What is known of a file or folder."""
        names = names_of(path)
        if not names:
            return _attributes(os.fstat(self._root))
        parent = self._beneath(names[:-1], _OPEN | os.O_DIRECTORY)
        try:
            status = os.stat(names[-1], dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise _explained(error) from error
        finally:
            os.close(parent)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise _denied("this is no file")
        return _attributes(status)

    def realPath(self, path: bytes) -> bytes:  # noqa: N802
        """`path` without what does nothing in it."""
        return b"/" + b"/".join(names_of(path))

    def _refuse(self, *arguments: object) -> None:
        raise _denied("files can only be read")

    removeFile = renameFile = makeDirectory = removeDirectory = _refuse  # noqa: N815
    setAttrs = readLink = makeLink = _refuse  # noqa: N815

    def extendedRequest(self, extendedName: bytes, extendedData: bytes) -> None:  # noqa: N802, N803
        """There are no extensions."""
        raise NotImplementedError("there are no extensions")


def _explained(error: OSError) -> fx.SFTPError:
    """`error` as the peer is told: no more than whether there is such a thing."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return fx.SFTPError(fx.FX_NO_SUCH_FILE, "there is no such file")
    return _denied("this cannot be read")


@provider(ILogObserver)
def _unheard(event: LogEvent) -> None:
    """Conch says several lines of each request, with what the peer wrote in them."""


class FileServer(fx.FileTransferServer):
    """The SFTP subsystem of one session, out of `folder`, which is closed with it."""

    log = Logger()
    _log = Logger(observer=_unheard)
    transport: Any

    def __init__(self, folder: Folder) -> None:
        super().__init__(avatar=folder)
        self._folder = folder
        self._unread = bytearray()
        self._paused = False
        self._answering = False
        self._requests: dict[int, Callable[[bytes], None]] = {
            fx.FXP_INIT: self.packet_INIT,
            fx.FXP_OPEN: self.packet_OPEN,
            fx.FXP_CLOSE: self.packet_CLOSE,
            fx.FXP_READ: self.packet_READ,
            fx.FXP_LSTAT: self.packet_LSTAT,
            fx.FXP_FSTAT: self.packet_FSTAT,
            fx.FXP_OPENDIR: self.packet_OPENDIR,
            fx.FXP_READDIR: self.packet_READDIR,
            fx.FXP_REALPATH: self.packet_REALPATH,
            fx.FXP_STAT: self.packet_STAT,
        }

    @override
    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    @override
    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        self._answer()

    def _answer(self) -> None:
        """Answer requests one by one for as long as the peer takes the answers."""
        if self._answering:
            return
        self._answering = True
        try:
            while not self._paused and len(self._unread) >= 4:
                length = int.from_bytes(self._unread[:4], "big")
                if not 5 <= length <= REQUEST_BYTES:
                    self.log.warn("closed an SFTP session: a request has {length} bytes", length=length)
                    self._unread.clear()
                    self.transport.loseConnection()
                    return
                if len(self._unread) < 4 + length:
                    return
                request = bytes(self._unread[4 : 4 + length])
                del self._unread[: 4 + length]
                self._take(request[0], request[1:])
        finally:
            self._answering = False

    def _take(self, kind: int, body: bytes) -> None:
        take = self._requests.get(kind)
        if take is None:
            self._sendStatus(body[:4], fx.FX_OP_UNSUPPORTED, b"files can only be read")
            return
        try:
            take(body)
        except (struct.error, AssertionError, UnicodeError):
            self._sendStatus(body[:4], fx.FX_BAD_MESSAGE, b"the request is malformed")

    @override
    def _ebStatus(self, reason: Failure, requestId: bytes, msg: bytes = b"request failed") -> None:
        match reason.value:
            case fx.SFTPError(code=code, message=message):
                self._sendStatus(requestId, code, message.encode("ascii"))
            case EOFError():
                self._sendStatus(requestId, fx.FX_EOF, b"there is no more")
            case NotImplementedError():
                self._sendStatus(requestId, fx.FX_OP_UNSUPPORTED, b"this is not possible")
            case KeyError():
                self._sendStatus(requestId, fx.FX_FAILURE, b"there is no such handle")
            case OSError() as error:
                self.log.warn("a file could not be read for SFTP: {why}", why=str(error))
                self._sendStatus(requestId, fx.FX_FAILURE, b"this cannot be read")
            case _:
                self.log.failure("an SFTP request failed", reason)
                self._sendStatus(requestId, fx.FX_FAILURE, msg)

    _ebRead = _ebStatus  # noqa: N815 (Conch calls it for an unknown handle, and does not have it)

    def pauseProducing(self) -> None:
        """The peer does not take its answers: neither answer nor read on."""
        self._paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The peer has taken them."""
        self._paused = False
        self.transport.resumeProducing()
        self._answer()

    def stopProducing(self) -> None:
        """The session is over; `connectionLost` follows."""
        self._paused = True

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._unread.clear()
        super().connectionLost(reason)
        self._folder.close()
