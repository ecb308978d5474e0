"""A state folder of an older format becomes one of the newest, step by step, and there is a way back."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.cli.main import avictl
from avinet.controller.upgrade import STEPS, Step, due, undo, upgrade
from avinet.errors import AvinetError, Conflict, LocalError
from avinet.files import FolderLock, private_folder
from avinet.store.interface import Put, Transaction
from avinet.store.tables import Tables
from avinet.trust.domain import FORMAT, format_of, found, load, with_format
from avinet.trust.sealing import load_seal
from avinet.wire.config import Document, DocumentVersion, Tls
from avinet.wire.message import encode
from tests.config.making import document, pool, service
from tests.trust.test_domain import Cut, tree


def older(state: Path) -> None:
    """Make a new state folder one as the first format had it."""
    found(state / "trust", "node-1", datetime.now(UTC))
    (state / "trust" / "secrets.key").unlink()
    with_format(state / "trust", 1)


class UpgradeTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.state = private_folder(Path(self.mktemp()).absolute())
        older(self.state)
        self.before = tree(self.state)

    def test_the_steps_are_numbered_without_a_gap_up_to_the_format_that_is_written(self) -> None:
        self.assertEqual([step.to for step in STEPS], list(range(2, FORMAT + 1)))

    def test_an_older_folder_has_a_seal_afterwards_and_is_otherwise_the_same(self) -> None:
        self.assertEqual([step.to for step in due(self.state)], [2])
        self.assertEqual(tree(self.state), self.before)
        self.assertEqual([step.to for step in upgrade(self.state)], [2])
        after = tree(self.state)
        self.assertEqual(set(after) - set(self.before), {"trust/secrets.key", "before-format-2/trust/domain.json"})
        self.assertEqual([name for name in self.before if after[name] != self.before[name]], ["trust/domain.json"])
        self.assertEqual((self.state / "before-format-2").stat().st_mode & 0o777, 0o700)
        self.assertEqual((format_of(self.state / "trust"), upgrade(self.state)), (2, []))
        load(self.state / "trust")
        load_seal(self.state / "trust" / "secrets.key")

    def test_a_new_folder_needs_nothing(self) -> None:
        found(self.state / "new" / "trust", "node-1", datetime.now(UTC))
        self.assertEqual(upgrade(self.state / "new"), [])
        load_seal(self.state / "new" / "trust" / "secrets.key")

    def test_a_newer_folder_is_left_as_it_is(self) -> None:
        with_format(self.state / "trust", FORMAT + 1)
        before = tree(self.state)
        for verb in (due, upgrade):
            error = self.assertRaises(LocalError, verb, self.state)
            self.assertIn("--undo", str(error))
        self.assertIn("newer version", str(self.assertRaises(LocalError, load, self.state / "trust")))
        self.assertEqual(tree(self.state), before)

    def test_a_folder_that_does_not_fit_is_left_as_it_is(self) -> None:
        (self.state / "trust" / "secrets.key").write_bytes(b"short")
        before = tree(self.state)
        self.assertIn("secrets.key", str(self.assertRaises(LocalError, upgrade, self.state)))
        self.assertEqual(tree(self.state), before)
        for record in (b"", b"{}", b'{"format":0}', b'{"format":"x"}'):
            (self.state / "trust" / "domain.json").write_bytes(record)
            self.assertRaises(LocalError, upgrade, self.state)

    def test_there_is_a_way_back_and_forth(self) -> None:
        upgrade(self.state)
        sealed = load_seal(self.state / "trust" / "secrets.key").seal(b"x", "y")
        self.assertEqual(undo(self.state), 1)
        after = tree(self.state)
        after.pop("trust/secrets.key")
        self.assertEqual(after, self.before)
        self.assertRaises(Conflict, undo, self.state)
        upgrade(self.state)
        self.assertEqual(load_seal(self.state / "trust" / "secrets.key").open(sealed, "y"), b"x")

    def test_there_is_no_way_back_for_a_document_that_an_older_version_cannot_read(self) -> None:
        upgrade(self.state)

        def write(document: Document | None) -> None:
            version = DocumentVersion(name="shop", version=1, author="ann", time=1.0, document=document)
            tables = Tables(self.state / "store.sqlite")
            with tables.committed():
                tables.transact(Transaction((), (Put(b"config/doc/shop", encode(version)),)))
            tables.close()

        tls = Tls(certificates=["shop"])
        write(document("shop", pool("shop", "a"), service("shop", 443, "shop", tls=tls)))
        error = self.assertRaises(Conflict, undo, self.state)
        self.assertIn("document shop names certificates", str(error))
        self.assertEqual(format_of(self.state / "trust"), 2)
        for without in (document("shop", pool("shop", "a"), service("shop", 443, "shop")), None):
            write(without)
            self.assertEqual(undo(self.state), 1)
            upgrade(self.state)

    def test_there_is_no_way_back_while_the_state_is_in_etcd(self) -> None:
        upgrade(self.state)
        for mark in ("store.sqlite.elsewhere", "store.sqlite.moved-7", "store.sqlite.arriving"):
            (self.state / mark).touch()
            before = tree(self.state)
            error = self.assertRaises(Conflict, undo, self.state)
            self.assertIn("an older version knows no etcd; bring it back first", str(error))
            self.assertNotIn("\n", str(error))
            self.assertEqual(tree(self.state), before)
            (self.state / mark).unlink()
        self.assertEqual(undo(self.state), 1)

    def test_one_that_was_made_so_has_none_to_go_back_to(self) -> None:
        found(self.state / "new" / "trust", "node-1", datetime.now(UTC))
        self.assertRaises(Conflict, undo, self.state / "new")

    def cuts(self, run: Any, check: Any) -> int:
        """Run with the power cut in each rename and sync; `check` what is left, and run to the end."""
        count = 0
        for name in ("rename", "fsync"):
            for at in range(1, 50):
                state = private_folder(self.state / f"{name}-{at}")
                older(state)
                if run is undo:
                    upgrade(state)
                real, calls = getattr(os, name), 0

                def call(*arguments: Any, real: Any = real, at: int = at) -> Any:
                    nonlocal calls
                    calls += 1
                    if calls == at:
                        raise Cut
                    return real(*arguments)

                patch = self.patch(os, name, call)
                try:
                    run(state)
                except Cut:
                    count += 1
                else:
                    break
                finally:
                    patch.restore()
                check(state)
        return count

    def test_the_power_may_be_cut_anywhere_on_the_way(self) -> None:
        def whole(state: Path) -> None:
            load(state / "trust")
            if format_of(state / "trust") == 2:
                load_seal(state / "trust" / "secrets.key")
            upgrade(state)
            self.assertEqual(undo(state), 1)
            upgrade(state)

        self.assertGreater(self.cuts(upgrade, whole), 6)

    def test_the_power_may_be_cut_anywhere_on_the_way_back(self) -> None:
        def whole(state: Path) -> None:
            load(state / "trust")
            if format_of(state / "trust") == 2:
                undo(state)
            upgrade(state)
            load_seal(state / "trust" / "secrets.key")

        self.assertGreater(self.cuts(undo, whole), 1)

    def test_several_steps_are_taken_one_after_the_other_and_back(self) -> None:
        path = self.state / "list"
        path.write_text("1")

        def take(state: Path) -> None:
            (state / "list").write_text((state / "list").read_text() + "3")

        steps = (*STEPS, Step(to=3, what="a list", fits=lambda state: None, take=take, changes=("list",)))
        self.assertEqual([step.to for step in upgrade(self.state, steps)], [2, 3])
        self.assertEqual((path.read_text(), format_of(self.state / "trust")), ("13", 3))
        self.assertEqual((undo(self.state, steps), path.read_text()), (2, "1"))
        self.assertEqual((undo(self.state), path.read_text()), (1, "1"))

    def test_what_cannot_be_written_is_one_line_and_leaves_the_older_one(self) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch = self.patch(os, "rename", full)
        error = self.assertRaises(AvinetError, upgrade, self.state)
        patch.restore()
        self.assertIn("No space left", str(error))
        self.assertEqual(tree(self.state), self.before)


class VerbTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.state = private_folder(Path(self.mktemp()).absolute())
        older(self.state)

    def said(self, *words: str) -> str:
        outcome = CliRunner().invoke(avictl, ["node", "upgrade", "--state", str(self.state), *words])
        if outcome.exception is not None:
            raise outcome.exception
        return outcome.output

    def test_it_says_what_it_would_do_and_does_it_and_goes_back(self) -> None:
        before = tree(self.state)
        self.assertIn("to format 2: a key that seals", self.said("--dry-run"))
        self.assertEqual(tree(self.state), before)
        self.assertIn("format 2", self.said())
        self.assertIn("nothing needs to be changed", self.said())
        self.assertIn("nothing needs to be changed", self.said("--dry-run"))
        self.assertIn("format 1 again", self.said("--undo"))

    def test_nothing_is_changed_under_a_node_that_runs(self) -> None:
        lock = FolderLock(self.state)
        lock.acquire()
        self.addCleanup(lock.release)
        self.assertRaises(LocalError, self.said)
        self.assertRaises(LocalError, self.said, "--undo")
        self.said("--dry-run")
        self.assertEqual(format_of(self.state / "trust"), 1)

    def test_where_there_is_no_domain_there_is_no_format(self) -> None:
        self.state = Path(self.mktemp()).absolute()
        self.assertRaises(LocalError, self.said)
        self.assertFalse(self.state.exists())
