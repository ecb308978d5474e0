"""A look at three real etcd members, from the settings of a node: all of them up, and one after the other gone."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.files import private_folder
from avinet.store.etcd.examine import check_cluster
from avinet.store.etcd.exchange import Exchange
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.health import ClusterHealth
from avinet.store.etcd.members import MEMBER_LIFE, MutualTLS, found_members
from avinet.store.etcd.messages import Request
from avinet.store.etcd.moving import EtcdPlace
from avinet.store.etcd.store import EtcdStore
from avinet.trust.domain import found
from demo.members import Cluster
from tests.peers import require
from tests.running import asynchronous, eventually
from tests.store.contract import put


class _Raise(Request, frozen=True):
    """An alarm, as an operator would never raise it."""

    action: str
    memberID: int
    alarm: str


class ExamineTests(TestCase):
    @override
    def setUp(self) -> None:
        require("etcd")
        self.folder = private_folder(Path(self.mktemp()).absolute())
        self.cluster = Cluster(self.folder)
        self.cluster.start()
        self.addCleanup(self.cluster.stop)

    async def check(self, policy: MutualTLS | None = None, at: float | None = None) -> ClusterHealth:
        endpoints = self.cluster.endpoints
        policy = policy or self.cluster.policy
        return await check_cluster(reactor, endpoints, policy, "avinet/d1", at or time.time(), attempt_s=2.0)

    async def well(self) -> ClusterHealth:
        async def seen() -> ClusterHealth | None:
            health = await self.check()
            looked = all(each.expires is not None for each in health.endpoints)  # it may come up between two steps
            return health if looked and not health.faults else None

        return await eventually("all members are well", seen)

    def said(self, health: ClusterHealth) -> list[str]:
        return [f"{each.what}; {each.hint}" for each in health.faults]

    @asynchronous
    async def test_what_is_seen_of_members_that_are_well(self) -> None:
        health = await self.well()
        self.assertEqual((health.members, health.answering, health.quorum), (["etcd-1", "etcd-2", "etcd-3"], 3, 2))
        self.assertEqual([each.name for each in health.endpoints], health.members, "in the order of the settings")
        self.assertEqual([each.name for each in health.endpoints if each.leader], [health.leader])
        for each in health.endpoints:
            assert each.read_ms is not None
            assert each.write_ms is not None
            assert each.expires is not None
            self.assertTrue(0 < each.read_ms < 2000, each)
            self.assertTrue(0 < each.write_ms < 2000, each)
            self.assertTrue(0 < each.in_use <= each.size < each.quota, each)
            self.assertRegex(each.version, r"^3\.")
            self.assertLess(abs(each.expires - time.time() - MEMBER_LIFE.total_seconds()), 600)
        again = await self.check()
        self.assertEqual(
            {each.revision for each in [*health.endpoints, *again.endpoints]}, {1}, "looking changes nothing"
        )
        store = EtcdStore(
            reactor, Gateway(reactor, self.cluster.endpoints, self.cluster.policy), prefix="avinet/d1", node="node-1"
        )
        await store.open()
        for key in (b"a", b"b"):
            await store.transact(put(key, b""))
        await store.close()
        seen = await self.check()
        self.assertEqual((health.keys, health.state, seen.keys, seen.state), (0, "none", 2, "used"))

    @asynchronous
    async def test_members_take_certificates_that_were_renewed_without_a_start(self) -> None:
        await self.well()
        exchange = Exchange(reactor, self.cluster.policy, 2.0)
        self.addCleanup(lambda: ensureDeferred(exchange.close()))
        before = [(await exchange.chain(each))[0].serial_number for each in self.cluster.endpoints]
        members = {name: ["127.0.0.1", "localhost"] for name in self.cluster.names}
        made = found_members(self.cluster.certificates, members, datetime.now(UTC), renew=True)
        renewed = [each.certificate.serial_number for each in made if each.became == "renewed"]
        self.assertEqual(len(renewed), 3)
        after = [(await exchange.chain(each))[0].serial_number for each in self.cluster.endpoints]
        self.assertEqual((set(before) & set(after), sorted(after)), (set(), sorted(renewed)))
        await self.well()

    @asynchronous
    async def test_state_that_is_not_used_here_is_a_fault(self) -> None:
        await self.well()
        gateway = Gateway(reactor, self.cluster.endpoints, self.cluster.policy)
        place = EtcdPlace(reactor, gateway, "avinet/d1", "node-1", "a file")
        await place.begin(7)
        self.assertIn("a part only of the state", self.said(await self.check())[0])
        await place.arrived()
        self.assertEqual([(seen.state, seen.faults) for seen in [await self.check()]], [("arrived", [])])
        await place.leave(await place.revision())
        self.assertIn("has left etcd for a file; set engine", self.said(await self.check())[0])
        await place.store.close()

    @asynchronous
    async def test_without_one_member_and_without_two(self) -> None:
        await self.well()
        self.cluster.kill("etcd-3")

        async def two() -> str:
            found = "\n".join(self.said(await self.check()))
            return "" if "nothing can be changed" in found else found

        said = await eventually("the others have a leader", two)
        self.assertIn(f"etcd at {self.cluster.endpoints[2]}: Connection was refused", said)
        self.assertIn("member etcd-3 gave no answer", said)
        self.cluster.kill("etcd-2")

        async def alone() -> str:
            found = "\n".join(self.said(await self.check()))
            return found if "it knows no leader" in found else ""

        said = await eventually("the last one knows that it is alone", alone)
        self.assertIn("0 of 3 members take part, and 2 have to: nothing can be changed", said)
        self.cluster.kill("etcd-1")
        self.assertIn("no member of etcd answers", "\n".join(self.said(await self.check())))

    @asynchronous
    async def test_alarms_certificates_and_another_ca(self) -> None:
        health = await self.well()
        exchange = Exchange(reactor, self.cluster.policy, 2.0)
        self.addCleanup(lambda: ensureDeferred(exchange.close()))
        for action in ("ACTIVATE", "DEACTIVATE"):
            order = _Raise(action=action, memberID=int(health.endpoints[1].id, 16), alarm="NOSPACE")
            status, _ = await exchange.post(self.cluster.endpoints[0], "/v3/maintenance/alarm", order)
            self.assertEqual(status, 200)
            seen = await self.check()
            self.assertEqual(seen.alarms, ["etcd-2: NOSPACE"] if action == "ACTIVATE" else [])
            self.assertEqual(["NOSPACE; make room" in each for each in self.said(seen)], [True] * len(seen.alarms))
            self.assertEqual(seen.answering, 3)
        late = time.time() + MEMBER_LIFE.total_seconds() - 30 * 86400
        said = self.said(await self.check(at=late))
        self.assertEqual(len([each for each in said if "expires in" in each]), 4, "three members, and this node")
        other = self.folder / "other"
        found_members(other, {}, datetime.now(UTC))
        stranger = MutualTLS.load(other / "ca.pem", other / "client.pem", other / "client.key", time.time)
        said = self.said(await self.check(stranger))
        self.assertIn("its certificate is not signed by the CA of etcd", said[0])

    @asynchronous
    async def test_the_verb_says_it_and_ends_with_it(self) -> None:
        await self.well()
        found(self.folder / "state" / "trust", "node-1", datetime.now(UTC))
        settings = self.folder / "controller.toml"
        settings.write_text(f'state = "state"\n[store]\n{self.cluster.settings}\n')

        async def avictl(*more: str) -> tuple[str, int]:
            arguments = ["-m", "avinet.cli", "store", "check", "--config", str(settings), *more]
            out, err, code = await getProcessOutputAndValue(sys.executable, arguments, env=None)
            self.assertEqual(err, b"")
            return out.decode(), code

        out, code = await avictl()
        self.assertEqual(code, 0, out)
        self.assertRegex(out, r"store +etcd, 3 members; the leader is etcd-[123]\n")
        self.assertIn("ok   nothing is wrong", out)
        follower = next(name for name in self.cluster.names if f"the leader is {name}\n" not in out)
        self.cluster.kill(follower)
        (self.folder / "state" / "store.sqlite").write_bytes(b"")
        out, code = await avictl("--output", "json")
        health = json.loads(out)
        self.assertEqual((code, health["engine"], health["answering"], health["quorum"]), (1, "etcd", 2, 2))
        self.assertEqual(len(health["faults"]), 3)
        self.assertIn("store.sqlite is there too", health["faults"][-1]["what"])
