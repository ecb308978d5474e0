"""The seal of private keys in the store, and the one that is to take its place: files that outlive any interruption."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from twisted.internet.defer import DeferredLock

from avinet.files import cannot, sync_folder
from avinet.trust.domain import NEXT
from avinet.trust.sealing import Seal, load_or_make_seal, load_seal

T = TypeVar("T")


class InThread(Protocol):
    """Runs what takes long, away from the reactor."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        """What `work` returns."""


class Seals:
    """The seal whose key is at `path`, made anew when it was lost, and its successor beside it while there is one.

    Who has its `turn` seals something and writes it: nothing is written with a seal that is forgotten meanwhile.
    What it does with files takes the time of a disk, and raises `LocalError`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_path = path.with_name(f"{path.name}{NEXT}")
        self.turn = DeferredLock()
        self.lost = not path.exists()
        self._seal = load_or_make_seal(path)
        self._next = load_seal(self._next_path) if self._next_path.exists() else None

    @property
    def current(self) -> Seal:
        """What secrets are sealed with from now on."""
        return self._next or self._seal

    @property
    def succeeding(self) -> bool:
        """Whether one seal is taking the place of another."""
        return self._next is not None

    def of(self, id: str) -> Seal | None:
        """The seal of this id; None for one that is lost."""
        return next((each for each in (self._seal, self._next) if each is not None and each.id == id), None)

    def succeed(self) -> None:
        """Make a seal that is to take the place of this one."""
        if self._next is None:
            self._next = load_or_make_seal(self._next_path)

    def finish(self) -> None:
        """Forget the seal before: nothing that it has sealed is needed any more."""
        if self._next is None:
            return
        try:
            os.rename(self._next_path, self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise cannot("replace", self._path, error) from error
        self._seal, self._next = self._next, None
