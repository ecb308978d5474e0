"""The store on three real etcd members of which one dies, falls asleep or is cut off while it is at work."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred

from avinet.store.etcd.exchange import Lost
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.messages import Empty, StatusReply, decoded
from avinet.store.etcd.store import EtcdStore
from demo.members import Cluster
from tests.running import asynchronous, eventually
from tests.store.load import Load
from tests.store.test_etcd import EtcdCase

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


class KillTests(FaultCase):
    async def killed(self, at: str) -> None:
        victim, near, far = await self.place(at)
        loads = [Load(near, far), Load(far, near, place=b"far/")]
        for load in loads:
            await load.start()
        for load in loads:
            await load.goes_on()
        self.cluster.kill(victim)
        for load in loads:
            await load.goes_on()
        self.cluster.start(victim)
        for load in loads:
            await load.goes_on()
        await self.looked()
        for load in loads:
            await load.goes_on()
        for load in loads:
            await load.check(self)

    @asynchronous
    async def test_the_leader_is_killed(self) -> None:
        await self.killed("leader")

    @asynchronous
    async def test_a_follower_is_killed(self) -> None:
        await self.killed("follower")


class SleepTests(FaultCase):
    async def slept(self, at: str) -> None:
        """What it was asked before it fell asleep is still with it when it wakes up."""
        victim, near, far = await self.place(at)
        loads = [Load(near, far), Load(far, near, place=b"far/")]
        for load in loads:
            await load.start()
        for load in loads:
            await load.goes_on()
        for _ in range(2):
            self.cluster.pause(victim)
            for load in loads:
                await load.goes_on()
            self.cluster.go_on(victim)
            for load in loads:
                await load.goes_on()
        for load in loads:
            await load.check(self)

    @asynchronous
    async def test_the_leader_falls_asleep(self) -> None:
        await self.slept("leader")

    @asynchronous
    async def test_a_follower_falls_asleep(self) -> None:
        await self.slept("follower")
