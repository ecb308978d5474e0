"""An open file on a disk that takes half of what is written, and then nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.logs.spool.losses import LIMIT, Loss
from avinet.logs.spool.openfile import OpenFile

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(write: Callable[..., int]) -> Callable[..., int]:
    """A `write` that takes half of what it is given, and fails when it is asked for the rest."""
    full = False

    def writes(descriptor: int, data: Any, *at: int) -> int:
        nonlocal full
        if full:
            raise FULL
        full = True
        return write(descriptor, bytes(data)[: len(data) // 2], *at)

    return writes


class OpenFileTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.file = OpenFile(self.folder, 1)
        self.addCleanup(self.file.close)

    def again(self) -> OpenFile:
        """As the next process finds it."""
        found = OpenFile.recovered(self.folder, 1)
        self.addCleanup(found.close)
        return found

    def test_what_was_half_written_is_behind_no_line(self) -> None:
        self.file.append([b"one"])
        with mock.patch("os.pwrite", half(os.pwrite)), mock.patch("os.ftruncate", side_effect=FULL):
            self.assertRaises(OSError, self.file.append, [b"x" * 100, b"y" * 100])
        self.file.append([b"two"])
        self.assertEqual(self.file.path.read_bytes(), b"one\ntwo\n")
        self.assertEqual((self.file.lines, self.file.size), (2, 8))

    def test_it_is_not_sealed_with_what_was_half_written(self) -> None:
        self.file.append([b"one"])
        with mock.patch("os.pwrite", half(os.pwrite)), mock.patch("os.ftruncate", side_effect=FULL):
            self.assertRaises(OSError, self.file.append, [b"x\n" * 50])
            self.assertRaises(OSError, self.file.cut)
        self.file.cut()
        self.assertEqual(self.file.path.read_bytes(), b"one\n")

    def test_half_a_loss_is_none(self) -> None:
        losses = [Loss(at=n, records=n, reason="full", from_ms=1, to_ms=2) for n in range(3)]
        self.file.lose(losses[:1])
        with mock.patch("os.pwrite", half(os.pwrite)):
            self.assertRaises(OSError, self.file.lose, losses[1:])
        self.file.lose(losses[2:])
        self.assertEqual(self.again().losses, [losses[0], losses[2]])

    def test_losses_beside_it_are_bounded_and_counted(self) -> None:
        for number in range(LIMIT + 50):
            self.file.append([b"x"])
            self.file.lose([Loss(at=number, records=1, reason="dropped", from_ms=1, to_ms=2)])
        found = self.again()
        self.assertLessEqual(self.file.gaps_path.read_bytes().count(b"\n"), LIMIT)
        self.assertEqual(sum(each.records or 0 for each in found.losses), LIMIT + 50)

    def test_the_last_line_is_found_at_the_end_of_a_large_file(self) -> None:
        self.file.append([b"x" * 1000] * 1000)
        self.file.append([b"last"])
        self.assertEqual(self.again().last_line(), b"last")

    def test_half_a_last_line_is_cut_off(self) -> None:
        self.file.append([b"one"])
        with self.file.path.open("ab") as file:
            file.write(b"tw")
        found = self.again()
        self.assertEqual((found.lines, found.path.read_bytes()), (1, b"one\n"))
