"""What is wrong with a store is found, each with what to do: in a file, and in what was seen of etcd."""

from __future__ import annotations

import shutil
import sqlite3
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import msgspec
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import LocalError
from avinet.files import private_folder
from avinet.store.etcd.health import BEHIND, ClusterHealth, MemberHealth, faults_of
from avinet.store.etcd.members import MEMBER_LIFE, found_members
from avinet.store.etcd.messages import Member
from avinet.store.health import SPARE_BYTES, FileHealth, check_file
from avinet.store.interface import Put, Transaction
from avinet.store.tables import Tables

NOW = datetime(2027, 1, 1, tzinfo=UTC)


class FileTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.path = private_folder(Path(self.mktemp()).absolute()) / "store.sqlite"
        self.tables = Tables(self.path)
        self.addCleanup(self.tables.close)
        for at in range(300):
            with self.tables.committed():
                self.tables.transact(Transaction((), (Put(b"%03d" % at, b"x" * 500),)))

    def fault(self, said: str, hint: str) -> FileHealth:
        health = check_file(self.path)
        [fault] = health.faults
        self.assertIn(said, fault.what)
        self.assertIn(hint, fault.hint)
        return health

    def test_one_that_is_well_also_while_it_is_written_to(self) -> None:
        with self.tables.committed():
            self.tables.transact(Transaction((), (Put(b"not yet", b""),)))
            health = check_file(self.path)
        self.assertEqual((health.revision, health.keys, health.faults), (300, 300, []))
        self.assertGreater(health.size, 300 * 500)
        self.assertGreater(health.free, 0)

    def test_one_that_is_damaged(self) -> None:
        self.tables.close()
        damaged = bytearray(self.path.read_bytes())
        damaged[4096 * 5 : 4096 * 5 + 4096] = b"\xff" * 4096
        self.path.write_bytes(damaged)
        self.fault("is damaged: ", "avictl restore")
        self.path.write_bytes(b"no database at all" * 1000)
        self.fault("is damaged: ", "avictl restore")

    def test_one_that_is_not_there_or_another_programs(self) -> None:
        self.tables.close()
        for left in self.path.parent.glob("store.sqlite*"):
            left.unlink()
        self.fault("there is no store", "when it starts")
        self.assertFalse(self.path.exists(), "looking makes none")
        moved = self.path.with_name("store.sqlite.moved-7")
        moved.touch()
        self.fault("the state of this domain has moved to etcd", 'engine = "etcd"')
        moved.unlink()
        other = sqlite3.connect(self.path)
        other.execute("CREATE TABLE other (x)")
        other.close()
        self.fault("is no store of avinet's", "a state folder of its own")

    def test_one_of_a_newer_version(self) -> None:
        self.tables.close()
        newer = sqlite3.connect(self.path)
        newer.execute("PRAGMA user_version = 99")
        newer.close()
        self.fault("has format 99", "newer version")

    def test_a_disk_that_is_nearly_full(self) -> None:
        usage = namedtuple("usage", "total used free")
        with mock.patch.object(shutil, "disk_usage", return_value=usage(1 << 40, 0, SPARE_BYTES - 1)):
            self.fault("256.0 MiB should be", "free some space")

    def test_one_that_may_not_be_read_is_an_error(self) -> None:
        with mock.patch.object(sqlite3, "connect", side_effect=sqlite3.OperationalError("unable to open it")):
            self.assertIn("as the user who owns", str(self.assertRaises(LocalError, check_file, self.path)))


def member(number: int, **other: object) -> MemberHealth:
    seen = MemberHealth(
        endpoint=f"https://10.0.0.{number}:2379",
        id=f"{number}",
        name=f"etcd-{number}",
        version="3.4.23",
        leader=number == 1,
        read_ms=1.0,
        write_ms=3.0,
        size=100,
        in_use=50,
        quota=1000,
        revision=5000,
    )
    return msgspec.structs.replace(seen, **other)


class ClusterFaultTests(SynchronousTestCase):
    def faults(self, *seen: MemberHealth, unseen: tuple[Member, ...] = (), **other: object) -> list[str]:
        names = ["etcd-1", "etcd-2", "etcd-3"]
        answering = sum(each.write_ms is not None for each in seen)
        health = ClusterHealth(members=names, answering=answering, quorum=2, endpoints=list(seen))
        health = msgspec.structs.replace(health, **other)
        return [f"{each.what}; {each.hint}" for each in faults_of(health, unseen, [], 0.0, attempt_s=1.0)]

    def fault(self, said: str, *seen: MemberHealth, **other: object) -> None:
        [fault] = self.faults(*seen, **other)  # type: ignore[arg-type]
        self.assertIn(said, fault)

    def test_nothing(self) -> None:
        self.assertEqual(self.faults(member(1), member(2), member(3)), [])

    def test_each_in_a_line_with_what_to_do(self) -> None:
        self.fault("needs 3.4 or newer", member(1), member(2), member(3, version="3.3.27"))
        self.assertEqual(self.faults(member(1), member(2), member(3, version="3.10.1")), [])
        self.fault("takes 501 ms to agree", member(1), member(2), member(3, write_ms=501.0))
        self.fault("has 801 B of 1000 B; 50 B of it are in use", member(1), member(2), member(3, size=801))
        self.assertEqual(self.faults(member(1), member(2), member(3, size=801, quota=0)), [], "not known")
        self.fault("is 1001 revisions behind", member(1), member(2), member(3, revision=5000 - BEHIND - 1))
        self.fault("etcd-2: NOSPACE; make room", member(1), member(2), member(3), alarms=["etcd-2: NOSPACE"])
        self.fault("replace that member", member(1), member(2), member(3), alarms=["etcd-2: CORRUPT"])

    def test_a_member_that_does_not_answer_and_one_that_is_not_asked(self) -> None:
        dead = MemberHealth(endpoint="https://10.0.0.3:2379", why="Connection refused")
        self.fault("10.0.0.3:2379: Connection refused; see the log of etcd there", member(1), member(2), dead)
        unseen = Member(ID=3, name="etcd-3", client_urls=["https://10.0.0.3:2379"])
        self.fault("is https://10.0.0.3:2379 among store.endpoints", member(1), member(2), unseen=(unseen,))

    def test_less_than_the_quorum(self) -> None:
        alone = member(1, leader=False, read_ms=None, write_ms=None, why="it knows no leader")
        said = "\n".join(self.faults(alone))
        self.assertIn("10.0.0.1:2379: it knows no leader", said)
        self.assertIn("0 of 3 members take part, and 2 have to: nothing can be changed; start the others", said)
        self.assertIn("no member of etcd answers", "\n".join(self.faults(members=[])))

    def test_one_member_of_three_that_the_settings_name_has_the_quorum_behind_it(self) -> None:
        """That the three agree on a change is seen by it: it takes two of them."""
        unseen = tuple(Member(ID=each, name=f"etcd-{each}") for each in (2, 3))
        said = self.faults(member(1), unseen=unseen)
        self.assertEqual([each.partition(" gave")[0] for each in said], ["member etcd-2", "member etcd-3"])


class CertificateFaultTests(SynchronousTestCase):
    def test_what_expires_soon_and_what_has(self) -> None:
        made = found_members(Path(self.mktemp()).absolute(), {"etcd-1": ["10.0.0.1"]}, NOW)
        shown = [("the certificate of etcd-1", made[-1].certificate)]

        def said(at: datetime) -> list[str]:
            faults = faults_of(ClusterHealth(members=["a"], quorum=0), [], shown, at.timestamp(), attempt_s=1.0)
            return [f"{each.what}; {each.hint}" for each in faults]

        self.assertEqual(said(NOW + MEMBER_LIFE * 0.7), [])
        [soon] = said(NOW + MEMBER_LIFE - timedelta(days=30))
        self.assertIn("the certificate of etcd-1 expires in 30d; avictl store certificates FOLDER --renew", soon)
        [over] = said(NOW + MEMBER_LIFE + timedelta(days=1))
        self.assertIn("has expired", over)
