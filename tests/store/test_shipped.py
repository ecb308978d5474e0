"""The configuration of etcd that comes with avinet: three members start with it, and serve nobody without a certificate."""

from __future__ import annotations

import configparser
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import yaml
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from avinet.files import private_folder
from avinet.store.etcd.examine import check_cluster
from avinet.store.etcd.gateway import Gateway, refused
from avinet.store.etcd.health import ClusterHealth
from avinet.store.etcd.members import found_members
from avinet.store.etcd.store import EtcdStore
from avinet.store.interface import TRANSACTION_LIMIT_BYTES, VALUE_LIMIT_BYTES, Put, Transaction
from demo.members import Cluster
from tests.docs.reading import ROOT
from tests.peers import require
from tests.running import asynchronous, eventually

SHIPPED = (ROOT / "etc" / "etcd.yaml").read_text("utf-8")


class Shipped(Cluster):
    """Members that are configured by the file, with other ports and folders."""

    begins = "new"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        found_members(self.certificates, {}, datetime.now(UTC))

    @override
    def _command(self, name: str) -> list[str]:
        own = self.names.index(name)
        text = SHIPPED
        for number, each in enumerate(self.names):
            address = f"10.0.0.1{number + 1}"
            for port, ports in ((2380, self._peers), (2379, self._clients)):
                text = text.replace(f"{address}:{port}", f"127.0.0.1:{ports[each]}")
        mine = text.partition("initial-cluster: ")
        cluster, line, rest = mine[2].partition("\n")
        for ports in (self._peers, self._clients):  # all the others are of the member that the file is of
            rest = rest.replace(f":{ports[self.names[0]]}", f":{ports[name]}")
        head = mine[0].replace("name: etcd-1", f"name: {name}").replace("/var/lib/avi-etcd", str(self.folder / name))
        rest = rest.replace(",https://127.0.0.1:2379", "").replace("etcd-1.", f"etcd-{own + 1}.")
        rest = rest.replace("/etc/avinet/etcd", str(self.certificates))
        path = self.folder / f"{name}.yaml"
        whole = f"{head}{mine[1]}{cluster}{line}{rest}"
        path.write_text(whole.replace("cluster-state: new", f"cluster-state: {self.begins}"))
        return ["etcd", "--config-file", str(path)]


class ConfigurationTests(TestCase):
    @asynchronous
    async def test_three_members_start_with_it_and_take_what_a_node_writes(self) -> None:
        require("etcd")
        folder = private_folder(Path(self.mktemp()).absolute())
        cluster = Shipped(folder)
        cluster.start()
        self.addCleanup(cluster.stop)
        gateway = Gateway(reactor, cluster.endpoints, cluster.policy, patience_s=30)
        store = EtcdStore(reactor, gateway, prefix="avinet/d1", node="node-1")
        self.addCleanup(lambda: ensureDeferred(store.close()))
        await store.open()
        half = TRANSACTION_LIMIT_BYTES // 2 - 1000
        largest = tuple(Put(b"large-%d" % at, bytes([at]) * min(VALUE_LIMIT_BYTES, half)) for at in range(2))
        many = tuple(Put(b"small-%d" % at, b"x") for at in range(62))
        self.assertTrue((await store.transact(Transaction((), (*largest, *many)))).succeeded)
        self.assertEqual((await store.read([b"large-1"])).entries[b"large-1"].value, largest[1].value)
        unknown = ssl.create_default_context(cafile=str(cluster.certificates / "ca.pem"))
        with self.assertRaises((urllib.error.URLError, ssl.SSLError, OSError)):
            urllib.request.urlopen(f"{cluster.endpoints[0]}/health", context=unknown, timeout=10)

    @asynchronous
    async def test_a_member_that_is_lost_for_good_is_replaced(self) -> None:
        require("etcd")
        folder = private_folder(Path(self.mktemp()).absolute())
        cluster = Shipped(folder)
        cluster.start()
        self.addCleanup(cluster.stop)

        async def well() -> ClusterHealth | None:
            health = await check_cluster(
                reactor, cluster.endpoints, cluster.policy, "avinet/d1", time.time(), attempt_s=2.0
            )
            # A member says its name some time after it answers; until then it is called by its id.
            named = {each.name for each in health.endpoints} == set(cluster.names)
            return health if named and not health.faults else None

        lost = next(each for each in (await eventually("all are well", well)).endpoints if each.name == "etcd-3")
        cluster.kill("etcd-3")
        shutil.rmtree(folder / "etcd-3")
        tls = cluster.certificates
        environment = {
            **os.environ,
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": ",".join(cluster.endpoints[:2]),
            "ETCDCTL_CACERT": str(tls / "ca.pem"),
            "ETCDCTL_CERT": str(tls / "client.pem"),
            "ETCDCTL_KEY": str(tls / "client.key"),
        }
        peer = f"https://127.0.0.1:{cluster._peers['etcd-3']}"

        async def etcdctl(*arguments: str) -> bool:
            ended = await getProcessOutputAndValue(require("etcdctl"), ["member", *arguments], env=environment)
            return ended[2] == 0

        async def removed() -> bool:  # not while there is no leader
            return await etcdctl("remove", lost.id)

        async def added() -> bool:  # not before the two have seen each other for a while
            return await etcdctl("add", "etcd-3", f"--peer-urls={peer}")

        await eventually("it is removed", removed)
        await eventually("another one is added", added)
        cluster.begins = "existing"
        cluster.start("etcd-3")
        health = await eventually("all are well again", well)
        self.assertNotEqual(next(each.id for each in health.endpoints if each.name == "etcd-3"), lost.id)

    def test_it_has_the_gateway_which_a_file_leaves_out_and_its_absence_is_named(self) -> None:
        self.assertTrue(yaml.safe_load(SHIPPED)["enable-grpc-gateway"])
        missing = refused("https://10.0.0.11:2379", 404, b"404 page not found\n")
        self.assertIn("enable-grpc-gateway is not on there", str(missing))

    def test_its_times_fit_and_both_doors_ask_for_certificates(self) -> None:
        said = yaml.safe_load(SHIPPED)
        self.assertEqual(said["election-timeout"], 10 * said["heartbeat-interval"])
        for door in ("client", "peer"):
            self.assertTrue(said[f"{door}-transport-security"]["client-cert-auth"])
        self.assertEqual(len(said["initial-cluster"].split(",")), 3)


class UnitTests(SynchronousTestCase):
    def test_the_unit_starts_etcd_with_the_file_where_its_data_may_be(self) -> None:
        unit = configparser.ConfigParser(strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(ROOT / "etc" / "systemd" / "avi-etcd.service")
        service = unit["Service"]
        self.assertEqual(service["ExecStart"], "/usr/bin/etcd --config-file /etc/avinet/etcd.yaml")
        self.assertTrue(yaml.safe_load(SHIPPED)["data-dir"].startswith(f"/var/lib/{service['StateDirectory']}/"))
