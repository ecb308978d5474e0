"""The store on three real etcd members: the contract, and what only a cluster can suffer."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import pause
from avinet.errors import LocalError
from avinet.files import private_folder
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.store import EtcdStore
from avinet.store.interface import Unchanged
from avinet.store.resting import FilePlace
from demo.members import Cluster
from tests.peers import require
from tests.running import asynchronous
from tests.store.contract import StoreContract, put

_NUMBERS = count()


@cache
def shared_cluster() -> Cluster:
    """One for all tests of this process: each test has a prefix of its own."""
    require("etcd")
    folder = Path("etcd").absolute()
    folder.mkdir()
    cluster = Cluster(folder)
    cluster.start()
    atexit.register(cluster.stop)  # trial's reactor shuts down after each test where it has several processes
    return cluster


class EtcdCase(TestCase):
    origin = 0
    patience_s = 60.0

    @asynchronous
    async def setUp(self) -> None:
        self.cluster = shared_cluster()
        self.prefix = f"test-{next(_NUMBERS)}"
        self.store = await self.opened()

    async def opened(
        self,
        node: str = "node-1",
        at: str | None = None,
        endpoints: Sequence[str] | None = None,
        place: FilePlace | None = None,
    ) -> EtcdStore:
        """The store of a node, which asks the member `at` first, or knows `endpoints` alone."""
        known = list(endpoints or self.cluster.endpoints)
        if at is not None:
            known.sort(key=lambda each: each != self.cluster.endpoint(at))
        gateway = Gateway(reactor, known, self.cluster.policy, patience_s=self.patience_s)
        store = EtcdStore(reactor, gateway, prefix=self.prefix, node=node, place=place)
        self.addCleanup(lambda: ensureDeferred(store.close()))
        await store.open(self.origin)
        return store


class EtcdStoreTests(StoreContract, EtcdCase):
    ttl_s = 2.0

    @override
    async def pass_time(self, seconds: float) -> None:
        await pause(reactor, seconds)


class ForgottenTests(EtcdCase):
    @asynchronous
    async def test_a_node_whose_state_is_gone_makes_no_new_one_in_its_place(self) -> None:
        place = FilePlace(private_folder(Path(self.mktemp())))
        self.assertFalse(place.is_elsewhere())
        await self.opened(place=place)
        self.assertTrue(place.is_elsewhere())
        await self.opened(place=place)
        self.prefix += "-lost"
        lost = await self.assertFailure(ensureDeferred(self.opened(place=place)), LocalError)
        self.assertIn("etcd has nothing of this domain, and this node has used it there", str(lost))
        await self.opened()


class LaterStoreTests(EtcdStoreTests):
    """The contract where the revisions go on behind those of another store."""

    origin = 1 << 40

    @asynchronous
    async def test_a_revision_of_before_is_none_that_a_key_has(self) -> None:
        for revision in (1, self.origin - 1, self.origin):
            outcome = await self.store.transact(put(b"a", b"1", Unchanged(b"a", revision)))
            self.assertEqual(outcome.succeeded, False)
            self.assertGreater(outcome.revision, self.origin)
        self.assertTrue((await self.store.transact(put(b"a", b"1", Unchanged(b"a", 0)))).succeeded)

    @asynchronous
    async def test_where_they_begin_is_said_once(self) -> None:
        before = await self.store.transact(put(b"a", b"1"))
        self.origin = 5
        again = await self.opened()
        self.assertEqual((await again.read([b"a"])).entries[b"a"].revision, before.revision)
