"""An open file of the spool: lines as they came, durable after each `append`. Called from one thread at a time."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from avinet.errors import LocalError
from avinet.files import sync_folder, write_atomic
from avinet.logs.spool.losses import LIMIT, Loss, read, shrunk, written
from avinet.logs.spool.naming import GAPS, LINES, open_name

_BLOCK = 1 << 20
_TAIL = 256 * 1024


class OpenFile:
    """The open file in `folder` whose first line would have the number `first`; made, and made durable, if missing.

    `lines` and `size` are what is durable of it. Raises `OSError`.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self.folder = folder
        self.first = first
        self.lines = 0
        self.size = 0
        self.losses: list[Loss] = []
        self._more = False
        self._gaps_there = 0
        """How many lines the file of gaps has."""
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            sync_folder(folder)
        except OSError:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """Where its lines are."""
        return self.folder / open_name(self.first, LINES)

    @property
    def gaps_path(self) -> Path:
        """Where its losses are."""
        return self.folder / open_name(self.first, GAPS)

    def append(self, lines: Sequence[bytes]) -> None:
        """Add `lines` (one or more), durably. Raises `OSError`, and has none of them then."""
        data = b"\n".join(lines) + b"\n"
        if data.count(b"\n") != len(lines):
            data = b"\n".join(line.replace(b"\n", b" ") for line in lines) + b"\n"
        self.cut()
        try:
            view = memoryview(data)
            at = self.size
            while view:
                count = os.pwrite(self._descriptor, view, at)
                view, at = view[count:], at + count
            os.fdatasync(self._descriptor)
        except OSError:
            # What was written may or may not be on the disk after a failed sync: it goes, and is written again.
            self._more = True
            with contextlib.suppress(OSError):
                self.cut()
            raise
        self.lines += len(lines)
        self.size += len(data)

    def cut(self) -> None:
        """Remove what a failed `append` has left behind the lines. Raises `OSError`."""
        if self._more:
            os.ftruncate(self._descriptor, self.size)
            self._more = False

    def lose(self, losses: Sequence[Loss]) -> None:
        """Add `losses`, durably. Raises `OSError`, and has none of them then."""
        data = written(losses)
        together = [*self.losses, *losses]
        if self._gaps_there + len(losses) > LIMIT:
            together = shrunk(together)
            _replace(self.gaps_path, written(together))
            self._gaps_there = len(together)
        else:
            _add(self.gaps_path, data, self.folder)
            self._gaps_there += len(losses)
        self.losses = together

    def close(self) -> None:
        """Nothing more is added."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @classmethod
    def recovered(cls, folder: Path, first: int) -> OpenFile:
        """The one that another process has left: half a last line is cut off, durably."""
        file = cls(folder, first)
        try:
            lines, size = _whole_lines(file.path)
            os.ftruncate(file._descriptor, size)
            os.fsync(file._descriptor)
        except OSError:
            file.close()
            raise
        file.lines, file.size = lines, size
        with contextlib.suppress(FileNotFoundError):
            data = file.gaps_path.read_bytes()
            file.losses = shrunk(read(data))
            file._gaps_there = data.count(b"\n")
            if not data.endswith(b"\n"):
                _replace(file.gaps_path, written(file.losses))
                file._gaps_there = len(file.losses)
        return file

    def last_line(self) -> bytes:
        """The last line, without its end; empty when there is none, or when it is out of all measure."""
        with self.path.open("rb") as file:
            start = max(0, self.size - _TAIL)
            file.seek(start)
            found = file.read(self.size - start).rstrip(b"\n").split(b"\n")
        return found[-1] if start == 0 or len(found) > 1 else b""


def _replace(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except LocalError as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, OSError) else OSError(errno.EIO, str(error))) from error


def _add(path: Path, data: bytes, folder: Path) -> None:
    """Append `data` to the file `path`, durably, or not at all."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        try:
            if os.pwrite(descriptor, data, size) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(descriptor)
            if not size:
                sync_folder(folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _whole_lines(path: Path) -> tuple[int, int]:
    """How many lines the file has, and how many bytes these have."""
    lines = size = position = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if count := block.count(b"\n"):
                lines += count
                size = position + block.rindex(b"\n") + 1
            position += len(block)
    return lines, size


def remove_open(folder: Path, first: int) -> None:
    """Remove an open file with its gaps, in this order, durably: see `naming.plan`. Raises `OSError`."""
    _remove(folder, (open_name(first, GAPS), open_name(first, LINES)))


def rename_open(folder: Path, old: int, new: int) -> None:
    """Give an open file and its gaps another first number, durably. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder / open_name(old, GAPS), folder / open_name(new, GAPS))
    os.rename(folder / open_name(old, LINES), folder / open_name(new, LINES))
    sync_folder(folder)


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)
