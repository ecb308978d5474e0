"""A node's state in one file, taken while the node runs.

It has the store in an SQLite file, as its own online backup gives it or as etcd had it at one revision, the domain of
trust, and the settings. The store is taken first: what it names is among the files read after it. Only the seal of its
secrets may have been replaced by then: it begins again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from avinet import __version__
from avinet.controller.archive import FORMAT, Manifest, is_path, measured, pack
from avinet.errors import LocalError
from avinet.files import cannot, private_folder, read_limited, sync_folder, work_folder, write_atomic
from avinet.store.resting import STORE, FilePlace
from avinet.trust.domain import NEXT, load
from avinet.trust.sealing import SECRETS_KEY

TRUST, SETTINGS = "trust", "controller.toml"
_TRIES = 5
_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Place:
    """Where a node lives: its state folder, and its settings, if they are to come along."""

    state: Path
    settings: Path | None = None


def back_up(place: Place, out: Path, now: float, copy_store: Callable[[Path], None] | None = None) -> Manifest:
    """Write a backup to `out`, whole or not at all. Raises `LocalError`.

    `copy_store` writes a copy of a store that is not in the state folder to a new SQLite file.
    """
    domain, trust = load(place.state / TRUST), place.state / TRUST
    for _ in range(_TRIES):
        with work_folder(out.parent, ".avinet-backup-") as work:
            seals = _seals(trust)
            try:
                sources = _gathered(place, work, copy_store)
            except LocalError:
                if _seals(trust) == seals:
                    raise
                continue
            if _seals(work / TRUST) != seals:
                continue
            files = {name: measured(path) for name, path in sources.items()}
            manifest = Manifest(
                format=FORMAT, version=__version__, domain=domain.id, node=domain.node, time=now, files=files
            )
            pack(sources, manifest, work / "backup")
            os.replace(work / "backup", out)
            sync_folder(out.parent)
            return manifest
    raise LocalError(
        f"{trust / SECRETS_KEY} was another one each time that the store was copied",
        hint="try again when avictl certificate reseal has ended",
    )


def _seals(trust: Path) -> dict[str, bytes]:
    """The key that seals secrets in the store, and the one that is to take its place while there is one.

    Those of a backup must be the same before and after its store is copied: else they may not open what is in it.
    """
    found = {}
    for name in (SECRETS_KEY, f"{SECRETS_KEY}{NEXT}"):
        try:
            found[name] = (trust / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise cannot("read", trust / name, error) from error
    return found


def _gathered(place: Place, work: Path, copy_store: Callable[[Path], None] | None) -> dict[str, Path]:
    """Copies of all that goes into a backup, below `work`, by path in the backup."""
    if copy_store is None:
        _copy_store(place.state / STORE, work / STORE)
    else:
        copy_store(work / STORE)
    sources, trust = {STORE: work / STORE}, place.state / TRUST
    for path in sorted(each for each in trust.rglob("*") if each.is_file() and not each.is_symlink()):
        name = f"{TRUST}/{path.relative_to(trust).as_posix()}"
        if is_path(name):  # what an editor has left there is none of ours
            sources[name] = _kept(path, work / name)
    if place.settings is not None:
        sources[SETTINGS] = _kept(place.settings, work / SETTINGS)
    return sources


def _copy_store(store: Path, to: Path) -> None:
    """Take the store as it is at one moment, whatever is written to it meanwhile."""
    FilePlace(store.parent).check_used()
    if not store.exists():
        raise LocalError(f"there is no store in {store.parent}", hint="a node has one once it was started")
    to.touch(mode=0o600)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)) as source,
            contextlib.closing(sqlite3.connect(to)) as target,
        ):
            source.backup(target)  # in one step: a store that is written to would have it begin again and again
            if target.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise LocalError(f"the store {store} is damaged: its copy is not whole")
    except sqlite3.Error as error:
        raise LocalError(f"cannot copy the store {store}: {error}") from error


def _kept(path: Path, to: Path) -> Path:
    """A copy of a small file, which may be replaced meanwhile."""
    private_folder(to.parent)
    write_atomic(to, read_limited(path, _FILE_BYTES))
    return to
