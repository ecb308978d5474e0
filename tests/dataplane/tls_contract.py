"""What every data plane must do where TLS ends at it: one suite with real clients, run against each."""

from __future__ import annotations

import hashlib
import ssl

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from avinet.errors import Invalid
from avinet.wire.config import Config, HealthCheck, Pool, Server
from tests.dataplane.planes import pool
from tests.dataplane.servers import ask, quiet
from tests.dataplane.tls_client import ask_tls, connect_tls, context
from tests.issuing import Issuer, rsa_key
from tests.running import asynchronous, eventually, free_port

TCP_CHECK = HealthCheck(interval_ms=100, timeout_ms=500, rise=1, fall=1)


class Echo(Protocol):
    """Sends back what comes; ends at a line `end`."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)
        if data.endswith(b"end\n"):
            self.transport.loseConnection()


class TLSContract:
    """Mix into a `PlaneCase`."""

    @asynchronous
    async def test_the_certificate_is_that_of_the_name_that_is_asked_for(self) -> None:
        port = await self.serve_tls()
        shop, api = self.certificates["shop"].serial, self.certificates["api"].serial
        self.assertEqual(await self.serial(port, "shop.example"), shop)
        self.assertEqual(await self.serial(port, "api.example"), api)
        self.assertEqual(await self.serial(port, "API.example"), api)
        self.assertEqual(await self.serial(port, "v1.api.example"), api)

    @asynchronous
    async def test_the_first_certificate_is_for_every_other_name_and_for_none(self) -> None:
        port = await self.serve_tls()
        shop = self.certificates["shop"].serial
        for name in ("elsewhere.example", "a.b.api.example", None):
            self.assertEqual(await self.serial(port, name, verify=False), shop, name)

    @asynchronous
    async def test_a_client_that_knows_the_root_alone_believes_the_chain(self) -> None:
        port = await self.serve_tls("api")
        self.assertEqual((await ask_tls(port, "api.example", self.client)).status, 200)
        await self.refused(port, context(Issuer("Another CA")), "api.example")

    @asynchronous
    async def test_large_bodies_pass_both_ways_under_tls_unchanged(self) -> None:
        port = await self.serve_tls()
        opened = self.put_away(await connect_tls(port, "shop.example", self.client))
        body = bytes(range(256)) * 16384
        said = await deferToThread(opened.request, "shop.example", body=body)
        self.assertEqual(said.partition(b"\r\n\r\n")[2].split()[1].decode(), hashlib.sha256(body).hexdigest())
        big = await deferToThread(opened.request, "shop.example", path=f"/big/{4 * 1024 * 1024}")
        self.assertEqual(big.partition(b"\r\n\r\n")[2], b"x" * 4 * 1024 * 1024)

    @asynchronous
    async def test_older_versions_than_the_minimum_are_refused(self) -> None:
        port = await self.serve_tls(minimum="1.2")
        old = {"minimum_version": ssl.TLSVersion.TLSv1_1, "maximum_version": ssl.TLSVersion.TLSv1_1}
        await self.refused(port, context(self.issuer, **old))
        middle = {"maximum_version": ssl.TLSVersion.TLSv1_2}
        self.assertEqual((await ask_tls(port, "shop.example", context(self.issuer, **middle))).version, "TLSv1.2")
        self.assertEqual((await ask_tls(port, "shop.example", self.client)).version, "TLSv1.3")
        await self.plane.apply(
            Config(virtual_services=[self.secured(port, minimum="1.3")], pools=[pool("p", self.web)])
        )
        await self.refused(port, context(self.issuer, **middle))
        self.assertEqual((await ask_tls(port, "shop.example", self.client)).version, "TLSv1.3")

    @asynchronous
    async def test_another_certificate_is_served_to_new_connections_and_open_ones_go_on(self) -> None:
        port = await self.serve_tls()
        opened = self.put_away(await connect_tls(port, "shop.example", self.client))
        before, after = self.certificates["shop"].serial, self.issuer.serve("shop.example", "new.example")
        await self.plane.take_certificate("shop", after)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)
        self.assertEqual(await self.serial(port, "new.example"), after.serial)
        self.assertEqual(await self.serial(port, None, verify=False), after.serial)
        answer = await deferToThread(opened.request, "shop.example")
        self.assertEqual((opened.serial, answer.split()[1]), (before, b"200"))

    @asynchronous
    async def test_a_key_of_another_kind_takes_the_place_of_one(self) -> None:
        port = await self.serve_tls()
        after = self.issuer.serve("api.example")
        await self.plane.take_certificate("api", after)
        self.assertEqual(await self.serial(port, "api.example"), after.serial)
        shop = self.issuer.serve("shop.example", key=rsa_key())
        await self.plane.take_certificate("shop", shop)
        self.assertEqual(await self.serial(port, "shop.example"), shop.serial)

    @asynchronous
    async def test_certificates_are_exchanged_under_load_and_no_request_fails(self) -> None:
        port = await self.serve_tls()
        stop, statuses, serials = False, list[int](), set[int]()

        async def load(name: str) -> None:
            while not stop:
                seen = await ask_tls(port, name, self.client)
                statuses.append(seen.status)
                serials.add(seen.serial)

        running = [ensureDeferred(load(name)) for name in ("shop.example", "api.example")]
        for each in [self.issuer.serve("shop.example") for _ in range(5)]:
            await self.plane.take_certificate("shop", each)
            await eventually("it is seen", lambda each=each: each.serial in serials)
        stop = True
        await gatherResults(running)
        self.assertEqual(set(statuses), {200})

    @asynchronous
    async def test_a_certificate_that_is_not_served_yet_is_there_for_the_next_configuration(self) -> None:
        port = await self.serve_tls("shop")
        more = self.issuer.serve("more.example")
        await self.plane.take_certificate("more", more)
        config = Config(virtual_services=[self.secured(port, "shop", "more")], pools=[pool("p", self.web)])
        await self.plane.check(config)
        await self.plane.apply(config)
        self.assertEqual(await self.serial(port, "more.example"), more.serial)

    @asynchronous
    async def test_the_order_of_certificates_may_change(self) -> None:
        port = await self.serve_tls("shop", "api")
        await self.plane.apply(
            Config(virtual_services=[self.secured(port, "api", "shop")], pools=[pool("p", self.web)])
        )
        self.assertEqual(await self.serial(port, None, verify=False), self.certificates["api"].serial)

    @asynchronous
    async def test_a_certificate_that_was_dropped_is_one_that_is_not_held(self) -> None:
        port = await self.serve_tls("shop")
        self.plane.drop_certificate("api")
        bad = Config(virtual_services=[self.secured(port, "shop", "api")], pools=[pool("p", self.web)])
        error = await self.assertFailure(ensureDeferred(self.plane.apply(bad)), Invalid)
        self.assertIn("names certificate api", str(error))
        self.assertEqual(await self.serial(port, "shop.example"), self.certificates["shop"].serial)

    @asynchronous
    async def test_a_port_changes_between_plain_and_tls_and_between_modes(self) -> None:
        port = await self.serve_tls("shop")
        pools = [pool("p", self.web)]
        await self.plane.apply(Config(virtual_services=[self.service(port)], pools=pools))
        self.assertEqual(await self.names(port, 1), ["a"])
        await self.plane.apply(Config(virtual_services=[self.service(port, mode="tcp")], pools=pools))
        await eventually("its server is up", lambda: self.up("a"))
        self.assertEqual(await self.names(port, 1), ["a"])
        await self.plane.apply(Config(virtual_services=[self.secured(port, "shop", mode="tcp")], pools=pools))
        await eventually("its server is up", lambda: self.up("a"))
        self.assertEqual(await self.serial(port, "shop.example"), self.certificates["shop"].serial)

    @asynchronous
    async def test_servers_are_told_that_the_client_has_come_by_tls_whatever_it_says(self) -> None:
        port = await self.serve_tls()
        seen = await ask_tls(port, "shop.example", self.client, "X-Forwarded-Proto: http")
        self.assertEqual(seen.body[2:], ["127.0.0.1", "https"])

    @asynchronous
    async def test_http_1_1_is_offered_by_alpn(self) -> None:
        port = await self.serve_tls()
        seen = await ask_tls(port, "shop.example", context(self.issuer, protocols=["http/1.1"]))
        self.assertEqual((seen.protocol, seen.status), ("http/1.1", 200))

    @asynchronous
    async def test_tcp_under_tls(self) -> None:
        listening = reactor.listenTCP(0, quiet(Factory.forProtocol(Echo)), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        port = free_port()
        servers = [Server(name="e", address="127.0.0.1", port=listening.getHost().port)]
        config = Config(
            virtual_services=[self.secured(port, mode="tcp")],
            pools=[Pool(name="p", servers=servers, health_check=TCP_CHECK)],
        )
        await self.serve(config, "e")
        opened = self.put_away(await connect_tls(port, "api.example", self.client))
        self.assertEqual(opened.serial, self.certificates["api"].serial)
        data = bytes(range(256)) * 4096
        self.assertEqual(await deferToThread(opened.exchange, data), data)
        after = self.issuer.serve("api.example")
        await self.plane.take_certificate("api", after)
        second = self.put_away(await connect_tls(port, "api.example", self.client))
        self.assertEqual(second.serial, after.serial)
        self.assertEqual(await deferToThread(opened.exchange, b"the old one goes on\n"), b"the old one goes on\n")
        self.assertEqual(await deferToThread(opened.exchange, b"end\n"), b"end\n")
        self.assertEqual(await deferToThread(opened.tls.recv, 1), b"")

    @asynchronous
    async def test_requests_are_counted_and_a_handshake_that_fails_is_none_and_loses_no_record(self) -> None:
        port = await self.serve_tls()
        await self.refused(port, context(Issuer("Another CA")))
        await self.assertFailure(ensureDeferred(ask(port)), Exception)
        for _ in range(3):
            await ask_tls(port, "shop.example", self.client)
        requests, lost = 0, 0

        async def counted() -> bool:
            nonlocal requests, lost
            requests += sum(each.status.get("2xx", 0) for each in await self.plane.traffic())
            lost += self.plane.lost_records()
            return requests >= 3

        await eventually("three requests are counted", counted)
        self.assertEqual((requests, lost), (3, 0))
