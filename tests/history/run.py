"""One run: members, nodes, clients and what happens to them; then the history is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import gatherResults
from typing_extensions import override

from avinet.aio import as_deferred, pause
from avinet.errors import Unavailable
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.store import EtcdStore
from avinet.store.interface import Event, Put, Transaction
from demo.members import Cluster
from tests.history.checker import Change, Operation, faults
from tests.history.clients import PLACE, Client, Record
from tests.history.nemesis import Nemesis
from tests.running import eventually
from tests.store.network import Network

NODES, CLIENTS = 4, 20
HEALED_S = 60.0
END = PLACE + b"end"


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a history; how many operations there were of each kind, and what has happened meanwhile."""

    faults: list[str]
    acknowledged: int
    in_vain: int
    refused: int
    unknown: int
    reads: int
    claims: int
    happened: dict[str, int]

    @override
    def __str__(self) -> str:
        happened = ", ".join(f"{count} × {kind}" for kind, count in self.happened.items())
        return (
            f"{self.acknowledged} writes acknowledged, {self.in_vain} in vain, {self.refused} refused, {self.unknown} of "
            f"which nobody knows; {self.reads} reads; {self.claims} claims won; {happened or 'nothing happened'}"
        )


class Race:
    """`CLIENTS` on `NODES` nodes, each of which asks another member first. All that is drawn is drawn from `seed`."""

    def __init__(
        self,
        reactor: Any,
        cluster: Cluster,
        network: Network | None,
        seed: int,
        say: Callable[[str], None],
        **pace: float,
    ) -> None:
        self._reactor = reactor
        self._cluster = cluster
        self._prefix = f"history-{seed}"
        self._seed = seed
        self._nemesis = Nemesis(reactor, cluster, network, Random(seed), say=say, **pace)
        self.record = Record()
        self._seen: list[list[Change]] = []

    async def run(self, seconds: float) -> Verdict:
        """Let them race so long, and judge."""
        stores = [await self._opened(number) for number in range(NODES)]
        try:
            return await self._run(stores, seconds)
        finally:
            self.record.ending = self._nemesis.ending = True
            for store in stores:
                await store.close()

    async def _opened(self, number: int) -> EtcdStore:
        ends = self._cluster.endpoints
        turned = ends[number % len(ends) :] + ends[: number % len(ends)]
        gateway = Gateway(self._reactor, turned, self._cluster.policy)
        store = EtcdStore(self._reactor, gateway, prefix=self._prefix, node=f"node-{number}")
        await eventually("the store opens", lambda: _opens(store), HEALED_S)
        return store

    async def _run(self, stores: list[EtcdStore], seconds: float) -> Verdict:
        begun = (await stores[0].read([])).revision
        for store in stores[:2]:
            self._seen.append([])
            store.watch(PLACE, begun, self._watching(self._seen[-1]))
        clients = [
            Client(self._reactor, f"c{number}", stores[number % NODES], self.record, Random(f"{self._seed}/{number}"))
            for number in range(CLIENTS)
        ]
        working = [as_deferred(client.work()) for client in clients]
        harming = as_deferred(self._nemesis.work())
        await pause(self._reactor, seconds)
        self._nemesis.ending = True
        await harming
        self.record.ending = True
        await gatherResults(working)
        await eventually("all is well again", lambda: _written(stores[0]), HEALED_S)
        await eventually("the watches have seen the end", self._ended, HEALED_S)
        return await self._judged(stores[-1])

    def _watching(self, seen: list[Change]) -> Callable[[Any], None]:
        def take(events: list[Event]) -> None:
            seen.extend(Change(each.revision, each.key, each.entry.value if each.entry else None) for each in events)

        return take

    def _ended(self) -> bool:
        return all(seen and seen[-1].key == END for seen in self._seen)

    async def _judged(self, store: EtcdStore) -> Verdict:
        changes = [each for each in self._seen[0] if each.key != END]
        operations = self.record.operations
        found = faults(operations, changes)
        if [each for each in self._seen[1] if each.key != END] != changes:
            found.append("two watches have seen different histories")
        found += [*_twice(operations), *await _kept(store, changes)]
        return verdict(found, operations, dict(self._nemesis.done))


def _twice(operations: list[Operation]) -> list[str]:
    """Claims that were won by two who were told so."""
    winners: dict[bytes, list[Operation]] = {}
    for each in operations:
        for key, value in each.writes:
            if each.succeeded and value is not None and key.startswith(PLACE + b"won/"):
                winners.setdefault(key, []).append(each)
    return [f"won twice: {' and '.join(map(str, each))}" for each in winners.values() if len(each) > 1]


async def _kept(store: EtcdStore, changes: list[Change]) -> list[str]:
    """What is there in the end that no change explains, or is not there."""
    wanted: dict[bytes, tuple[bytes, int]] = {}
    for change in changes:
        if change.value is None:
            wanted.pop(change.key, None)
        else:
            wanted[change.key] = (change.value, change.revision)
    kept: dict[bytes, tuple[bytes, int]] = {}
    after, more = b"", True
    while more:
        page = await store.range(PLACE, after=after)
        kept.update((entry.key, (entry.value, entry.revision)) for entry in page.entries if entry.key != END)
        after, more = page.entries[-1].key, page.more
    return [
        f"in the end {key.decode()} is {kept.get(key)} and should be {wanted.get(key)}"
        for key in {*wanted, *kept}
        if kept.get(key) != wanted.get(key)
    ]


def verdict(found: list[str], operations: list[Operation], happened: dict[str, int]) -> Verdict:
    """A verdict with the numbers of the history."""
    writes = [each for each in operations if each.writes]
    claims = {key for each in writes if each.succeeded for key, _ in each.writes if key.startswith(PLACE + b"won/")}
    return Verdict(
        found,
        sum(each.succeeded is True for each in writes),
        sum(each.succeeded is False and each.revision > 0 for each in writes),
        sum(each.succeeded is False and not each.revision for each in writes),
        sum(each.succeeded is None for each in writes),
        len(operations) - len(writes),
        len(claims),
        happened,
    )


async def _opens(store: EtcdStore) -> bool:
    try:
        await store.open()
    except Unavailable:
        return False
    return True


async def _written(store: EtcdStore) -> bool:
    try:
        await store.transact(Transaction((), (Put(END, b""),)))
    except Unavailable:
        return False
    return True


def members(
    folder: Path, count: int, network: Callable[[tuple[str, ...]], Network | None]
) -> tuple[Cluster, Network | None]:
    """So many members that are started in `folder`, in networks of their own where these can be made."""
    names = tuple(f"etcd-{number + 1}" for number in range(count))
    made = network(names)
    cluster = Cluster(folder, names, hosts=made.hosts if made else None)
    cluster.start()
    return cluster, made
