"""The store on three real etcd members: the contract, and what only a cluster can suffer."""

from __future__ import annotations

from functools import cache
from itertools import count
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import pause
from avinet.store.etcd.store import EtcdStore
from tests.running import asynchronous
from tests.store.contract import StoreContract
from tests.store.members import Cluster

_NUMBERS = count()


@cache
def shared_cluster() -> Cluster:
    """One for all tests of this process: each test has a prefix of its own."""
    folder = Path("etcd").absolute()
    folder.mkdir()
    cluster = Cluster(folder)
    cluster.start()
    reactor.addSystemEventTrigger("before", "shutdown", cluster.stop)
    return cluster


class EtcdCase(TestCase):
    @asynchronous
    async def setUp(self) -> None:
        self.cluster = shared_cluster()
        self.prefix = f"test-{next(_NUMBERS)}"
        self.store = self.opened()
        await self.store.read([])

    def opened(self, node: str = "node-1") -> EtcdStore:
        store = EtcdStore(
            reactor, self.cluster.endpoints, self.cluster.policy, prefix=self.prefix, node=node, patience_s=15
        )
        self.addCleanup(lambda: ensureDeferred(store.close()))
        return store


class EtcdStoreTests(StoreContract, EtcdCase):
    ttl_s = 2.0

    @override
    async def pass_time(self, seconds: float) -> None:
        await pause(reactor, seconds)
