"""Segments that are on their way into the archive: files that grow, and are hashed as they do. All of it blocks.

`.incoming/ENGINE.GENERATION.FIRST-LAST.HASH.part` below the archive's folder, so that a whole one can be renamed; what
was begun is gone on with by whoever wants the same segment next.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from avinet.errors import Invalid, LocalError
from avinet.files import cannot, private_folder
from avinet.ids import parse_id
from avinet.logs.pull.footer import HEAD_BYTES, TAIL_BYTES, footer_bytes, rows
from avinet.units import format_bytes
from avinet.wire.segment import Manifest

FOLDER = ".incoming"
KEPT_S = 86400
"""How long a part is kept that nobody goes on with."""
KEPT = 2
"""How many parts of a service engine are kept, the last ones: it may offer others without end, and none whole."""
SYNC_BYTES = 16 * 1024 * 1024
"""How much is left to the kernel to write at most: what others on the same disk sync must not wait for more."""
_READ_BYTES = 1024 * 1024
_AT_ONCE = 512
"""How many pieces are written by one call."""
_NAME = re.compile(r"[a-z0-9-]{1,63}\.[0-9]{1,20}\.[0-9]{1,20}-[0-9]{1,20}\.[0-9a-f]{16}\.part\Z")


class Incoming:
    """The parts below the archive `folder`, of whose file system `spare_bytes` stay free."""

    def __init__(self, folder: Path, spare_bytes: int) -> None:
        self._folder = folder / FOLDER
        self._spare_bytes = spare_bytes

    def part(self, manifest: Manifest) -> Part:
        """The part of a segment, with what there is of it. Raises `LocalError`, also where there is no room for it."""
        private_folder(self._folder)
        name = (
            f"{parse_id(manifest.engine)}.{manifest.generation}.{manifest.first}-{manifest.last}"
            f".{manifest.sha256[:16]}.part"
        )
        part = Part(self._folder / name, manifest, self._spare_bytes)
        try:
            part.check_room(manifest.bytes - part.size)
        except BaseException:
            part.close()
            raise
        return part

    def tidy(self, engine: str) -> None:
        """Remove the parts of a service engine but for the last ones, while nobody fetches from it."""
        found: list[tuple[int, str]] = []
        with contextlib.suppress(OSError):
            for each in os.scandir(self._folder):
                if each.name.startswith(f"{engine}.") and _NAME.match(each.name):
                    with contextlib.suppress(OSError):
                        found.append((each.stat(follow_symlinks=False).st_mtime_ns, each.path))
        for _, path in sorted(found, reverse=True)[KEPT:]:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def sweep(self, now_s: float) -> None:
        """Remove the parts that nobody has gone on with for long; `now_s` is the time of day."""
        with contextlib.suppress(FileNotFoundError):
            for each in list(os.scandir(self._folder)):
                with contextlib.suppress(OSError):
                    if _NAME.match(each.name) and now_s - each.stat(follow_symlinks=False).st_mtime > KEPT_S:
                        os.unlink(each.path)


class Part:
    """The open file at `path`, which is to become the segment of `manifest`; `size` is how much of it there is.

    It grows as long as `spare_bytes` stay free.
    """

    def __init__(self, path: Path, manifest: Manifest, spare_bytes: int) -> None:
        self.path = path
        self.manifest = manifest
        self._spare_bytes = spare_bytes
        self._hash = hashlib.sha256()
        self._descriptor = -1
        self._unsynced = 0
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)
            os.utime(self._descriptor)  # it is gone on with, and not to be swept
            self.size = os.fstat(self._descriptor).st_size
            if self.size > manifest.bytes:
                self.begin_anew()
            self._hash_what_is_there()
        except OSError as error:
            self.close()
            raise cannot("write", path, error) from error

    def _hash_what_is_there(self) -> None:
        at = 0
        while at < self.size:
            data = os.pread(self._descriptor, min(_READ_BYTES, self.size - at), at)
            if not data:
                self.size = at
                break
            self._hash.update(data)
            at += len(data)

    @property
    def whole(self) -> bool:
        """Whether it has all of its bytes."""
        return self.size == self.manifest.bytes

    def check_room(self, more: int = 0) -> None:
        """See whether there is room for `more` bytes. Raises `LocalError`."""
        folder = self.path.parent
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise cannot("read", folder, error) from error
        if more + self._spare_bytes > free:
            raise LocalError(
                f"there is no room for a segment of {format_bytes(self.manifest.bytes)} in {folder.parent}:"
                f" {format_bytes(free)} are free, and {format_bytes(self._spare_bytes)} are to stay so",
                hint="free some space on that file system, or see the settings of [archive]",
            )

    def begin_anew(self) -> None:
        """Forget what there is of it. Raises `LocalError`."""
        try:
            os.ftruncate(self._descriptor, 0)
        except OSError as error:
            raise cannot("write", self.path, error) from error
        self.size = 0
        self._hash = hashlib.sha256()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Add `pieces`. Raises `LocalError`; where there is no room it takes no more of it, and is removed."""
        for at in range(0, len(pieces), _AT_ONCE):
            some = pieces[at : at + _AT_ONCE]
            total = sum(map(len, some))
            if self.size + total > self.manifest.bytes:
                raise Invalid(f"a segment of {self.manifest.engine} is longer than its manifest says")
            try:
                written = os.pwritev(self._descriptor, some, self.size)
                if written < total:  # which is so when the disk is full: the next call says it
                    rest = memoryview(b"".join(some))[written:]
                    while len(rest):
                        rest = rest[os.pwrite(self._descriptor, rest, self.size + total - len(rest)) :]
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    self.remove()
                raise cannot("write", self.path, error) from error
            for piece in some:
                self._hash.update(piece)
            self.size += total
            self._unsynced += total
            if self._unsynced >= SYNC_BYTES:
                self._sync()
                self._look_at_room()

    def _sync(self) -> None:
        self._unsynced = 0
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise cannot("write", self.path, error) from error

    def _look_at_room(self) -> None:
        """Others write, too: what was there for all of it may be gone."""
        try:
            self.check_room()
        except LocalError:
            self.remove()
            raise

    @property
    def right(self) -> bool:
        """Whether it is the file that its manifest is of."""
        return self.whole and self._hash.hexdigest() == self.manifest.sha256

    def check_rows(self) -> None:
        """See whether there are as many rows in it as its manifest says. Raises `Invalid`, and `LocalError`."""
        name = f"the segment {self.manifest.first}-{self.manifest.last} of {self.manifest.engine}"
        try:
            tail = os.pread(self._descriptor, TAIL_BYTES, max(0, self.size - TAIL_BYTES))
            length = footer_bytes(tail, self.size)
            head = os.pread(self._descriptor, min(length, HEAD_BYTES), self.size - TAIL_BYTES - length)
            found = rows(head)
        except OSError as error:
            raise cannot("read", self.path, error) from error
        except Invalid as error:
            raise Invalid(f"{name} cannot be read: {error}") from error
        if found != self.manifest.rows:
            raise Invalid(f"{name} has {found} rows, and its manifest says {self.manifest.rows}")

    def close(self) -> None:
        """Leave it for whoever goes on with it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def remove(self) -> None:
        """Nobody is to go on with it: it is closed, and goes."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
