"""The store on three real etcd members of which one dies, falls asleep or is cut off while it is at work."""

from __future__ import annotations

import contextlib  # trial takes a name `suppress` here for its own
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory

from avinet.aio import Tasks, pause, within
from avinet.errors import Unavailable
from avinet.store.etcd.exchange import Exchange, Lost
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.members import MutualTLS, found_members
from avinet.store.etcd.messages import (
    Empty,
    PutRequest,
    RequestOp,
    StatusReply,
    TxnReply,
    TxnRequest,
    WatchCreateRequest,
    WatchRequest,
    decoded,
)
from avinet.store.etcd.store import EtcdStore
from avinet.store.interface import (
    OPERATIONS,
    VALUE_LIMIT_BYTES,
    Compacted,
    Event,
    Put,
    Transaction,
    Uncertain,
    Unchanged,
)
from avinet.trust.path import parse_certificates
from demo.members import NAMES, Cluster
from tests.peers import require
from tests.running import asynchronous, eventually
from tests.store.contract import put
from tests.store.load import Load
from tests.store.network import Network
from tests.store.test_etcd import EtcdCase

LEASE_S = 6.0
STATUS = "/v3/maintenance/status"


async def leader(cluster: Cluster, gateway: Gateway) -> str:
    """The member that all members name as their leader; empty while they do not."""
    ids, leaders = {}, set()
    for name in cluster.names:
        try:
            status = decoded(await gateway.once(cluster.endpoint(name), STATUS, Empty(), 2.0), StatusReply)
        except Lost:
            return ""
        ids[status.header.member_id] = name
        leaders.add(status.leader)
    return ids.get(leaders.pop(), "") if len(leaders) == 1 else ""


class FaultCase(EtcdCase):
    patience_s = 5.0
    timeout = 300

    async def looked(self) -> str:
        """The leader, as all members see it."""
        gateway = Gateway(reactor, self.cluster.endpoints, self.cluster.policy)
        try:
            return await eventually("the members have a leader", lambda: leader(self.cluster, gateway), 60)
        finally:
            await gateway.close()

    async def healthy(self) -> None:
        """Have all members up, awake and of one mind."""
        self.cluster.mend()
        await self.looked()

    async def place(self, at: str) -> tuple[str, EtcdStore, EtcdStore]:
        """A member, which is the leader or a follower, and the stores of one node that asks it, and one that does not.

        `at` is `leader` or `follower`.
        """
        self.addCleanup(lambda: ensureDeferred(self.healthy()))
        leader = await self.looked()
        followers = [name for name in self.cluster.names if name != leader]
        victim, other = (leader, followers[0]) if at == "leader" else followers
        return victim, await self.opened("near", victim), await self.opened("far", other)

    async def loaded(self, near: EtcdStore, far: EtcdStore) -> list[Load]:
        """Load on both, each watched through the other."""
        loads = [Load(near, far), Load(far, near, place=b"far/")]
        for load in loads:
            await load.start()
        await self.go_on(loads)
        return loads

    async def go_on(self, loads: list[Load]) -> None:
        await gatherResults([ensureDeferred(load.goes_on()) for load in loads])

    async def check(self, loads: list[Load]) -> None:
        for load in loads:
            await load.check(self)


class KillTests(FaultCase):
    async def killed(self, at: str) -> None:
        victim, near, far = await self.place(at)
        loads = await self.loaded(near, far)
        self.cluster.kill(victim)
        await self.go_on(loads)
        self.cluster.start(victim)
        await self.go_on(loads)
        await self.looked()
        await self.go_on(loads)
        await self.check(loads)

    @asynchronous
    async def test_the_leader_is_killed(self) -> None:
        await self.killed("leader")

    @asynchronous
    async def test_a_follower_is_killed(self) -> None:
        await self.killed("follower")

    @asynchronous
    async def test_what_was_asked_when_the_leader_died_is_asked_again_once_there_is_another(self) -> None:
        """The member that had it forwarded it to the dead one, and would say so only after seven seconds."""
        self.addCleanup(lambda: ensureDeferred(self.healthy()))
        victim = await self.looked()
        follower = next(name for name in self.cluster.names if name != victim)
        gateway = Gateway(
            reactor, [self.cluster.endpoint(follower)], self.cluster.policy, attempt_s=60.0, patience_s=60.0
        )
        self.addCleanup(lambda: ensureDeferred(gateway.close()))
        left: list[str] = []
        self.patch(gateway, "leave", lambda endpoint, why: left.append(why))
        put = TxnRequest(compare=[], success=[RequestOp(request_put=PutRequest(key=b"elected", value=b"x"))])
        await gateway.ask("/v3/kv/txn", put, TxnReply)
        self.cluster.kill(victim)
        reply = await gateway.ask("/v3/kv/txn", put, TxnReply)
        self.assertEqual((reply.succeeded, left), (True, []))

    @asynchronous
    async def test_a_thousand_writers_at_once_lose_nothing_though_the_leader_is_killed(self) -> None:
        victim, near, far = await self.place("leader")
        begun = (await near.read([])).revision
        seen: list[Event] = []
        watch = far.watch(b"w/", begun, seen.extend)
        self.addCleanup(watch.stop)
        told: dict[bytes, int] = {}

        async def write(key: bytes) -> None:
            """Until it is known to be there; each time under the condition that it is not there yet."""
            while key not in told:
                try:
                    outcome = await near.transact(put(key, key, Unchanged(key, 0)))
                    found = None if outcome.succeeded else (await near.read([key])).entries[key]
                    told[key] = found.revision if found else outcome.revision
                except Unavailable:
                    await pause(reactor, 0.1)

        writers = [ensureDeferred(write(b"w/%d" % number)) for number in range(1000)]
        await eventually("a hundred are done", lambda: len(told) >= 100, 60)
        self.cluster.kill(victim)
        await gatherResults(writers)
        await eventually("all of it is seen", lambda: len(seen) >= 1000, 60)
        self.assertEqual({each.key: each.revision for each in seen}, told)
        self.assertEqual(len(seen), 1000, "each was written once")

    @asynchronous
    async def test_a_lease_that_is_kept_alive_outlives_the_leader(self) -> None:
        victim, near, far = await self.place("leader")
        lease = await near.grant(LEASE_S)
        await near.transact(put(b"owner", b"near", lease=lease))
        kept = 0

        async def keep() -> None:
            nonlocal kept
            while True:
                await pause(reactor, LEASE_S / 6)
                with contextlib.suppress(Uncertain):
                    await near.keep_alive(lease)
                    kept += 1

        tasks = Tasks()
        self.addCleanup(tasks.stop)
        tasks.spawn(keep(), "keeping the lease", self.fail)
        await eventually("it is kept", lambda: kept > 1)
        self.cluster.kill(victim)
        before = kept
        await eventually("it is kept by the next leader for more than its time", lambda: kept > before + 9, 60)
        self.assertEqual((await far.read([b"owner"])).entries[b"owner"].value, b"near")
        tasks.stop()
        await eventually("it ends", lambda: _gone(far, b"owner"), 60)


async def _gone(store: EtcdStore, key: bytes) -> bool:
    return key not in (await store.read([key])).entries


class SleepTests(FaultCase):
    async def slept(self, at: str) -> None:
        """What it was asked before it fell asleep is still with it when it wakes up."""
        victim, near, far = await self.place(at)
        loads = await self.loaded(near, far)
        for _ in range(2):
            self.cluster.pause(victim)
            await self.go_on(loads)
            self.cluster.go_on(victim)
            await self.go_on(loads)
        await self.check(loads)

    @asynchronous
    async def test_the_leader_falls_asleep(self) -> None:
        await self.slept("leader")

    @asynchronous
    async def test_a_follower_falls_asleep(self) -> None:
        await self.slept("follower")

    @asynchronous
    async def test_a_watch_at_a_member_that_sleeps_is_closed_without_it(self) -> None:
        victim, *_ = await self.place("follower")
        exchange = Exchange(reactor, self.cluster.policy, 5.0)
        created: list[bytes] = []
        request = WatchRequest(create_request=WatchCreateRequest(key=b"w/", range_end=b"w0", start_revision=0))
        stream = await exchange.stream(self.cluster.endpoint(victim), "/v3/watch", request, created.append)
        await eventually("it has begun", lambda: created)
        self.cluster.pause(victim)
        stream.end()
        await within(reactor, 20, stream.closed, "the connection")
        await exchange.close()

    @asynchronous
    async def test_without_a_quorum_all_are_told_so_in_time_and_it_comes_back_by_itself(self) -> None:
        _, near, far = await self.place("follower")
        loads = await self.loaded(near, far)
        for name in self.cluster.names[1:]:
            self.cluster.pause(name)
        await eventually("the node has noticed", lambda: near.silent_s() > 0)
        began = reactor.seconds()
        told = await gatherResults([self.told(near, number) for number in range(200)])
        self.assertLess(reactor.seconds() - began, 3 * self.patience_s)
        self.assertEqual({isinstance(each, Unavailable) for each in told}, {True})
        self.assertIn("the store", str(told[0]))
        for name in self.cluster.names[1:]:
            self.cluster.go_on(name)
        await self.go_on(loads)
        self.assertEqual(near.silent_s(), 0)
        await self.check(loads)

    def told(self, store: EtcdStore, number: int) -> Deferred[Any]:
        """The error that a write ends with."""
        asked = ensureDeferred(store.transact(put(b"told/%d" % number, b"")))
        return self.assertFailure(asked, Unavailable)


class PartitionTests(FaultCase):
    """Each member has a network of its own here."""

    @asynchronous
    async def setUp(self) -> None:
        require("etcd")
        self.network = Network(NAMES)
        self.addCleanup(self.network.close)
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.cluster = Cluster(folder, hosts=self.network.hosts)
        self.addCleanup(self.cluster.stop)
        self.cluster.start()
        self.prefix = "test"

    async def cut(self, at: str, how: Callable[[str], None]) -> None:
        victim, near, far = await self.place(at)
        loads = await self.loaded(near, far)
        how(victim)
        await self.go_on(loads)
        self.network.heal(victim)
        await self.go_on(loads)
        await self.check(loads)

    @asynchronous
    async def test_the_leader_is_cut_off(self) -> None:
        await self.cut("leader", self.network.swallow)

    @asynchronous
    async def test_the_leader_reaches_its_clients_alone(self) -> None:
        await self.cut("leader", self.network.part)

    @asynchronous
    async def test_a_follower_is_cut_off(self) -> None:
        await self.cut("follower", self.network.swallow)

    @asynchronous
    async def test_a_follower_reaches_its_clients_alone(self) -> None:
        """It answers on, and what it knows is old."""
        await self.cut("follower", self.network.part)


class Relay(ProxyFactory):
    """A door before one member: what the member answers can be lost there, and nobody may come through."""

    noisy = False

    def __init__(self, case: FaultCase, member: str) -> None:
        place = urlsplit(case.cluster.endpoint(member))
        super().__init__(place.hostname, place.port)
        self.lose = 0
        self.shut = False
        self._open: set[Any] = set()
        listening = reactor.listenTCP(0, self, interface="127.0.0.1")
        case.addCleanup(listening.stopListening)
        self.endpoint = f"https://127.0.0.1:{listening.getHost().port}"

    def buildProtocol(self, addr: Any) -> Any:
        if self.shut:
            return None
        relay, protocol = self, super().buildProtocol(addr)
        protocol.noisy = False

        class Answers(ProxyClient):
            def dataReceived(self, data: bytes) -> None:
                if relay.lose:
                    relay.lose -= 1
                    relay.cut(protocol)
                else:
                    super().dataReceived(data)

        class Dialled(ProxyClientFactory):
            noisy = False
            protocol = Answers

        protocol.clientProtocolFactory = Dialled
        self._open.add(protocol)
        return protocol

    def cut(self, protocol: Any) -> None:
        """Break the connection off, on both sides."""
        self._open.discard(protocol)
        for each in (protocol, protocol.peer):
            if each is not None and each.transport is not None:
                each.transport.abortConnection()

    def close(self) -> None:
        """Let nobody through, from now on."""
        self.shut = True
        for each in list(self._open):
            self.cut(each)


class RelayTests(FaultCase):
    @asynchronous
    async def test_a_value_and_a_transaction_at_their_limits_whose_answer_is_lost(self) -> None:
        relay = Relay(self, self.cluster.names[0])
        store = await self.opened("far", endpoints=[relay.endpoint])
        value, half = b"x" * VALUE_LIMIT_BYTES, b"y" * (VALUE_LIMIT_BYTES - 1024)
        most = [Put(b"big/%d" % number, half) for number in range(2)]
        most += [Put(b"small/%d" % number, b"") for number in range(OPERATIONS - 2)]
        seen: list[Event] = []
        begun = (await self.store.read([])).revision
        watch = self.store.watch(b"", begun, seen.extend)
        self.addCleanup(watch.stop)
        outcomes = []
        for transaction in (put(b"one", value, Unchanged(b"one", 0)), Transaction((), tuple(most))):
            await store.read([])  # there is a connection: what is lost is the answer
            relay.lose = 1
            outcomes.append(await store.transact(transaction))
            self.assertEqual(relay.lose, 0)
        await eventually("all of it is seen", lambda: len(seen) >= 1 + OPERATIONS)
        self.assertEqual([outcome.succeeded for outcome in outcomes], [True, True])
        self.assertEqual([each.revision for each in seen], [outcomes[0].revision, *[outcomes[1].revision] * OPERATIONS])
        self.assertEqual((await self.store.read([b"one"])).entries[b"one"].value, value)

    async def away(self) -> tuple[Relay, Any, list[Event]]:
        """A watch that has seen one change, and sees no more."""
        relay = Relay(self, self.cluster.names[0])
        store = await self.opened("far", endpoints=[relay.endpoint])
        seen: list[Event] = []
        watch = store.watch(b"w/", (await store.read([])).revision, seen.extend)
        await self.store.transact(put(b"w/0", b""))
        await eventually("it is seen", lambda: seen)
        relay.close()
        for number in range(1, 10):
            await self.store.transact(put(b"w/%d" % number, b""))
        return relay, watch, seen

    @asynchronous
    async def test_history_that_is_compacted_while_a_watch_is_away_ends_it(self) -> None:
        relay, watch, seen = await self.away()
        await self.store.compact((await self.store.read([])).revision)
        relay.shut = False
        await self.assertFailure(watch.failed, Compacted)
        self.assertEqual([event.key for event in seen], [b"w/0"])

    @asynchronous
    async def test_history_that_it_has_seen_may_be_compacted_while_it_is_away(self) -> None:
        relay, watch, seen = await self.away()
        self.addCleanup(watch.stop)
        await self.store.compact(seen[0].revision)
        relay.shut = False
        await eventually("it has seen the rest", lambda: len(seen) >= 10)
        self.assertEqual([event.key for event in seen], [b"w/%d" % number for number in range(10)])


class FullTests(FaultCase):
    @asynchronous
    async def setUp(self) -> None:
        require("etcd")
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.cluster = Cluster(folder, NAMES[:1], {"quota-backend-bytes": str(16 * 2**20)})
        self.addCleanup(self.cluster.stop)
        self.cluster.start()
        self.prefix = "test"
        self.store = await self.opened()

    @asynchronous
    async def test_a_full_etcd_says_so_and_takes_writes_again_when_it_has_space(self) -> None:
        value = b"x" * VALUE_LIMIT_BYTES
        written: dict[bytes, int] = {}
        refused: dict[bytes, Unavailable] = {}
        for number in range(100):
            key = b"fill/%d" % number
            try:
                written[key] = (await self.store.transact(put(key, value))).revision
            except Unavailable as error:
                refused[key] = error
                if len(refused) == 3:
                    break
        for error in refused.values():
            self.assertNotIsInstance(error, Uncertain)
            self.assertIn("etcd is full", str(error))
            self.assertIn("etcdctl alarm disarm", str(error))
        kept = (await self.store.range(b"fill/")).entries
        self.assertEqual({entry.key: entry.revision for entry in kept}, written)
        await self.make_space(written)
        outcome = await self.store.transact(put(b"again", b"1"))
        self.assertTrue(outcome.succeeded)

    async def make_space(self, written: dict[bytes, int]) -> None:
        """As an operator does."""
        gateway = Gateway(reactor, self.cluster.endpoints, self.cluster.policy)
        self.addCleanup(lambda: ensureDeferred(gateway.close()))
        tls = self.cluster.certificates
        etcdctl = [
            require("etcdctl"),
            f"--endpoints={self.cluster.endpoints[0]}",
            f"--cacert={tls / 'ca.pem'}",
            f"--cert={tls / 'client.pem'}",
            f"--key={tls / 'client.key'}",
        ]
        for command in (
            ["del", "--prefix", f"{self.prefix}/data/fill/"],
            ["compaction", str(max(written.values()) + 1)],
            ["defrag"],
            ["alarm", "disarm"],
        ):
            said, errors, code = await getProcessOutputAndValue(
                etcdctl[0], [*etcdctl[1:], *command], {"ETCDCTL_API": "3"}
            )
            self.assertEqual(code, 0, said + errors)


class TrustTests(FaultCase):
    """What a node whose certificates are wrong says: one line for each member, and no traceback."""

    async def refused(self, policy: MutualTLS) -> list[str]:
        lines: list[str] = []

        def observe(event: Any) -> None:
            if event["log_level"] >= LogLevel.warn:
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        gateway = Gateway(reactor, self.cluster.endpoints, policy, patience_s=2)
        store = EtcdStore(reactor, gateway, prefix=self.prefix, node="other")
        await self.assertFailure(ensureDeferred(store.open()), Unavailable)
        await store.close()
        self.assertEqual(len(lines), len(self.cluster.endpoints), lines)
        return lines

    @asynchronous
    async def test_another_ca(self) -> None:
        other = Path(self.mktemp())
        found_members(other, {}, datetime.now(UTC))
        ours = self.cluster.policy
        ca = parse_certificates((other / "ca.pem").read_bytes(), "ca.pem")
        for line in await self.refused(MutualTLS(ca, ours.credential, time.time)):
            self.assertIn("its certificate is not signed by the CA of etcd", line)

    @asynchronous
    async def test_a_certificate_of_its_own_that_has_expired(self) -> None:
        other = Path(self.mktemp())
        other.mkdir(mode=0o700)
        for name in ("ca.pem", "ca.key"):
            shutil.copy(self.cluster.certificates / name, other / name)
        found_members(other, {}, datetime.now(UTC) - timedelta(days=800))
        policy = MutualTLS.load(other / "ca.pem", other / "client.pem", other / "client.key", time.time)
        for line in await self.refused(policy):
            self.assertIn("it does not take this side's certificate", line)

    @asynchronous
    async def test_time_that_goes_by_under_a_context_that_is_kept(self) -> None:
        at = time.time()
        ours = self.cluster.policy
        policy = MutualTLS(ours.ca, ours.credential, lambda: at)
        gateway = Gateway(reactor, self.cluster.endpoints, policy)
        self.assertTrue(await leader(self.cluster, gateway))
        await gateway.close()
        at += timedelta(days=3650).total_seconds()
        for line in await self.refused(policy):
            self.assertIn("or not valid now", line)
