"""The format of a node's state folder: a number, and the steps that bring an older folder to the newest one.

A step is taken whole: what it changes is copied to `before-format-N` first, and the number in `trust/domain.json`,
which is written last, says that it was taken. One that was cut off is taken again. With the copies there is a way back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from avinet.config.versions import CURRENT
from avinet.errors import Conflict, LocalError
from avinet.files import cannot, private_folder, read_limited, sync_folder, write_atomic
from avinet.store.resting import STORE, FilePlace
from avinet.store.tables import Tables
from avinet.trust.domain import format_of, with_format
from avinet.trust.sealing import SECRETS_KEY, load_seal, make_key
from avinet.wire.config import DocumentVersion, certificates_of

TRUST, RECORD = "trust", "trust/domain.json"
_FILE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Step:
    """Brings a folder to the format `to`; `what` says to people how.

    `changes` are the files below the folder that it changes, of at most 16 MiB; the number of the format needs no
    mention. `fits` raises `LocalError` where it cannot be taken, `fits_back` `Conflict` where there is no way back from
    it; `take` may be called again after it was cut off.
    """

    to: int
    what: str
    fits: Callable[[Path], None]
    take: Callable[[Path], None]
    changes: tuple[str, ...] = ()
    fits_back: Callable[[Path], None] = lambda state: None


def _secrets_fit(state: Path) -> None:
    if (path := state / TRUST / SECRETS_KEY).exists():  # it was cut off, or gone back from
        load_seal(path)


def _make_secrets(state: Path) -> None:
    if not (path := state / TRUST / SECRETS_KEY).exists():
        make_key(path)


def _without_tls(state: Path) -> None:
    """An older version cannot read a document that names certificates, and so none of them; and it knows no etcd."""
    if not (state / STORE).exists():
        _not_elsewhere(state)
        return
    tables = Tables(state / STORE)
    try:
        for entry in tables.entries(CURRENT, page=100):
            found = msgspec.json.decode(entry.value, type=DocumentVersion)
            if found.document is not None and certificates_of(found.document):
                raise Conflict(
                    f"document {found.name} names certificates, which an older version cannot read",
                    hint="start the node again, and delete it first: avictl config delete",
                )
    finally:
        tables.close()


def _not_elsewhere(state: Path) -> None:
    try:
        FilePlace(state).check_used()
    except LocalError as error:
        raise Conflict(
            f"{error.what}, and an older version knows no etcd",
            hint="bring it back first: avictl store migrate --to sqlite",
        ) from error


STEPS = (
    Step(
        to=2,
        what=f"a key that seals the private keys of virtual services: {TRUST}/{SECRETS_KEY}",
        fits=_secrets_fit,
        take=_make_secrets,
        fits_back=_without_tls,
    ),
)


def due(state: Path, steps: Sequence[Step] = STEPS) -> list[Step]:
    """The steps that the folder `state` needs, each of which fits. Raises `LocalError`, for a newer format too."""
    found, newest = format_of(state / TRUST), steps[-1].to
    if found > newest:
        raise LocalError(
            f"the state folder {state} has format {found}, and this version of avinet knows {newest}",
            hint="use the newer version that wrote it; avictl node upgrade --undo of that one is the way back",
        )
    wanted = [step for step in steps if step.to > found]
    for step in wanted:
        step.fits(state)
    return wanted


def upgrade(state: Path, steps: Sequence[Step] = STEPS) -> list[Step]:
    """Take the steps that are due; who calls this holds the lock of the folder. Raises `LocalError`.

    Whatever comes between, the folder is of one format or of the next.
    """
    taken = due(state, steps)
    for step in taken:
        _set_aside(state, step)
        try:
            step.take(state)
        except OSError as error:
            raise cannot(f"bring to format {step.to}", state, error) from error
        with_format(state / TRUST, step.to)
    return taken


def undo(state: Path, steps: Sequence[Step] = STEPS) -> int:
    """Go back by the last step; the format that the folder has then. Who calls this holds the lock of the folder.

    Raises `Conflict` when there is no way back from here.
    """
    found = format_of(state / TRUST)
    for step in steps:
        if step.to == found:
            step.fits_back(state)
    copies = _copies(state, found)
    if not copies.is_dir():
        raise Conflict(f"the state folder {state} was made with format {found}: there is none to go back to")
    paths = sorted(each for each in copies.rglob("*") if each.is_file())
    paths.sort(key=lambda path: path == copies / RECORD)  # with this one it has the other format
    for path in paths:
        write_atomic(state / path.relative_to(copies), read_limited(path, _FILE_BYTES))
    shutil.rmtree(copies)
    sync_folder(state)
    return format_of(state / TRUST)


def _copies(state: Path, to: int) -> Path:
    return state / f"before-format-{to}"


def _set_aside(state: Path, step: Step) -> None:
    """Copy what the step changes; copies that are there are of the same step, which was cut off."""
    copies = _copies(state, step.to)
    if copies.exists():
        return
    aside = state / f".{copies.name}.new"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        private_folder(aside)
        for name in (*step.changes, RECORD):
            private_folder((aside / name).parent)
            write_atomic(aside / name, read_limited(state / name, _FILE_BYTES))
        os.rename(aside, copies)
        sync_folder(state)
    except OSError as error:
        raise cannot("copy what changes to", copies, error) from error
