"""The domain of trust as files: whole or not there, private, and never made twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Conflict, LocalError
from avinet.trust import keys
from avinet.trust.authority import renewal_due
from avinet.trust.domain import found, load

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Cut(BaseException):
    """The machine loses its power here."""


def tree(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


class DomainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.folder = self.state / "domain"

    def test_it_is_private(self) -> None:
        found(self.folder, "node-1", NOW)
        for each in self.folder.rglob("*"):
            self.assertEqual(each.stat().st_mode & 0o777, 0o700 if each.is_dir() else 0o600, each)
        self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)

    def test_it_is_loaded_as_it_was_made(self) -> None:
        made, loaded = found(self.folder, "node-1", NOW), load(self.folder)
        self.assertEqual((made.id, made.name, made.server_chain), (loaded.id, loaded.name, loaded.server_chain))
        self.assertEqual(
            keys.public_line(loaded.image_key(made.first_image.id)), keys.public_line(made.first_image.key)
        )

    def test_a_damaged_key_of_challenges_is_not_taken(self) -> None:
        found(self.folder, "node-1", NOW)
        for damaged in (b"", b"short", b"long" * 9):
            (self.folder / "nonce.key").write_bytes(damaged)
            self.assertRaises(LocalError, load, self.folder)

    def test_a_second_one_is_refused_and_changes_nothing(self) -> None:
        found(self.folder, "node-1", NOW)
        before = tree(self.state)
        self.assertRaises(Conflict, found, self.folder, "node-2", NOW)
        self.assertEqual(tree(self.state), before)

    def cut(self, name: str, at: int) -> Callable[..., Any]:
        """`os` function `name`, in whose `at`-th call the power is cut."""
        real, calls = getattr(os, name), 0

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Cut
            return real(*arguments, **named)

        return call

    def test_it_is_whole_or_not_there_wherever_the_power_is_cut(self) -> None:
        cuts = 0
        for name in ("rename", "fsync"):
            for at in range(1, 100):
                folder = self.state / f"{name}-{at}" / "domain"
                patch = self.patch(os, name, self.cut(name, at))
                try:
                    found(folder, "node-1", NOW)
                except Cut:
                    cuts += 1
                else:
                    break
                finally:
                    patch.restore()
                if folder.exists():
                    load(folder)
                else:
                    found(folder, "node-1", NOW)
        self.assertGreater(cuts, 20)

    def test_a_renewal_that_is_cut_off_leaves_the_old_certificate_or_the_new_one(self) -> None:
        made = found(self.folder, "node-1", NOW)
        self.assertIs(made.renewed(NOW + timedelta(hours=1)), made)
        due = NOW + timedelta(days=5)
        self.assertTrue(renewal_due(made.server.certificate, due))
        for name in ("rename", "fsync"):
            patch = self.patch(os, name, self.cut(name, 1))
            self.assertRaises(Cut, made.renewed, due)
            patch.restore()
            self.assertEqual(load(self.folder).server_chain, made.server_chain)
        renewed = made.renewed(due)
        self.assertNotEqual(renewed.server_chain, made.server_chain)
        self.assertEqual(load(self.folder).server_chain, renewed.server_chain)

    def test_what_cannot_be_loaded_is_said_in_a_line(self) -> None:
        self.assertIn("avictl init", str(self.assertRaises(LocalError, load, self.folder)))
        found(self.folder, "node-1", NOW)
        record = self.folder / "domain.json"
        text = record.read_bytes()
        for data in (b"", b"{}", b"\xff", text.replace(b'"format":2', b'"format":3'), text[:-1]):
            record.write_bytes(data)
            self.assertRaises(LocalError, load, self.folder)
        record.write_bytes(text)
        for path in tree(self.folder):
            # The first may be taken away, the second is a copy, and without the third a node says so and runs.
            if path not in ("root.key", "root.pem", "secrets.key"):
                data = (self.folder / path).read_bytes()
                (self.folder / path).unlink()
                self.assertIn(path, str(self.assertRaises(LocalError, load, self.folder)))
                (self.folder / path).write_bytes(data)
        (self.folder / "root.key").unlink()
        load(self.folder)
