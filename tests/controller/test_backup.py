"""A backup is whole or is not there; what comes back goes on above everything that was seen before."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.controller.archive import MANIFEST
from avinet.controller.backup import Place, back_up
from avinet.controller.certificates.records import CertificateRecord, about, certificate_key
from avinet.controller.epochs import SEEN
from avinet.controller.restore import AHEAD, restore
from avinet.controller.standing import SINCE, TRUST, sign_trust
from avinet.enrolment.records import EngineRecord, engine_key, put_record, ratchet_key
from avinet.errors import AvinetError, Conflict, Invalid, LocalError
from avinet.files import private_folder, read_limited, work_folder
from avinet.store.interface import Put, Transaction
from avinet.store.tables import Tables
from avinet.trust import keys
from avinet.trust.document import verify_document
from avinet.trust.domain import found, load
from avinet.trust.sealing import load_seal, make_key
from avinet.trust.succession import check_successor, found_root, keep_successor, read_root
from avinet.wire.message import encode
from avinet.wire.trust import Node, SignedTrust, TrustDocument
from tests.controller.certificates.making import ISSUER

NOW = 1.8e9


class BackupTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.folder = private_folder(Path(self.mktemp()).absolute())
        self.state = private_folder(self.folder / "state")
        found(self.state / "trust", "node-1", datetime.now(UTC))
        (self.folder / "controller.toml").write_text('node = "node-1"\n')
        self.place = Place(self.state, self.folder / "controller.toml")
        tables = Tables(self.state / "store.sqlite")
        record = EngineRecord(id="se-1", state="enrolled", generation=1, created=1.0)
        with tables.committed():
            tables.transact(Transaction((), (put_record(engine_key("se-1"), record),)))
            tables.transact(Transaction((), (Put(ratchet_key("se-1"), b"{}"), Put(b"config/desired/se-1", b"{}"))))
        self.revision = tables.revision
        tables.close()
        self.file = self.folder / "backup.tar.gz"
        self.there = Place(self.folder / "other", self.folder / "other.toml")

    def entries(self, state: Path, prefix: bytes = b"") -> dict[bytes, bytes]:
        tables = Tables(state / "store.sqlite")
        try:
            return {entry.key: entry.value for entry in tables.range(prefix, 1000, b"").entries}
        finally:
            tables.close()

    def test_what_comes_back_is_what_there_was(self) -> None:
        made = back_up(self.place, self.file, NOW)
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.assertEqual(restore(self.file, self.there, "ann", NOW + 5), made)
        before, after = load(self.state / "trust"), load(self.there.state / "trust")
        self.assertEqual((before.id, before.node, before.nonce_key), (after.id, after.node, after.nonce_key))
        for path in (self.state / "trust").rglob("*"):
            if path.is_file():
                again = self.there.state / "trust" / path.relative_to(self.state / "trust")
                self.assertEqual((again.read_bytes(), again.stat().st_mode & 0o777), (path.read_bytes(), 0o600))
        self.assertIn(engine_key("se-1"), self.entries(self.there.state))
        self.assertEqual(sorted(path.name for path in self.folder.iterdir() if path.name.startswith(".")), [])

    def test_its_revisions_go_on_above_all_that_were_seen(self) -> None:
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        tables = Tables(self.there.state / "store.sqlite")
        self.addCleanup(tables.close)
        self.assertGreater(tables.revision, self.revision + AHEAD)

    def test_the_same_backup_goes_on_above_what_it_did_the_last_time(self) -> None:
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        tables = Tables(self.there.state / "store.sqlite")
        with tables.committed():
            for number in range(1000):
                tables.transact(Transaction((), (Put(b"x", b"%d" % number),)))
        before = tables.revision
        tables.close()
        again = Place(self.folder / "again")
        restore(self.file, again, "ann", NOW + 60)
        tables = Tables(again.state / "store.sqlite")
        self.addCleanup(tables.close)
        self.assertGreater(tables.revision, before)
        self.assertLess(tables.revision, 10**18)

    def test_its_trust_document_is_above_all_that_were_seen_and_signed(self) -> None:
        domain = load(self.state / "trust")
        node = Node(
            id="node-1",
            name=domain.name,
            https=["127.0.0.1:8443"],
            ssh=["127.0.0.1:22"],
            ssh_host_keys=[keys.public_line(domain.ssh_host_key)],
            avictlruser_keys=[keys.public_line(domain.avictlruser_key)],
        )
        document = TrustDocument(epoch=3, domain=domain.id, roots=[domain.root_pem], nodes=[node])
        tables = Tables(self.state / "store.sqlite")
        with tables.committed():
            tables.transact(Transaction((), (Put(TRUST, encode(sign_trust(document, domain.issuing))),)))
        tables.close()
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        signed = msgspec.json.decode(self.entries(self.there.state)[TRUST], type=SignedTrust)
        text, issuer = signed.document.encode(), signed.issuer.encode()
        verify_document(text, signed.signature, issuer, [domain.root], datetime.now(UTC))
        after = msgspec.json.decode(text, type=TrustDocument)
        self.assertGreater(after.epoch, AHEAD)
        self.assertEqual(msgspec.structs.replace(after, epoch=3), document)

    def sealed(self, name: str) -> tuple[CertificateRecord, str]:
        """A certificate, put into the store sealed with the key in the file `name`; and its private key."""
        seal, served = load_seal(self.state / "trust" / name), ISSUER.serve("shop.example.com")
        record = CertificateRecord(
            version=3,
            author="ann",
            time=NOW,
            chain=served.chain_pem,
            sha256="ab" * 32,
            sealed="",
            sealed_by=seal.id,
        )
        sealed = seal.seal(served.key_pem.encode(), about("shop", record))
        record = msgspec.structs.replace(record, sealed=sealed)
        tables = Tables(self.state / "store.sqlite")
        with tables.committed():
            tables.transact(Transaction((), (put_record(certificate_key("shop"), record),)))
        tables.close()
        return record, served.key_pem

    def test_certificates_are_delivered_anew_and_can_be_opened(self) -> None:
        record, key = self.sealed("secrets.key")
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        tables = Tables(self.there.state / "store.sqlite")
        self.addCleanup(tables.close)
        entry = tables.read([certificate_key("shop")]).entries[certificate_key("shop")]
        self.assertGreater(entry.revision, AHEAD)
        self.assertEqual(msgspec.json.decode(entry.value, type=CertificateRecord), record)
        again = load_seal(self.there.state / "trust" / "secrets.key")
        self.assertEqual(again.open(record.sealed, about("shop", record)).decode(), key)

    def all_open(self) -> None:
        """What is in the backup is sealed with a key that is in it."""
        restore(self.file, self.there, "ann", NOW)
        value = self.entries(self.there.state, certificate_key("shop"))[certificate_key("shop")]
        record = msgspec.json.decode(value, type=CertificateRecord)
        seals = {each.id: each for each in map(load_seal, (self.there.state / "trust").glob("secrets.key*"))}
        self.assertIn(b"PRIVATE KEY", seals[record.sealed_by].open(record.sealed, about("shop", record)))

    def copied_before(self, *steps: Callable[[], object]) -> Callable[[Path], None]:
        """Copies the store, and does one of `steps` behind it, each time the next one."""
        left = list(steps)

        def copy(to: Path) -> None:
            shutil.copy(self.state / "store.sqlite", to)
            if left:
                left.pop(0)()

        return copy

    def test_the_seal_may_be_replaced_meanwhile(self) -> None:
        trust = self.state / "trust"
        self.sealed("secrets.key")
        steps = (
            lambda: make_key(trust / "secrets.key.next"),
            lambda: self.sealed("secrets.key.next"),
            lambda: os.rename(trust / "secrets.key.next", trust / "secrets.key"),
        )
        for count in range(1, 4):
            # One step at each copy; and all of them, as far as they go, behind the first one.
            for copy in (self.copied_before(*steps[:count]), self.copied_before(partial(taken, steps[:count]))):
                (trust / "secrets.key.next").unlink(missing_ok=True)
                self.sealed("secrets.key")
                back_up(self.place, self.file, NOW, copy)
                self.all_open()
                shutil.rmtree(self.there.state)

    def test_the_seal_may_be_replaced_while_it_is_read(self) -> None:
        following = self.state / "trust" / "secrets.key.next"
        make_key(following)
        self.sealed(following.name)

        def read(path: Path, limit_bytes: int) -> bytes:
            data = read_limited(path, limit_bytes)
            if path == self.state / "trust" / "secrets.key" and following.exists():
                os.rename(following, path)
            return data

        with mock.patch("avinet.controller.backup.read_limited", read):
            back_up(self.place, self.file, NOW)
        self.all_open()

    def test_a_seal_that_is_replaced_again_and_again_is_no_backup(self) -> None:
        steps = [lambda: make_key(self.state / "trust" / "secrets.key")] * 100
        error = self.assertRaises(LocalError, back_up, self.place, self.file, NOW, self.copied_before(*steps))
        self.assertIn("secrets.key was another one each time", str(error))
        self.assertFalse(self.file.exists())
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name.startswith(".")], [])

    def test_claims_that_were_open_are_closed(self) -> None:
        tables = Tables(self.state / "store.sqlite")
        for number, changes in enumerate(({"claim_sha256": "a" * 64, "claim_expires": 4e9}, {"approved": "SHA256:x"})):
            record: Any = EngineRecord(id=f"open-{number}", state="expected", generation=1, created=1.0)
            with tables.committed():
                tables.transact(
                    Transaction((), (put_record(engine_key(record.id), msgspec.structs.replace(record, **changes)),))
                )
        tables.close()
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        for value in self.entries(self.there.state, b"engine/open").values():
            found = msgspec.json.decode(value, type=EngineRecord)
            self.assertEqual((found.claim_sha256, found.claim_expires, found.approved), ("", 0.0, ""))

    def test_what_is_left_of_another_store_is_never_mixed_with_it(self) -> None:
        back_up(self.place, self.file, NOW)
        private_folder(self.there.state)
        (self.there.state / "store.sqlite-wal").write_bytes(b"old frames")
        with self.assertRaises(Conflict) as caught:
            restore(self.file, self.there, "ann", NOW)
        self.assertIn("without its domain of trust", str(caught.exception))
        self.assertTrue((self.there.state / "store.sqlite-wal").exists())

    def test_a_restore_that_was_cut_off_is_done_again(self) -> None:
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        shutil.rmtree(self.there.state / "trust")
        (self.there.state / "restore-begun").touch()
        (self.there.state / "store.sqlite-wal").write_bytes(b"old frames")
        restore(self.file, self.there, "ann", NOW)
        self.assertIn(engine_key("se-1"), self.entries(self.there.state))
        self.assertFalse((self.there.state / "restore-begun").exists())

    def killed(self, code: str) -> None:
        """Run `code` in a process of its own, which is killed when it says that it is ready."""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), b"ready\n")
        process.kill()
        process.communicate()

    def test_what_a_backup_that_was_killed_has_left_goes_with_the_next(self) -> None:
        self.killed(
            "import time\n"
            "from pathlib import Path\n"
            "from avinet.controller import backup\n"
            "backup.pack = lambda *_: (print('ready', flush=True), time.sleep(600))\n"
            f"backup.back_up(backup.Place(Path({str(self.state)!r})), Path({str(self.file)!r}), 1.0)\n"
        )
        [left] = self.folder.glob(".avinet-backup-*")
        self.assertTrue((left / "store.sqlite").exists(), "it is a whole copy with all the secrets")
        with work_folder(self.folder, ".avinet-backup-") as another:
            self.assertFalse(left.exists())
            back_up(self.place, self.file, NOW)
            self.assertTrue(another.exists(), "somebody is at work there")
        self.assertEqual(list(self.folder.glob(".*")), [])

    def test_what_a_restore_that_was_killed_has_left_goes_with_the_next(self) -> None:
        back_up(self.place, self.file, NOW)
        state = str(self.there.state)
        self.killed(
            "import os, time\n"
            "from pathlib import Path\n"
            "from avinet.controller import backup, restore\n"
            "restore._go_on = lambda *_: (print('ready', flush=True), time.sleep(600))\n"
            f"restore.restore(Path({str(self.file)!r}), backup.Place(Path({state!r})), 'ann', 1.0)\n"
        )
        self.assertEqual(len(list(self.there.state.glob(".restore-*"))), 1)
        (self.there.state / ".receipt.json.4711.new").write_bytes(b"half")
        restore(self.file, self.there, "ann", NOW)
        self.assertEqual(sorted(each.name for each in self.there.state.iterdir()), ["lock", "store.sqlite", "trust"])

    def test_a_full_disk_is_not_taken_for_a_bad_backup(self) -> None:
        back_up(self.place, self.file, NOW)
        real = os.fsync

        def full(descriptor: int) -> None:
            if "trust" in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(28, "No space left on device")
            real(descriptor)

        with mock.patch("os.fsync", full), self.assertRaises(LocalError) as caught:
            restore(self.file, self.there, "ann", NOW)
        self.assertIn("No space left", str(caught.exception))
        self.assertEqual([each.name for each in self.there.state.iterdir()], ["lock"])

    def test_what_is_none_of_ours_is_left_out(self) -> None:
        (self.state / "trust" / "node.pem~").write_text("an editor's")
        (self.state / "trust" / "a name").write_text("somebody's")
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        self.assertFalse((self.there.state / "trust" / "node.pem~").exists())

    def test_what_would_keep_service_engines_out_is_forgotten_and_that_is_recorded(self) -> None:
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        entries = self.entries(self.there.state)
        self.assertEqual([key for key in entries if key.startswith((b"ratchet/", b"config/desired/"))], [])
        [audit] = [msgspec.json.decode(value) for key, value in entries.items() if key.startswith(b"audit/")]
        self.assertEqual((audit["kind"], audit["source"], audit["notice"]), ("restore", "ann", True))

    def test_a_root_that_waited_waits_again_and_the_fleet_is_counted_anew(self) -> None:
        """Before or after the backup they may have heard of more: what they say when they come back is what counts."""
        trust = self.state / "trust"
        domain, now = load(trust), datetime.now(UTC)
        made = found_root(read_root(trust / "root.pem", trust / "root.key"), self.folder / "next", now)
        keep_successor(domain, check_successor(domain, made, now))
        tables = Tables(self.state / "store.sqlite")
        with tables.committed():
            tables.transact(Transaction((), (Put(SEEN + b"se-1", b"7"), Put(SINCE, b'{"epochs":{}}'))))
        tables.close()
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        again = load(self.there.state / "trust")
        assert again.next_issuing is not None
        self.assertEqual(again.next_issuing.root, made.root)
        entries = self.entries(self.there.state)
        self.assertEqual([key for key in entries if key.startswith((SEEN, SINCE))], [])

    def test_nothing_is_overwritten(self) -> None:
        back_up(self.place, self.file, NOW)
        before = self.entries(self.state)
        self.assertRaises(Conflict, restore, self.file, self.place, "ann", NOW)
        self.assertEqual(self.entries(self.state), before)

    def test_it_is_taken_while_the_store_is_written_to(self) -> None:
        tables, end = Tables(self.state / "store.sqlite"), threading.Event()
        self.addCleanup(tables.close)

        def write() -> None:
            number = 0
            while not end.is_set():
                number += 1
                pair = (Put(b"a", b"%d" % number), Put(b"b", b"%d" % number), Put(b"c/%d" % number, bytes(5000)))
                with tables.committed():
                    tables.transact(Transaction((), pair))

        writing = threading.Thread(target=write)
        writing.start()
        try:
            for _ in range(5):
                back_up(self.place, self.file, NOW)
        finally:
            end.set()
            writing.join()
        restore(self.file, self.there, "ann", NOW)
        entries = self.entries(self.there.state, b"")
        self.assertEqual(entries.get(b"a"), entries.get(b"b"))

    def test_the_one_before_stays_when_another_cannot_be_made(self) -> None:
        back_up(self.place, self.file, NOW)
        before = self.file.read_bytes()
        (self.state / "store.sqlite").unlink()
        self.assertRaises(LocalError, back_up, self.place, self.file, NOW)
        self.assertEqual(self.file.read_bytes(), before)
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name.startswith(".")], [])

    def rewritten(self, change: Any) -> Path:
        """The backup with its members changed: `change` takes and returns a list of names and contents."""
        with tarfile.open(self.file) as archive:
            members = [(each.name, archive.extractfile(each).read()) for each in archive]  # type: ignore[union-attr]
        path = self.folder / "changed.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, data in change(members):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path

    def test_what_is_no_whole_backup_is_refused_and_leaves_nothing(self) -> None:
        back_up(self.place, self.file, NOW)
        data = self.file.read_bytes()

        def flipped(members: Any) -> Any:
            return [(name, data[:-1] + bytes([data[-1] ^ 1]) if "key" in name else data) for name, data in members]

        def manifest(**changes: Any) -> Any:
            def change(members: Any) -> Any:
                first = msgspec.json.encode(msgspec.json.decode(members[0][1]) | changes)
                return [(MANIFEST, first), *members[1:]]

            return change

        for what, path in {
            "cut": self.written(data[: len(data) // 2]),
            "nothing": self.written(b""),
            "something else": self.written(b"PK" + data),
            "a member less": self.rewritten(lambda members: members[:-1]),
            "a member more": self.rewritten(lambda members: [*members, ("../../escape", b"x")]),
            "no manifest": self.rewritten(lambda members: members[1:]),
            "changed bytes": self.rewritten(flipped),
            "a newer format": self.rewritten(manifest(format=2)),
            "another node": self.rewritten(manifest(node="node-2")),
        }.items():
            copy = path.read_bytes()
            self.written(copy)
            with self.assertRaises(Invalid, msg=what) as caught:
                restore(self.folder / "written.tar.gz", self.there, "ann", NOW)
            self.assertNotIn("\n", str(caught.exception), what)
            left = [each.name for each in self.there.state.iterdir()]
            self.assertEqual(left, ["lock"], what)
        self.assertFalse((self.folder.parent / "escape").exists())

    def written(self, data: bytes) -> Path:
        path = self.folder / "written.tar.gz"
        path.write_bytes(data)
        again = self.folder / f"{len(data)}.tar.gz"
        again.write_bytes(data)
        return again

    def test_a_store_that_is_damaged_is_said_to_be(self) -> None:
        with open(self.state / "store.sqlite", "r+b") as file:
            file.seek(4096)
            file.write(os.urandom(8192))
        self.assertRaises(AvinetError, back_up, self.place, self.file, NOW)
        self.assertFalse(self.file.exists())

    def test_it_does_not_matter_what_sqlite_left_beside_the_store(self) -> None:
        connection = sqlite3.connect(self.state / "store.sqlite")
        self.addCleanup(connection.close)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM entries").fetchone()
        back_up(self.place, self.file, NOW)
        restore(self.file, self.there, "ann", NOW)
        self.assertIn(engine_key("se-1"), self.entries(self.there.state))


def taken(steps: Iterable[Callable[[], object]]) -> None:
    for step in steps:
        step()
