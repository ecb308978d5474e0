"""Virtual services with TLS from end to end: a certificate is put, served, replaced under traffic, kept without a node."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import threading
from pathlib import Path

from typing_extensions import override

from avinet.dataplane.key_files import own_name
from avinet.dataplane.master import installed
from avinet.trust.server_certificate import ServerCertificate
from demo.machine import free_ports
from tests.dataplane.tls_client import Open, context
from tests.integration.certificates import Desk, found_in
from tests.integration.node import NodeCase
from tests.integration.web import web_server
from tests.peers import missing


class Traffic:
    """Clients that make a connection for each request, until the end of the block; `failed` says what went wrong."""

    def __init__(self, port: int, name: str, made: ssl.SSLContext) -> None:
        self._port, self._name, self._made = port, name, made
        self._stop = False
        self.serials: list[int] = []
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(2)]

    def _run(self) -> None:
        while not self._stop:
            try:
                opened = Open(self._port, self._name, self._made)
                try:
                    answer = opened.request(self._name, close=True)
                finally:
                    opened.close()
            except OSError as error:
                self.failed.append(repr(error))
                continue
            if not answer.endswith(b"here"):
                self.failed.append(repr(answer))
            self.serials.append(opened.serial)

    def __enter__(self) -> Traffic:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop = True
        for each in self._threads:
            each.join()


class CertificateTests(NodeCase):
    """With the built-in proxy."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.desk = Desk(self.node.machine)
        self.client = context(self.desk.issuer)
        self.web = web_server(self)
        (self.port,) = free_ports(1)
        self.place = self.node.folder / "instances" / "se-1"
        self.keys = self.place / "keys" / own_name(self.place / "state" / "dataplane")

    def apply(self, *names: str) -> None:
        """A virtual service that serves these certificates, or none."""
        service = {"name": "web", "address": "127.0.0.1", "port": self.port, "pool": "p"}
        document = {
            "name": "web",
            "virtual_services": [{**service, "tls": {"certificates": names}} if names else service],
            "pools": [{"name": "p", "servers": [{"name": "s", "address": "127.0.0.1", "port": self.web.server_port}]}],
        }
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.node.machine.avictl("config", "apply", "-f", str(path))

    def shown(self, name: str) -> int | None:
        """The serial number of the certificate that is served for `name`; None while nothing answers."""
        try:
            opened = Open(self.port, name, self.client)
            opened.close()
        except OSError:
            return None
        return opened.serial

    def serves(self, certificate: ServerCertificate) -> None:
        """Wait until it is served for its first name."""
        name = certificate.names[0]
        self.node.machine.until(f"{name} is served", lambda: self.shown(name) == certificate.serial)

    def held(self, name: str) -> int:
        """By how many a certificate is held, by their word."""
        return int(self.node.machine.asked("certificate", "show", name).get("held", 0))

    def begin(self) -> tuple[ServerCertificate, ServerCertificate]:
        """A service engine that serves two certificates."""
        shop, api = self.desk.put("shop", "shop.example"), self.desk.put("api", "api.example", "*.api.example")
        self.apply("shop", "api")
        self.node.machine.avictl("se", "create", "se-1")
        self.serves(shop)
        self.serves(api)
        return shop, api

    def running(self, *words: str) -> list[int]:
        """The processes of the service engine whose command lines have all of `words`."""
        found = []
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (place / "cmdline").read_bytes().decode(errors="replace")
                    if str(self.place) in line and all(word in line for word in words) and "/bin/sh" not in line:
                        found.append(int(place.name))
        return found

    def test_a_certificate_is_replaced_under_traffic_and_no_request_fails(self) -> None:
        shop, _ = self.begin()
        balancers = self.running("haproxy")
        with Traffic(self.port, "shop.example", self.client) as traffic:
            self.node.machine.until("there is traffic", lambda: len(traffic.serials) > 10)
            after = self.desk.put("shop", "shop.example")
            self.node.machine.until("the new one is served", lambda: after.serial in traffic.serials)
            count = len(traffic.serials)
            self.node.machine.until("there is more traffic", lambda: len(traffic.serials) > count + 20)
        self.assertEqual(traffic.failed, [])
        self.assertEqual(set(traffic.serials), {shop.serial, after.serial})
        self.assertEqual(traffic.serials[-1], after.serial)
        self.assertEqual(self.running("haproxy"), balancers)
        self.node.machine.until("the node knows that it is held", lambda: self.held("shop") == 1)
        self.look_for_keys()

    def look_for_keys(self) -> None:
        """No private key is anywhere but where HAProxy reads it, and in the operator's own files."""
        found = {name for name in found_in(self.node.folder, self.desk.secrets) if not name.endswith("-key.pem")}
        read = [self.keys / f"{name}.pem" for name in ("shop", "api")] if self.engine == "haproxy" else []
        self.assertEqual(found, {path.relative_to(self.node.folder).as_posix() for path in read})
        self.assertEqual({path.stat().st_mode & 0o777 for path in read} | {0o600}, {0o600})

    def test_without_a_node_it_serves_after_a_reboot_too(self) -> None:
        shop, api = self.begin()
        self.node.machine.until("it is acknowledged", lambda: self.held("api") == 1)
        self.node.machine.kill("controller")
        self.reboot()
        self.serves(shop)
        self.serves(api)
        self.node.start_controller()
        self.node.machine.until("it is back", lambda: self.node.connected("se-1"))
        self.assertEqual((self.held("shop"), self.held("api")), (1, 1))

    def reboot(self) -> None:
        """All its processes end at once, and what was in memory is gone; its service manager starts it again."""
        shutil.rmtree(self.place / "keys", ignore_errors=True)
        for process in self.running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def test_what_no_configuration_names_is_held_no_more_and_comes_back_with_it(self) -> None:
        shop, api = self.begin()
        self.apply("api")
        self.node.machine.until("shop is held no more", lambda: self.held("shop") == 0)
        file = self.keys / "shop.pem"
        self.node.machine.until("there is no file of it", lambda: not file.exists())
        self.apply("api", "shop")
        self.serves(shop)
        self.serves(api)
        self.node.machine.avictl("se", "delete", "se-1", "--yes")
        self.assertFalse(self.place.exists())


class HAProxyCertificateTests(CertificateTests):
    """With HAProxy: no process of it ends when a certificate is replaced."""

    engine = "haproxy"

    @override
    def setUp(self) -> None:
        if installed() is None:
            missing("HAProxy 2.6 or newer is not installed")
        super().setUp()
