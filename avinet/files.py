"""Floor 0: files that are whole or absent, private where they must be, and one process to a state folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import pwd
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from avinet.errors import Damaged, LocalError

_ASIDE = re.compile(r"\..+\.[0-9]+\.new\Z")
"""What `write_atomic` and the like write, with the id of their process, before they rename it."""

_RANDOM = r"[a-z0-9_]{8}\Z"
"""What `tempfile.mkdtemp` puts behind a prefix."""
_TRIES = 100


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`, durably: written aside, synced, renamed, and the folder synced.

    A crash at any moment leaves the old file or the new one. Raises `LocalError` (a full disk, a missing folder),
    and leaves nothing beside it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise cannot("write", path, error) from error


def sweep(folder: Path) -> None:
    """Remove what processes that were killed have left aside below `folder`, which is ours alone now."""
    for path in [each for each in folder.rglob(".*.new") if _ASIDE.match(each.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def work_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A private folder in `parent` that is gone afterwards; those of processes that were killed go, too.

    Whoever is at work in one holds it locked. Raises `LocalError`.
    """
    named = re.compile(re.escape(prefix) + _RANDOM)
    with contextlib.ExitStack() as held:
        try:
            for left in [each for each in parent.glob(f"{glob.escape(prefix)}*") if named.match(each.name)]:
                with _locked(left) as free:
                    if free:
                        shutil.rmtree(left, ignore_errors=True)
            path = _made_and_locked(parent, prefix, held)
        except OSError as error:
            raise cannot("make a folder in", parent, error) from error
        held.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


def _made_and_locked(parent: Path, prefix: str, held: contextlib.ExitStack) -> Path:
    """A new folder, which `held` holds. Another process may sweep it away before it is locked: then another one."""
    for _ in range(_TRIES):
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        attempt = contextlib.ExitStack()
        if attempt.enter_context(_locked(path)) and path.is_dir():
            held.push(attempt.pop_all())
            return path
        attempt.close()
    raise LocalError(f"cannot keep a folder in {parent}: other processes take each new one away", hint="try again")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold `folder`, if nobody does; whether that is so."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the renames and removals in `folder` durable."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make what is in the file `path`, which is no link, durable."""
    _sync(path, os.O_NOFOLLOW)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_durably(path: Path) -> None:
    """Remove `path`, if it is there, so that it does not come back after a power cut."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def private_folder(path: Path) -> Path:
    """`path` as a folder that only its owner can enter, made when it is missing. Raises `LocalError`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise cannot("use the folder", path, error) from error
    return path


def is_in_memory(folder: Path) -> bool:
    """Whether the file system of `folder` is one that is in memory; see proc_pid_mountinfo(5)."""
    try:
        device = folder.stat().st_dev
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()]
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(words[2] == number and words[words.index("-") + 1] in ("tmpfs", "ramfs") for words in mounts)


def check_owner(folder: Path) -> None:
    """Refuse to make files in `folder` that its owner could not use. Raises `LocalError`."""
    try:
        owner = folder.stat().st_uid
    except OSError as error:
        raise cannot("look at", folder, error) from error
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"number {owner}"
        raise LocalError(f"{folder} belongs to the user {name}", hint=f"run it as that one: runuser -u {name} -- ...")


def read_limited(path: Path, limit_bytes: int) -> bytes:
    """The bytes of `path`, refusing more than `limit_bytes`. Raises `Damaged` for that, else `LocalError`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise cannot("read", path, error) from error
    if len(data) > limit_bytes:
        raise Damaged(f"{path} is larger than {limit_bytes} bytes")
    return data


def cannot(do: str, path: Path, error: OSError) -> LocalError:
    """The `LocalError` for an operation on `path` that failed with `error`."""
    hints = {
        errno.ENOSPC: "free some space on that file system",
        errno.EDQUOT: "free some space or raise the quota",
        errno.EACCES: "run it as the user who owns that folder",
        errno.EPERM: "run it as the user who owns that folder",
        errno.ENOENT: "check the path",
        errno.EROFS: "the file system is mounted read-only",
    }
    return LocalError(f"cannot {do} {path}: {error.strerror}", hint=hints.get(error.errno or 0, ""))


class FolderLock:
    """The right to use a state folder, held by one process until it ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises `LocalError` naming the process that holds it."""
        path = self._folder / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise cannot("open", path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise LocalError(
                f"the state folder {self._folder} is in use by process {holder or '(unknown)'}",
                hint="stop that process first, or give this one a state folder of its own",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the folder up; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def files_missing(needed: int) -> int:
    """How many of `needed` open files are more than this process may have (RLIMIT_NOFILE)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, needed - limit)
