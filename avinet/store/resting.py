"""The file of a node's store while no process uses it: moved away, or arriving from another store.

A file that is not where a node looks for it says by its name why: `store.sqlite.moved-REVISION` has left for etcd,
`store.sqlite.arriving` is a part of what comes from there, and `store.sqlite.arrived` all of it. An empty one called
`store.sqlite.elsewhere` says that the state is in etcd.
"""

from __future__ import annotations

import os
from pathlib import Path

from avinet.errors import Conflict, LocalError
from avinet.files import cannot, remove_durably, sync_folder
from avinet.store.tables import Tables

STORE = "store.sqlite"


class FilePlace:
    """The store of the node whose state folder is `state`; who changes anything holds the lock of that folder."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self.path = state / STORE
        self.arriving = state / f"{STORE}.arriving"
        self.arrived = state / f"{STORE}.arrived"
        self._elsewhere = state / f"{STORE}.elsewhere"

    def check_used(self) -> None:
        """Refuse to make a new store where there was one. Raises `LocalError`."""
        if self.path.exists():
            return
        if self.arrived.exists() or self.arriving.exists():
            raise LocalError(
                f"a migration from etcd to {self.path} was cut off",
                hint='run avictl store migrate --to sqlite again, or go on with engine = "etcd"',
            )
        if moved := sorted(self._state.glob(f"{STORE}.moved-*")):
            raise LocalError(
                f"the state of this domain has moved to etcd: {moved[-1]} is what was here before",
                hint='set engine = "etcd" under [store]',
            )
        if self._elsewhere.exists():
            raise LocalError(
                "the state of this domain is in etcd, where the node has used it",
                hint='set engine = "etcd" under [store]; or avictl store migrate --to sqlite',
            )

    def is_elsewhere(self) -> bool:
        """Whether this node has used its state in etcd."""
        return self._elsewhere.exists()

    def use_elsewhere(self) -> None:
        """Remember that the state is in etcd, whose settings may be lost. Raises `LocalError`."""
        try:
            self._elsewhere.touch(mode=0o600)
        except OSError as error:
            raise cannot("write", self._elsewhere, error) from error

    def check_unused(self) -> None:
        """Refuse to use another store beside one in this file. Raises `LocalError`."""
        if self.path.exists():
            raise LocalError(
                f"the settings say that the state is in etcd, and {self.path} is there too",
                hint='avictl store migrate --to etcd moves it; or set engine = "sqlite", or put that file away',
            )

    # On its way out

    def open(self) -> Tables:
        """The tables, for as long as the store is read. Raises `LocalError`."""
        if not self.path.exists():
            self.check_used()
            raise LocalError(f"there is no store {self.path}", hint="a node makes it when it starts")
        return Tables(self.path)

    def leave(self, revision: int) -> Path:
        """Put the file away; who has opened it has closed it. Returns where it is now. Raises `LocalError`."""
        to = self._state / f"{STORE}.moved-{revision}"
        self._rename(self.path, to)
        return to

    # On its way in

    def check_free(self) -> None:
        """Raises `Conflict` where there is a store already."""
        if self.path.exists():
            raise Conflict(
                f"there is a store {self.path} already",
                hint=f"if that is to be lost, move it away: {STORE} and {STORE}-*",
            )

    def begin(self, revision: int) -> Tables:
        """A new file, whose revisions go on above `revision`. Raises `Conflict`, `LocalError`."""
        self.check_free()
        try:
            for each in (self.arriving, self.arrived):
                for left in self._state.glob(f"{each.name}*"):
                    left.unlink()
        except OSError as error:
            raise cannot("remove", self.arriving, error) from error
        tables = Tables(self.arriving)
        tables.hasten()
        with tables.committed():
            tables.go_on(revision)
        return tables

    def open_arrived(self) -> Tables:
        """The tables of a store that has arrived and is not used yet. Raises `LocalError`."""
        return Tables(self.arrived)

    def all_arrived(self) -> None:
        """All of it is in the file, which is closed. Raises `LocalError`."""
        try:
            with self.arriving.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot("write", self.arriving, error) from error
        self._rename(self.arriving, self.arrived)

    def use(self) -> None:
        """The other store is none any more: this one is."""
        self.check_free()
        self._rename(self.arrived, self.path)
        remove_durably(self._elsewhere)

    def _rename(self, path: Path, to: Path) -> None:
        for beside in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            if beside.exists():
                raise LocalError(f"{path} is open in another process: {beside.name} is there", hint="end that first")
        try:
            os.rename(path, to)
            sync_folder(self._state)
        except OSError as error:
            raise cannot("rename", path, error) from error
