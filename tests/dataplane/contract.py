"""What every data plane must do: one suite over real sockets, run against each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory

from avinet.errors import Invalid, NotFound
from avinet.telemetry.reports import add_up
from avinet.wire.config import Config, HealthCheck, Pool, Route, Server, Tls, VirtualService
from avinet.wire.report import ServerTraffic, ServiceTraffic
from tests.dataplane.planes import CHECK, pool
from tests.dataplane.servers import Digest, ask, quiet, send_tcp
from tests.running import asynchronous, eventually, free_port


class DataplaneContract:
    """Mix into a `PlaneCase`."""

    @asynchronous
    async def test_requests_go_to_the_servers_of_the_pool_in_turn(self) -> None:
        a, b, port = self.server("a"), self.server("b"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a, b)]), "a", "b")
        names = await self.names(port, 10)
        self.assertEqual((names.count("a"), names.count("b")), (5, 5))

    @asynchronous
    async def test_weights_are_shares(self) -> None:
        a, b, c, port = self.server("a"), self.server("b"), self.server("c"), free_port()
        config = Config(virtual_services=[self.service(port)], pools=[pool("p", a, b, c, weights=(30, 10, 0))])
        await self.serve(config, "a", "b", "c")
        names = await self.names(port, 40)
        self.assertTrue(28 <= names.count("a") <= 32, names.count("a"))
        self.assertEqual(names.count("c"), 0)

    @asynchronous
    async def test_least_connections_serves(self) -> None:
        a, b, port = self.server("a"), self.server("b"), free_port()
        config = Config(virtual_services=[self.service(port)], pools=[pool("p", a, b, balance="least-connections")])
        await self.serve(config, "a", "b")
        self.assertEqual(set(await self.names(port, 6)), {"a", "b"})

    @asynchronous
    async def test_routes_by_host_and_path_the_first_that_matches(self) -> None:
        a, b, c, port = self.server("a"), self.server("b"), self.server("c"), free_port()
        routes = [
            Route(pool="pb", host="*.example.org"),
            Route(pool="pc", host="shop.example.net", path="/cart"),
            Route(pool="pb", path="/api"),
        ]
        config = Config(
            virtual_services=[self.service(port, pool="pa", routes=routes)],
            pools=[pool("pa", a), pool("pb", b), pool("pc", c)],
        )
        await self.serve(config, "a", "b", "c")
        for host, path, name in (
            ("www.example.org", "/", "b"),
            ("WWW.example.org:8080", "/", "b"),
            ("example.org", "/", "a"),
            ("shop.example.net", "/cart", "c"),
            ("shop.example.net", "/cart/1?x=/api", "c"),
            ("shop.example.net", "/cartoon", "a"),
            ("example.net", "/api/v1", "b"),
            ("example.net", "/apiary", "a"),
        ):
            self.assertEqual(await self.names(port, 1, path, host), [name], (host, path))

    @asynchronous
    async def test_no_pool_for_a_request_is_503(self) -> None:
        a, port = self.server("a"), free_port()
        routes = [Route(pool="p", path="/a")]
        await self.serve(
            Config(virtual_services=[self.service(port, pool=None, routes=routes)], pools=[pool("p", a)]), "a"
        )
        self.assertEqual((await ask(port, "/b"))[0], 503)
        self.assertEqual((await ask(port, "/a"))[0], 200)

    @asynchronous
    async def test_large_bodies_pass_both_ways_unchanged(self) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        body = bytes(range(256)) * 32768
        _, said = await ask(port, method="POST", body=body)
        self.assertEqual(said.split()[1].decode(), hashlib.sha256(body).hexdigest())
        _, big = await ask(port, f"/big/{8 * 1024 * 1024}")
        self.assertEqual(len(big), 8 * 1024 * 1024)

    @asynchronous
    async def test_the_server_is_told_who_asks(self) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        self.assertEqual((await ask(port))[1].split()[2], b"127.0.0.1")

    @asynchronous
    async def test_after_a_start_that_was_refused_another_configuration_runs(self) -> None:
        a, port = self.server("a"), free_port()
        taken = self.service(a.port)
        error = await self.assertFailure(
            ensureDeferred(self.plane.start(Config(virtual_services=[taken], pools=[pool("p", a)]))), Invalid
        )
        self.assertIn(str(a.port), str(error))
        await self.plane.apply(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]))
        await eventually("its server is up", lambda: self.up("a"))
        self.assertEqual(await self.names(port, 1), ["a"])

    @asynchronous
    async def test_tcp_with_half_close(self) -> None:
        listening = reactor.listenTCP(0, quiet(Factory.forProtocol(Digest)), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        port = free_port()
        servers = [Server(name="d", address="127.0.0.1", port=listening.getHost().port)]
        check = HealthCheck(interval_ms=100, timeout_ms=500, rise=1, fall=1)
        config = Config(
            virtual_services=[self.service(port, mode="tcp")],
            pools=[Pool(name="p", servers=servers, health_check=check)],
        )
        await self.serve(config, "d")
        data = b"half-close" * 300_000
        self.assertEqual(await send_tcp(port, data), hashlib.sha256(data).hexdigest().encode())

    @asynchronous
    async def test_a_server_that_dies_is_seen_at_once_and_left_out(self) -> None:
        a, b, port = self.server("a"), self.server("b"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a, b)]), "a", "b")
        changes: list[str] = []
        self.plane.changed = lambda: changes.append("changed")
        await a.stop()
        await eventually("a is down", lambda: not self.up("a"))
        self.assertTrue(changes)
        down = next(each for each in self.plane.health() if each.server == "a")
        self.assertTrue(down.why)
        self.assertEqual(set(await self.names(port, 6)), {"b"})
        a.start()
        await eventually("a is up again", lambda: self.up("a"))
        self.assertEqual(set(await self.names(port, 6)), {"a", "b"})

    @asynchronous
    async def test_traffic_is_counted_by_service_and_class(self) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        for path in ("/", "/", "/status/404", "/status/302"):
            await ask(port, path)
        seen: dict[str, int] = {}
        requests = latencies = 0

        async def counted() -> bool:
            nonlocal requests, latencies
            for each in await self.plane.traffic():
                requests += each.requests
                latencies += each.latency.count
                for kind, count in each.status.items():
                    seen[kind] = seen.get(kind, 0) + count
            return requests >= 4

        await eventually("four requests are counted", counted)
        self.assertEqual((requests, latencies), (4, 4))
        self.assertEqual(seen, {"2xx": 2, "3xx": 1, "4xx": 1})

    async def counted(self, done: Callable[[dict[tuple[str, str, str], ServerTraffic]], bool]) -> list[ServiceTraffic]:
        """The traffic from now on, added up, as soon as what its servers did is `done`."""
        total: list[ServiceTraffic] = []

        async def seen() -> bool:
            nonlocal total
            total = add_up(total, await self.plane.traffic())
            return done({(each.name, one.pool, one.server): one for each in total for one in each.servers})

        await eventually("it is counted", seen)
        return total

    @asynchronous
    async def test_traffic_is_counted_by_server_as_what_each_was_asked(self) -> None:
        a, b, port, second = self.server("a"), self.server("b"), free_port(), free_port()
        services = [
            self.service(port, pool="p", routes=[Route(pool="q", path="/status")]),
            VirtualService(name="other", address="127.0.0.1", port=second, pool="q"),
        ]
        pools = [pool("p", a, b, weights=(30, 10)), pool("q", b)]
        await self.plane.start(Config(virtual_services=services, pools=pools))
        await eventually("all are up", lambda: [each.state for each in self.plane.health()] == ["up"] * 3)
        await self.names(port, 12)
        for path in ("/status/404", "/status/503", "/status/503"):
            await ask(port, path)
        await ask(second, "/big/100000")
        total = await self.counted(lambda found: sum(each.requests for each in found.values()) == 16)
        by_service = {each.name: {(one.pool, one.server): one for one in each.servers} for each in total}
        web, other = by_service["web"], by_service["other"]
        self.assertEqual({key: one.requests for key, one in web.items()}, {("p", "a"): 9, ("p", "b"): 3, ("q", "b"): 3})
        self.assertEqual(web["q", "b"].status, {"4xx": 1, "5xx": 2})
        self.assertEqual({key: one.requests for key, one in other.items()}, {("q", "b"): 1})
        self.assertGreater(other["q", "b"].bytes_out, 100_000)
        self.assertGreater(web["p", "a"].new_connections, 0)
        for each in total:
            self.assertEqual(each.requests, sum(one.requests for one in each.servers))
            self.assertEqual(each.latency.count, sum(one.latency.count for one in each.servers))
            self.assertEqual(each.bytes_out, sum(one.bytes_out for one in each.servers))

    @asynchronous
    async def test_open_connections_to_a_server_are_told_and_so_is_their_end(self) -> None:
        listening = reactor.listenTCP(0, quiet(Factory.forProtocol(Digest)), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        port = free_port()
        servers = [Server(name="d", address="127.0.0.1", port=listening.getHost().port)]
        check = HealthCheck(interval_ms=100, timeout_ms=500, rise=1, fall=1)
        config = Config(
            virtual_services=[self.service(port, mode="tcp")],
            pools=[Pool(name="p", servers=servers, health_check=check)],
        )
        await self.serve(config, "d")
        client: Any = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(quiet(Factory.forProtocol(Digest)))
        client.transport.write(b"x" * 1000)
        one = ("web", "p", "d")
        await self.counted(lambda found: one in found and found[one].connections == 1)
        client.transport.loseConnection()
        total = await self.counted(
            lambda found: one in found and found[one].requests == 1 and not found[one].connections
        )
        (service,) = total
        self.assertEqual((service.requests, service.servers[0].requests, service.servers[0].unserved), (1, 1, 0))

    @asynchronous
    async def test_tcp_connections_that_no_server_takes_are_counted(self) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port, mode="tcp")], pools=[pool("p", a)]), "a")
        await send_tcp(port, b"GET / HTTP/1.0\r\n\r\n")
        counts = [0, 0]

        async def counted(requests: int) -> bool:
            for each in await self.plane.traffic():
                counts[0] += each.requests
                counts[1] += each.unserved
            return counts[0] >= requests

        await eventually("one is counted", lambda: counted(1))
        self.assertEqual(counts, [1, 0])
        await a.stop()
        await eventually("a is down", lambda: not self.up("a"))
        for _ in range(3):
            await send_tcp(port, b"GET / HTTP/1.0\r\n\r\n")
        await eventually("all are counted", lambda: counted(4))
        self.assertEqual(counts, [4, 3])

    @asynchronous
    async def test_a_port_that_is_taken_is_named_and_the_last_good_one_goes_on(self) -> None:
        a, port = self.server("a"), free_port()
        good = Config(virtual_services=[self.service(port)], pools=[pool("p", a)])
        await self.serve(good, "a")
        other = self.server("other")
        bad = Config(
            virtual_services=[
                self.service(port),
                VirtualService(name="new", address="127.0.0.1", port=other.port, pool="p"),
            ],
            pools=[pool("p", a)],
        )
        error = await self.assertFailure(ensureDeferred(self.plane.apply(bad)), Invalid)
        self.assertIn(f"127.0.0.1:{other.port}", str(error))
        self.assertEqual(await self.names(port, 2), ["a", "a"])
        await self.plane.apply(good)

    @asynchronous
    async def test_changes_under_load_lose_no_request(self) -> None:
        a, b, port, second = self.server("a"), self.server("b"), free_port(), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        stop = False
        statuses: list[int] = []

        async def load() -> None:
            while not stop:
                statuses.append((await ask(port))[0])

        running = [ensureDeferred(load()) for _ in range(4)]
        for round_ in range(3):
            more = VirtualService(name=f"more-{round_}", address="127.0.0.1", port=second, pool="p")
            await self.plane.apply(
                Config(virtual_services=[self.service(port), more], pools=[pool("p", a, b, weights=(1, 1 + round_))])
            )
        stop = True
        await gatherResults(running)
        self.assertEqual(set(statuses), {200})
        await eventually("b is up", lambda: self.up("b"))
        self.assertEqual((await ask(second))[0], 200)

    @asynchronous
    async def test_a_removed_service_listens_no_more(self) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        await self.plane.apply(Config(pools=[pool("p", a)]))

        async def refused() -> bool:
            try:
                await ask(port)
            except Exception:
                return True
            return False

        await eventually("the port is closed", refused)

    @asynchronous
    async def test_a_server_that_has_moved_is_found_at_its_new_port_alone(self) -> None:
        a, b, port = self.server("a"), self.server("b"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        moved = Server(name="a", address="127.0.0.1", port=b.port)
        config = Config(
            virtual_services=[self.service(port)], pools=[Pool(name="p", servers=[moved], health_check=CHECK)]
        )
        await self.plane.apply(config)
        self.assertEqual(await self.names(port, 2), ["b", "b"])
        nowhere = Server(name="a", address="127.0.0.1", port=free_port())
        pools = [Pool(name="p", servers=[nowhere], health_check=CHECK)]
        await self.plane.apply(Config(virtual_services=[self.service(port)], pools=pools))
        await eventually("it is down", lambda: [each.state for each in self.plane.health()] == ["down"])
        self.assertEqual((await ask(port))[0], 503)

    @asynchronous
    async def test_a_service_keeps_its_port_under_another_name(self) -> None:
        a, port = self.server("a"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        renamed = VirtualService(name="shop", address="127.0.0.1", port=port, pool="p")
        await self.plane.apply(Config(virtual_services=[renamed], pools=[pool("p", a)]))
        self.assertEqual(await self.names(port, 2), ["a", "a"])

    @asynchronous
    async def test_a_server_is_taken_out_and_back_by_hand(self) -> None:
        a, b, port = self.server("a"), self.server("b"), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a, b)]), "a", "b")
        await self.plane.set_server("p", "a", "drain")
        self.assertEqual(set(await self.names(port, 6)), {"b"})
        await self.plane.set_server("p", "a", "ready")
        self.assertEqual(set(await self.names(port, 6)), {"a", "b"})
        await self.assertFailure(ensureDeferred(self.plane.set_server("p", "nobody", "drain")), NotFound)

    @asynchronous
    async def test_a_certificate_that_is_not_held_is_named_and_the_last_good_one_goes_on(self) -> None:
        a, port, second = self.server("a"), free_port(), free_port()
        await self.serve(Config(virtual_services=[self.service(port)], pools=[pool("p", a)]), "a")
        tls = Tls(certificates=["nobody"])
        bad = Config(virtual_services=[self.service(port), self.service(second, tls=tls)], pools=[pool("p", a)])
        for change in (self.plane.check, self.plane.apply):
            error = await self.assertFailure(ensureDeferred(change(bad)), Invalid)
            self.assertIn("certificate nobody", str(error))
        self.assertEqual(await self.names(port, 2), ["a", "a"])

    @asynchronous
    async def test_an_empty_configuration_is_one(self) -> None:
        await self.plane.start(Config())
        self.assertEqual(list(self.plane.health()), [])
        self.assertEqual(list(await self.plane.traffic()), [])
        self.assertIn("engine", self.plane.describe())
