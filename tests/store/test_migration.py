"""A store moved to etcd and back: all of it arrives, or it stays; also where the process is killed between."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from avinet.errors import AvinetError, Conflict, Invalid, LocalError
from avinet.files import private_folder
from avinet.store import copying
from avinet.store.choose import StoreSettings, copy_etcd
from avinet.store.copying import TablesAtRest, content_of, copy
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.messages import PutRequest, RequestOp, TxnReply, TxnRequest
from avinet.store.etcd.moving import EtcdPlace
from avinet.store.etcd.store import EtcdStore
from avinet.store.interface import KEY_LIMIT_BYTES, VALUE_LIMIT_BYTES, Delete, Put, Transaction, Unchanged
from avinet.store.migration import Migration, to_etcd, to_file
from avinet.store.resting import FilePlace
from avinet.store.tables import Tables
from avinet.trust.domain import found
from tests.running import asynchronous, eventually
from tests.store.test_etcd import shared_cluster

Contents = dict[bytes, bytes]
SMALL = {b"engine/se-1": b"{}", b"engine/se-2": b"", b"\xff\xff": b"\0" * 100}


def fill(tables: Tables, contents: Contents, *, revision: int = 0) -> None:
    """Put `contents`, each in a transaction of its own; the revisions go on above `revision`."""
    with tables.committed():
        tables.go_on(revision)
        for key, value in contents.items():
            tables.transact(Transaction((), (Put(key, value),)))


def held(tables: Tables) -> Contents:
    return {entry.key: entry.value for entry in tables.range(b"", 1_000_000, b"").entries}


class CopyTests(SynchronousTestCase):
    keys = st.binary(min_size=1, max_size=KEY_LIMIT_BYTES)
    values = st.binary(max_size=300)

    def tables(self) -> Tables:
        tables = Tables(private_folder(Path(self.mktemp()).absolute()) / "store.sqlite")
        self.addCleanup(tables.close)
        return tables

    @settings(deadline=None, max_examples=60)
    @given(st.dictionaries(keys, values, max_size=40), st.integers(1, 9), st.integers(1, 500), st.integers(1, 7))
    def test_whatever_is_there_arrives_in_transactions_within_limits(
        self, contents: Contents, page: int, size: int, operations: int
    ) -> None:
        source, target, written = self.tables(), self.tables(), list[Transaction]()
        fill(source, contents)

        class Limited(TablesAtRest):
            @override
            async def transact(self, transaction: Transaction) -> Any:
                written.append(transaction)
                return await super().transact(transaction)

        with mock.patch.multiple(copying, PAGE=page, TRANSACTION_BYTES=size, OPERATIONS=operations):
            self.successResultOf(ensureDeferred(copy(TablesAtRest(source), Limited(target))))
            before, after = (
                self.successResultOf(ensureDeferred(content_of(TablesAtRest(each)))) for each in (source, target)
            )
        self.assertEqual(held(target), contents)
        self.assertEqual(before, after)
        for each in written:
            self.assertLessEqual(len(each.then), operations)
            sizes = [len(put.key) + len(put.value) for put in each.then if isinstance(put, Put)]
            self.assertTrue(len(sizes) == 1 or sum(sizes) <= size, sizes)

    @settings(deadline=None, max_examples=60)
    @given(st.dictionaries(keys, values, min_size=1, max_size=10), st.data())
    def test_contents_that_differ_anywhere_are_told_apart(self, contents: Contents, data: st.DataObject) -> None:
        other = dict(contents)
        key = data.draw(st.sampled_from(sorted(contents)))
        value = other.pop(key)
        changed = data.draw(st.sampled_from(["gone", "value", "key", "border"]))
        if changed == "value":
            other[key] = value + b"x"
        elif changed == "key":
            other[(key + b"\0")[-KEY_LIMIT_BYTES:]] = value
        elif changed == "border" and value and len(key) < KEY_LIMIT_BYTES:
            other[key + value[:1]] = value[1:]
        first, second = self.tables(), self.tables()
        fill(first, contents)
        fill(second, other)
        before, after = (
            self.successResultOf(ensureDeferred(content_of(TablesAtRest(each)))) for each in (first, second)
        )
        self.assertEqual(before == after, contents == other)

    def test_what_is_under_a_lease_stays_and_is_not_counted(self) -> None:
        source, target = self.tables(), self.tables()
        fill(source, SMALL)
        with source.committed():
            source.transact(Transaction((), (Put(b"leased", b"x", source.grant(10)),)))
        self.successResultOf(ensureDeferred(copy(TablesAtRest(source), TablesAtRest(target))))
        self.assertEqual(held(target), SMALL)
        before, after = (
            self.successResultOf(ensureDeferred(content_of(TablesAtRest(each)))) for each in (source, target)
        )
        self.assertEqual((before.leased, after.leased, before.same(after)), (1, 0, True))

    def test_a_transaction_that_fails_is_raised(self) -> None:
        class Full(TablesAtRest):
            @override
            async def transact(self, transaction: Transaction) -> Any:
                raise LocalError("no more room")

        source = self.tables()
        fill(source, SMALL)
        work = ensureDeferred(copy(TablesAtRest(source), Full(self.tables())))
        self.assertIn("no more room", str(self.failureResultOf(work, LocalError).value))


class Killed(BaseException):
    """The process is gone."""


class MigrationCase(TestCase):
    number = 0

    @override
    def setUp(self) -> None:
        self.cluster = shared_cluster()
        type(self).number += 1
        self.anew()

    def anew(self) -> None:
        """A node of a domain of its own, which has no state yet."""
        self.state = private_folder(Path(self.mktemp()).absolute())
        self.file = FilePlace(self.state)
        self.prefix = f"{self.state.parent.name}/{self.state.name}/d1"

    @asynccontextmanager
    async def place(self, node: str = "node-1") -> AsyncIterator[EtcdPlace]:
        gateway = Gateway(reactor, self.cluster.endpoints, self.cluster.policy, attempt_s=10, patience_s=30)
        place = EtcdPlace(reactor, gateway, self.prefix, node, f"the file of {node}")
        try:
            yield place
        finally:
            await place.store.close()

    async def to_etcd(self, **how: Any) -> Migration:
        async with self.place() as place:
            return await to_etcd(self.file, place, **how)

    async def to_file(self, **how: Any) -> Migration:
        async with self.place() as place:
            return await to_file(place, self.file, **how)

    def filled(self, contents: Contents, revision: int = 0) -> int:
        tables = Tables(self.file.path)
        fill(tables, contents, revision=revision)
        tables.close()
        return tables.revision

    def in_file(self) -> Contents:
        tables = self.file.open()
        try:
            return held(tables)
        finally:
            tables.close()

    @asynccontextmanager
    async def used(self) -> AsyncIterator[EtcdStore]:
        """The store on etcd, as a node opens it."""
        self.file.check_unused()
        gateway = Gateway(reactor, self.cluster.endpoints, self.cluster.policy, attempt_s=10, patience_s=30)
        store = EtcdStore(reactor, gateway, prefix=self.prefix, node="node-1")
        try:
            await store.open()
            yield store
        finally:
            await store.close()

    async def in_etcd(self) -> Contents:
        async with self.used() as store:
            contents, more, after = Contents(), True, b""
            while more:
                page = await store.range(b"", after=after)
                contents |= {entry.key: entry.value for entry in page.entries}
                more, after = page.more, page.entries[-1].key if page.entries else b""
            return contents

    async def refused(self, kind: type[AvinetError], work: Awaitable[Any]) -> str:
        try:
            await work
        except kind as error:
            return str(error)
        raise AssertionError(f"{kind.__name__} was not raised")


class MigrationTests(MigrationCase):
    @asynchronous
    async def test_there_and_back_at_the_limits_and_revisions_only_grow(self) -> None:
        seeded = random.Random(7)
        contents = {
            seeded.randbytes(seeded.randint(1, 40)): seeded.randbytes(seeded.randint(0, 900)) for _ in range(999)
        }
        contents |= {b"\xff" * KEY_LIMIT_BYTES: b"", b"\0": b"\0", b"k" * KEY_LIMIT_BYTES: b"x" * VALUE_LIMIT_BYTES}
        contents |= {b"large/%d" % number: seeded.randbytes(VALUE_LIMIT_BYTES) for number in range(20)}
        revision = self.filled(contents, 5_000_000_000)
        before = await self.to_etcd()
        self.assertEqual((before.content.keys, before.revision, before.done), (len(contents), revision, True))
        self.assertEqual(await self.in_etcd(), contents)
        async with self.used() as store:
            entry = (await store.read([b"\0"])).entries[b"\0"]
            self.assertGreater(entry.revision, revision)
            self.assertFalse((await store.transact(Transaction((Unchanged(b"\0", revision),), ()))).succeeded)
            changed = await store.transact(Transaction((Unchanged(b"\0", entry.revision),), (Put(b"\0", b"new"),)))
            self.assertTrue(changed.succeeded)
        after = await self.to_file()
        self.assertGreaterEqual(after.revision, changed.revision)
        self.assertEqual(self.in_file(), contents | {b"\0": b"new"})
        tables = self.file.open()
        self.assertGreater(tables.read([b"\0"]).entries[b"\0"].revision, changed.revision)
        end = tables.revision
        tables.close()
        again = await self.to_etcd()
        self.assertEqual((again.revision, again.content.sha256), (end, after.content.sha256))
        async with self.used() as store:
            self.assertGreater((await store.read([])).revision, end)

    @asynchronous
    async def test_whoever_left_is_not_used_any_more_and_says_where_the_state_is(self) -> None:
        self.filled(SMALL)
        made = await self.to_etcd()
        self.assertTrue(Path(made.kept).exists())
        self.assertIn("has moved to etcd", str(self.assertRaises(LocalError, self.file.check_used)))
        self.assertIn("has moved to etcd", await self.refused(LocalError, self.to_etcd()))
        await self.to_file()
        self.assertIn("store.sqlite is there too", await self.refused(LocalError, self.in_etcd()))
        self.assertIn("a store", await self.refused(Conflict, self.to_file()))
        self.file.path.rename(self.state / "elsewhere")
        self.assertIn("has left etcd for the file of node-1", await self.refused(LocalError, self.in_etcd()))
        self.assertIn("has left etcd", await self.refused(LocalError, self.to_file()))

    @asynchronous
    async def test_a_node_that_was_on_etcd_from_the_first_day_makes_no_empty_file_by_mistake(self) -> None:
        self.file.check_used()
        self.file.use_elsewhere()
        self.file.use_elsewhere()
        async with self.used() as store:
            await store.transact(Transaction((), (Put(b"a", b"1"),)))
        self.assertIn(
            "is in etcd, where the node has used it", str(self.assertRaises(LocalError, self.file.check_used))
        )
        await self.to_file()
        self.file.check_used()
        self.assertEqual(self.in_file(), {b"a": b"1"})
        self.assertRaises(LocalError, self.file.check_unused)

    @asynchronous
    async def test_a_dry_run_changes_nothing_and_finds_what_stands_in_the_way(self) -> None:
        self.filled(SMALL)
        would = await self.to_etcd(dry_run=True)
        self.assertEqual((would.content.keys, would.done), (len(SMALL), False))
        self.assertEqual(self.in_file(), SMALL)
        async with self.place() as place:
            self.assertIsNone(await place.look())
        await self.to_etcd()
        self.assertFalse((await self.to_file(dry_run=True)).done)
        self.assertEqual(await self.in_etcd(), SMALL)
        self.filled(SMALL)
        self.assertIn("in use below", await self.refused(Conflict, self.to_etcd(dry_run=True)))
        self.assertIn("a store", await self.refused(Conflict, self.to_file(dry_run=True)))

    @asynchronous
    async def test_a_target_that_holds_anything_is_refused(self) -> None:
        self.filled(SMALL)
        gateway = Gateway(reactor, self.cluster.endpoints, self.cluster.policy)
        self.addCleanup(lambda: ensureDeferred(gateway.close()))
        put = RequestOp(request_put=PutRequest(key=f"{self.prefix}/data/x".encode(), value=b""))
        await gateway.ask("/v3/kv/txn", TxnRequest(compare=[], success=[put]), TxnReply)
        self.assertIn("no store of avinet's", await self.refused(Conflict, self.to_etcd()))
        self.anew()
        await self.refused(Invalid, self.to_file())
        async with self.used() as store:
            await store.transact(Transaction((), (Put(b"theirs", b""),)))
        self.filled(SMALL)
        self.assertIn("in use below", await self.refused(Conflict, self.to_etcd()))
        self.assertEqual(self.in_file(), SMALL)

    @asynchronous
    async def test_what_another_node_has_begun_is_not_taken_over(self) -> None:
        self.filled(SMALL)
        async with self.place("node-2") as place:
            await place.begin(1)
        self.assertIn("or to the file of node-2", await self.refused(Conflict, self.to_etcd()))
        self.assertEqual(self.in_file(), SMALL)

    @asynchronous
    async def test_what_a_migration_that_was_cut_off_has_sent_is_not_done_after_the_next_has_begun(self) -> None:
        self.filled(SMALL)
        async with self.place() as late:
            await late.begin(1)
            self.assertTrue((await self.to_etcd()).done)
            old = late.store.transact(Transaction((), (Put(b"engine/se-1", b"old"),)))
            self.assertIn("another process has changed where", await self.refused(LocalError, old))
            source = Tables(self.state / "other.sqlite")
            self.addCleanup(source.close)
            fill(source, SMALL)
            said = await self.refused(LocalError, copy(TablesAtRest(source), late.store))
            self.assertIn("another process has changed where", said)
        self.assertEqual(await self.in_etcd(), SMALL)

    @asynchronous
    async def test_a_node_elsewhere_that_writes_meanwhile_is_found(self) -> None:
        """It removes what it has written: only that it was at work is there to be seen."""
        async with self.used() as store:
            await store.transact(Transaction((), (Put(b"a", b"1"),)))
            arrived = self.file.all_arrived

            def meanwhile() -> None:
                arrived()
                writes.append(ensureDeferred(store.transact(Transaction((), (Put(b"b", b"2"),)))))
                writes.append(ensureDeferred(store.transact(Transaction((), (Delete(b"b"),)))))

            async def slowly(place: EtcdPlace, revision: int) -> None:
                for each in writes:
                    self.assertTrue((await each).succeeded)
                await leave(place, revision)

            writes: list[Any] = []
            leave = EtcdPlace.leave
            self.patch(self.file, "all_arrived", meanwhile)
            self.patch(EtcdPlace, "leave", slowly)
            self.assertIn("a node has written to etcd meanwhile", await self.refused(Conflict, self.to_file()))
            self.assertEqual(len(writes), 2)
            self.assertFalse(self.file.path.exists())
            self.patch(self.file, "all_arrived", arrived)
            self.patch(EtcdPlace, "leave", leave)
            self.assertTrue((await self.to_file()).done)

    async def elsewhere(self) -> FilePlace:
        """The state moved to the file of another machine's node."""
        there = FilePlace(private_folder(Path(self.mktemp()).absolute()))
        async with self.place("node-2") as place:
            self.assertTrue((await to_file(place, there)).done)
        return there

    @asynchronous
    async def test_of_two_that_leave_at_once_one_is_refused(self) -> None:
        async with self.used() as store:
            await store.transact(Transaction((), (Put(b"a", b"1"),)))
        leave = EtcdPlace.leave

        async def late(place: EtcdPlace, revision: int) -> None:
            self.patch(EtcdPlace, "leave", leave)
            await self.elsewhere()
            await leave(place, revision)

        self.patch(EtcdPlace, "leave", late)
        self.assertIn("has left etcd for the file of node-2", await self.refused(LocalError, self.to_file()))
        self.assertFalse(self.file.path.exists())

    @asynchronous
    async def test_a_copy_that_was_refused_is_not_used_once_another_node_has_the_state(self) -> None:
        async with self.used() as store:
            await store.transact(Transaction((), (Put(b"a", b"1"),)))
            leave = EtcdPlace.leave

            async def meanwhile(place: EtcdPlace, revision: int) -> None:
                await store.transact(Transaction((), (Put(b"a", b"2"),)))
                await leave(place, revision)

            self.patch(EtcdPlace, "leave", meanwhile)
            await self.refused(Conflict, self.to_file())
            self.patch(EtcdPlace, "leave", leave)
        await self.elsewhere()
        self.assertIn("has left etcd for the file of node-2", await self.refused(LocalError, self.to_file()))
        self.assertFalse(self.file.path.exists())

    @asynchronous
    async def test_what_is_removed_to_make_room_is_not_removed_once_more(self) -> None:
        """The first attempt was asleep in a member, and comes after all was copied."""
        self.filled(SMALL)
        ask, sent = Gateway.ask, list[Any]()

        async def spy(gateway: Gateway, path: str, request: Any, into: Any) -> Any:
            if path == "/v3/kv/txn" and any(each.request_delete_range for each in request.success):
                sent.append(request)
            return await ask(gateway, path, request, into)

        arrived = EtcdPlace.arrived

        async def late(place: EtcdPlace) -> None:
            for request in sent:
                self.assertFalse((await ask(place._gateway, "/v3/kv/txn", request, TxnReply)).succeeded)
            await arrived(place)

        self.patch(Gateway, "ask", spy)
        self.patch(EtcdPlace, "arrived", late)
        self.assertTrue((await self.to_etcd()).done)
        self.assertEqual((len(sent), await self.in_etcd()), (1, SMALL))

    @asynchronous
    async def test_a_node_elsewhere_writes_nothing_once_the_state_has_left(self) -> None:
        async with self.used() as store:
            await store.transact(Transaction((), (Put(b"a", b"1"),)))
            self.assertTrue((await self.to_file()).done)
            late = store.transact(Transaction((), (Put(b"a", b"2"),)))
            self.assertIn("another process has changed where", await self.refused(LocalError, late))
        self.assertEqual(self.in_file(), {b"a": b"1"})

    @asynchronous
    async def test_what_arrives_changed_is_found_and_the_source_stays(self) -> None:
        self.filled(SMALL)
        real = EtcdStore.transact

        async def lossy(store: EtcdStore, transaction: Transaction) -> Any:
            return await real(store, Transaction((), transaction.then[1:]))

        with mock.patch.object(EtcdStore, "transact", lossy):
            said = await self.refused(LocalError, self.to_etcd())
        self.assertIn("2 keys are there", said)
        self.assertEqual(self.in_file(), SMALL)
        self.assertTrue((await self.to_etcd()).done)

    @asynchronous
    async def test_a_file_that_another_process_has_open_is_not_put_away(self) -> None:
        self.filled(SMALL)
        other = Tables(self.file.path)
        self.addCleanup(other.close)
        with other.committed():
            other.transact(Transaction((), (Put(b"a", b""),)))
        self.assertIn("is open in another process", await self.refused(LocalError, self.to_etcd()))
        self.assertEqual(len(self.in_file()), 4)


class KilledTests(MigrationCase):
    """Killed before or after each thing that changes anything, one after the other."""

    points = (
        (EtcdStore, "transact"),
        (EtcdPlace, "begin"),
        (EtcdPlace, "_change"),
        (FilePlace, "begin"),
        (FilePlace, "_rename"),
        (TablesAtRest, "transact"),
    )

    async def killed_at(self, point: int, work: Callable[[], Awaitable[Any]]) -> bool:
        """Whether `work` came as far as `point`, before which it is killed."""
        count = 0

        def counted(real: Any) -> Any:
            def at() -> None:
                nonlocal count
                count += 1
                if count - 1 == point:
                    raise Killed

            if real.__name__ in ("_rename", "begin") and not real.__code__.co_flags & 0x80:

                def now(*arguments: Any) -> Any:
                    at()
                    result = real(*arguments)
                    at()
                    return result

                return now

            async def later(*arguments: Any) -> Any:
                at()
                result = await real(*arguments)
                at()
                return result

            return later

        with mock.patch.object(copying, "OPERATIONS", 1), mock.patch.object(copying, "AT_ONCE", 1):
            patches = [mock.patch.object(kind, name, counted(getattr(kind, name))) for kind, name in self.points]
            for each in patches:
                each.start()
            try:
                await work()
            except Killed:
                return True
            finally:
                for each in patches:
                    each.stop()
        return False

    async def whole(self, contents: Contents, *, at_rest: bool) -> set[str]:
        """Where the state of the domain can be used from now, all of it; it is never a part of it."""
        places = set()
        try:
            self.assertEqual(self.in_file(), contents)
            places.add("sqlite")
        except LocalError:
            pass
        async with self.place() as place:
            origin = await place.look()
        if origin is not None and origin.state in ("used", "arrived") and not self.file.path.exists():
            if at_rest:  # looking takes it into use
                self.assertEqual(await self.in_etcd(), contents)
            places.add("etcd")
        return places

    @asynchronous
    async def test_on_the_way_in(self) -> None:
        point, there = 0, {"sqlite"}
        while point < 100:
            self.anew()
            self.filled(SMALL)
            if not await self.killed_at(point, self.to_etcd):
                break
            used = await self.whole(SMALL, at_rest=False)
            self.assertEqual(len(used), 1, f"killed at {point}: {used}")
            there |= used
            if used == {"sqlite"}:
                self.filled({b"since": b"then"}, 1000)
                self.assertTrue((await self.to_etcd()).done, point)
                self.assertEqual(await self.in_etcd(), SMALL | {b"since": b"then"})
            else:
                self.assertEqual(await self.whole(SMALL, at_rest=True), {"etcd"})
            point += 1
        self.assertGreater(point, 10)
        self.assertEqual(there, {"sqlite", "etcd"})

    @asynchronous
    async def test_on_the_way_out(self) -> None:
        point, there = 0, set[str]()
        while point < 100:
            self.anew()
            self.filled(SMALL)
            await self.to_etcd()
            if not await self.killed_at(point, self.to_file):
                break
            used = await self.whole(SMALL, at_rest=False)
            self.assertLessEqual(len(used), 1, f"killed at {point}: {used}")
            there |= used
            if used != {"sqlite"}:  # also where etcd was left, and all of it is in the file already
                self.assertRaises(LocalError, self.file.check_used)
                self.assertTrue((await self.to_file()).done, point)
            self.assertEqual(await self.whole(SMALL, at_rest=True), {"sqlite"})
            point += 1
        self.assertGreater(point, 10)
        self.assertEqual(there, {"sqlite", "etcd"})


class EndedTests(MigrationCase):
    """The verb, as a process that is killed."""

    def arguments(self, to: str) -> list[str]:
        return [
            "-m",
            "avinet.cli",
            "store",
            "migrate",
            "--config",
            str(self.state.parent / "controller.toml"),
            "--to",
            to,
        ]

    @asynchronous
    async def test_a_process_that_is_killed_while_it_copies_leaves_the_source_and_the_next_one_does_it(self) -> None:
        domain = found(self.state / "trust", "node-1", datetime.now(UTC)).id
        self.prefix = f"{self.state.parent.name}/{domain}"
        written = self.cluster.settings.replace('"etcd"', '"sqlite"')
        (self.state.parent / "controller.toml").write_text(
            f'state = "{self.state.name}"\n[store]\n{written}\nprefix = "{self.state.parent.name}"\n'
        )
        contents = {b"%05d" % number: b"x" * 2000 for number in range(5000)}
        self.filled(contents)
        for to, state in (("etcd", "arriving"), ("sqlite", "used")):
            process = subprocess.Popen([sys.executable, *self.arguments(to)], stdout=subprocess.DEVNULL)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)

            async def under_way(to: str = to) -> bool:
                if to == "sqlite":
                    return self.file.arriving.exists()
                async with self.place() as place:
                    origin = await place.look()
                return origin is not None and origin.state == "arriving"

            await eventually("it is under way", under_way)
            process.kill()
            process.wait()
            async with self.place() as place:
                origin = await place.look()
            assert origin is not None
            self.assertEqual((origin.state, self.file.path.exists()), (state, to == "etcd"), "nothing was left")
            if to == "etcd":
                self.assertEqual(self.in_file(), contents)
            else:
                self.assertEqual(await self.in_etcd(), contents)
            out, err, code = await getProcessOutputAndValue(sys.executable, self.arguments(to), env=None)
            self.assertEqual((code, err), (0, b""))
            self.assertIn(f'Set engine = "{to}" under [store]'.encode(), out)
            self.assertEqual(await self.in_etcd() if to == "etcd" else self.in_file(), contents)


class CopyOfEtcdTests(MigrationCase):
    @asynchronous
    async def test_it_is_as_of_one_revision_whatever_is_written_meanwhile(self) -> None:
        store_settings = StoreSettings(
            engine="etcd",
            endpoints=tuple(self.cluster.endpoints),
            ca=str(self.cluster.certificates / "ca.pem"),
            certificate=str(self.cluster.certificates / "client.pem"),
            key=str(self.cluster.certificates / "client.key"),
            prefix=self.prefix.removesuffix("/d1"),
        )
        real, to, number = EtcdStore.range_at, self.state / "copy.sqlite", 0
        async with self.used() as store:
            whole = Transaction((), tuple(Put(b"%02d" % at, b"0") for at in range(20)))
            revision = (await store.transact(whole)).revision

            async def meanwhile(*arguments: Any, **options: Any) -> Any:
                nonlocal number
                number += 1
                await store.transact(Transaction((), tuple(Put(put.key, b"%d" % number) for put in whole.then)))
                await store.transact(Transaction((), (Put(b"new-%d" % number, b""),)))
                return await real(*arguments, **options)

            with mock.patch.object(EtcdStore, "range_at", meanwhile), mock.patch.object(copying, "PAGE", 3):
                await copy_etcd(reactor, store_settings, self.state, to, domain="d1", node="node-1", now=time.time)
        self.assertGreater(number, 10)
        tables = Tables(to)
        self.addCleanup(tables.close)
        self.assertEqual(held(tables), {put.key: b"0" for put in whole.then})
        self.assertGreater(tables.read([b"00"]).entries[b"00"].revision, revision)

    @asynchronous
    async def test_what_has_left_or_not_arrived_is_not_copied(self) -> None:
        async with self.place() as place:
            await self.refused(Invalid, place.open())
            await place.begin(5)
            self.assertIn("a part only", await self.refused(LocalError, place.open()))
            await place.arrived()
            await place.leave(await place.revision())
            self.assertIn("has left etcd", await self.refused(LocalError, place.open()))
