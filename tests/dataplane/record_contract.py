"""What every data plane must write of each request and connection: one suite over real sockets, run against each."""

from __future__ import annotations

import socket
import time

from twisted.internet.threads import deferToThread

from avinet.wire.config import Config, HealthCheck, Pool, Server
from avinet.wire.log import HOSTILE_TEXT_BYTES, KEPT_TEXT_BYTES
from tests.dataplane.clients import request, talk
from tests.dataplane.planes import pool
from tests.dataplane.tls_client import TIMEOUT_S, ask_tls
from tests.running import asynchronous, eventually, free_port

INJECTION = b'","st":1,"s":"other","x":"'
HOSTILE = (
    b'"',
    b"\\",
    b'\\"',
    INJECTION,
    b"%[uuid()]'%{+Q}b",
    bytes(each for each in range(1, 32) if each not in b"\t\n\r") + b"\x7f",
    bytes(range(128, 256)),
    b"a\xff\xc3(\xe2\x82",
    b"\xc0\xaf\xe0\x80\xaf",
    b"\xed\xa0\x80\xed\xb0\x80\xed\xb0\x80x",
    "ä€😀\uffff\ufffe\u2028\u202e".encode(),
    b"\\ud800\\u0000\x1b[2J",
)


class RecordContract:
    """Mix into a `PlaneCase`."""

    @asynchronous
    async def test_the_record_of_a_request_says_all_of_it(self) -> None:
        port = await self.serve_web()
        agent = 'Mozilla/5.0 "q" \\ (KHTML, like Gecko) ä€'
        headers = (
            b"User-Agent: " + agent.encode(),
            b"Referer: http://referer.example/a?b=1,2",
            b"X-Request-ID: of the client",
        )
        body = b"x" * 5000
        began = time.time()
        client_port, answer = await talk(
            port, request(b"/a/b.html?x=1&y=%20?z", *headers, method=b"PUT", host=b"Shop.Example.NET:8080", body=body)
        )
        ended = time.time()
        found = await self.record()
        self.assertTrue(int(began * 1000) - 1 <= found.time <= ended * 1000 + 1, (began, found.time, ended))
        self.assertEqual((found.service, found.pool, found.server), ("web", "p", "a"))
        self.assertEqual((found.client, found.client_port), ("127.0.0.1", client_port))
        self.assertEqual((found.method, found.host, found.protocol), ("PUT", "shop.example.net", "HTTP/1.1"))
        self.assertEqual((found.path, found.query), ("/a/b.html", "x=1&y=%20?z"))
        self.assertEqual((found.status, found.termination, found.retries), (200, "--", 0))
        self.assertEqual((found.user_agent, found.referer), (agent, "http://referer.example/a?b=1,2"))
        self.assertEqual((found.server_queue, found.pool_queue), (0, 0))
        self.assertEqual((found.tls_version, found.tls_cipher, found.sni), ("", "", ""))
        self.assertTrue(5000 < found.bytes_in < 6000, found.bytes_in)
        self.assertTrue(len(answer) - 200 < found.bytes_out < len(answer) + 200, (len(answer), found.bytes_out))
        parts = (found.request_ms, found.queue_ms, found.connect_ms, found.response_ms)
        for each in parts:
            self.assertTrue(0 <= each <= found.total_ms + 2, found)
        self.assertTrue(sum(parts) - 4 <= found.total_ms <= (ended - began) * 1000 + 2, found)
        self.assertEqual(self.web.answers.request_ids, [[found.request_id]])

    @asynchronous
    async def test_each_request_of_a_connection_has_a_record_and_an_id_of_its_own_and_its_own_time(self) -> None:
        port = await self.serve_web()

        def opened() -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)

        client = await deferToThread(opened)
        self.addCleanup(client.close)
        await deferToThread(client.sendall, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await deferToThread(client.recv, 65536)
        await self.records(1)
        second = time.time()
        await deferToThread(client.sendall, b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        await deferToThread(client.recv, 65536)
        found = await self.records(2)
        self.assertEqual([each.path for each in found], ["/1", "/2"])
        self.assertEqual([[each.request_id] for each in found], self.web.answers.request_ids)
        self.assertEqual(len({each.request_id for each in found}), 2)
        self.assertGreaterEqual(found[1].time, int(second * 1000) - 1)
        self.assertTrue(0 < found[1].bytes_in < 100, found[1])

    @asynchronous
    async def test_the_record_of_a_request_that_no_server_took(self) -> None:
        port = await self.serve_web()
        await self.web.stop()
        await eventually("it is down", lambda: not self.up("a"))
        await talk(port, request(b"/x"))
        found = await self.record()
        self.assertEqual((found.pool, found.server, found.status, found.termination), ("p", "", 503, "SC"))
        self.assertEqual((found.queue_ms, found.connect_ms, found.response_ms), (-1, -1, -1))
        self.assertEqual((found.path, found.method), ("/x", "GET"))
        self.assertGreaterEqual(found.total_ms, 0)
        self.assertTrue(found.request_id)

    @asynchronous
    async def test_the_record_of_a_request_that_no_pool_is_for(self) -> None:
        a, port = self.server("a"), free_port()
        nowhere = [self.service(port, pool=None)]
        await self.serve(Config(virtual_services=nowhere, pools=[pool("p", a)]), "a")
        await talk(port, request())
        found = await self.record()
        self.assertEqual((found.pool, found.server, found.status, found.service), ("", "", 503, "web"))

    @asynchronous
    async def test_a_server_that_refuses_is_told_of_by_the_retries(self) -> None:
        """HAProxy writes a plus before their number, which is no JSON."""
        gone, a, port = self.server("gone"), self.server("a"), free_port()
        late = HealthCheck(kind="http", path="/", interval_ms=60_000, timeout_ms=500, rise=1, fall=10)
        servers = [Server(name=each.name, address="127.0.0.1", port=each.port) for each in (gone, a)]
        config = Config(
            virtual_services=[self.service(port)], pools=[Pool(name="p", servers=servers, health_check=late)]
        )
        await self.serve(config, "gone", "a")
        await gone.stop()
        for _ in range(2):
            await talk(port, request())
        found = await self.records(2)
        self.assertEqual([(each.server, each.status) for each in found], [("a", 200)] * 2)
        self.assertGreaterEqual(max(each.retries for each in found), 1)

    @asynchronous
    async def test_what_cannot_be_understood_has_a_record(self) -> None:
        port = await self.serve_web()
        await talk(port, b'no"sense\r\n\r\n')
        found = await self.record()
        self.assertEqual((found.service, found.status, found.termination), ("web", 400, "PR"))
        self.assertEqual((found.method, found.path, found.server), ("", "", ""))
        self.assertTrue(found.request_id)

    @asynchronous
    async def test_the_record_of_a_connection_of_a_tcp_service(self) -> None:
        port = await self.serve_web(mode="tcp")
        data = b"GET / HTTP/1.0\r\n\r\n"
        began = time.time()
        client_port, answer = await talk(port, data)
        ended = time.time()
        found = await self.record()
        self.assertTrue(int(began * 1000) - 1 <= found.time <= ended * 1000 + 1, (began, found.time, ended))
        self.assertEqual((found.service, found.pool, found.server), ("web", "p", "a"))
        self.assertEqual((found.client, found.client_port), ("127.0.0.1", client_port))
        self.assertEqual((found.status, found.termination, found.retries), (0, "--", 0))
        self.assertEqual((found.bytes_in, found.bytes_out), (len(data), len(answer)))
        for each in (found.queue_ms, found.connect_ms):
            self.assertTrue(0 <= each <= found.total_ms + 2, found)
        self.assertEqual((found.request_ms, found.response_ms), (-1, -1))
        texts = (found.method, found.host, found.path, found.query, found.protocol, found.user_agent, found.referer)
        self.assertEqual(set(texts), {""})
        self.assertTrue(found.request_id)

    @asynchronous
    async def test_the_record_of_a_connection_that_no_server_took(self) -> None:
        port = await self.serve_web(mode="tcp")
        await self.web.stop()
        await eventually("it is down", lambda: not self.up("a"))
        await talk(port, b"")
        found = await self.record()
        self.assertEqual((found.pool, found.server, found.status, found.termination), ("p", "", 0, "SC"))
        self.assertFalse(found.served)

    @asynchronous
    async def test_the_record_says_which_tls_was_spoken(self) -> None:
        for mode, count in (("http", 1), ("tcp", 2)):
            port = await self.serve_tls(mode=mode)
            await self.refused(port, self.client, "elsewhere.example")
            await ask_tls(port, "api.example", self.client)
            found = (await self.records(count))[-1]
            self.assertEqual(found.tls_version, "TLSv1.3")
            self.assertRegex(found.tls_cipher, r"\ATLS_(AES|CHACHA20)_\w+\Z")
            self.assertEqual((found.sni, found.status), ("api.example", 200 if mode == "http" else 0))
            await self.plane.apply(Config())

    @asynchronous
    async def test_what_cannot_be_understood_under_tls_has_a_record(self) -> None:
        port = await self.serve_tls("shop")
        answer = await ask_tls(port, "shop.example", self.client, "bad header")
        self.assertEqual(answer.status, 400)
        found = await self.record()
        self.assertEqual((found.status, found.termination, found.sni), (400, "PR", "shop.example"))

    @asynchronous
    async def test_no_value_is_more_than_a_value(self) -> None:
        port = await self.serve_web()
        sent = 0
        for each in HOSTILE:
            plain = each.decode("ascii", "ignore")
            for headers in ((b"User-Agent: x" + each + b"x",), (b"Referer: x" + each + b"x",)):
                _, answer = await talk(port, request(b"/p", *headers))
                sent += 1
                found = (await self.records(sent))[-1]
                self.assertEqual((found.service, found.status), ("web", int(answer.split()[1])))
                if found.status == 200:
                    self.assertEqual(found.path, "/p")
                    [text] = [each for each in (found.user_agent, found.referer) if each]
                    self.assertEqual(text.encode("ascii", "ignore").decode(), f"x{plain}x")
        self.assertEqual({each.service for each in await self.records(sent)}, {"web"})

    @asynchronous
    async def test_a_hostile_target_is_a_value_or_refused(self) -> None:
        port = await self.serve_web()
        targets = (
            b'/"\\?"\\',
            b"/" + INJECTION + b"?" + INJECTION,
            b"/%22%0a?%00",
            b"http://other.example/a?b",
            b"//x",
        )
        for sent, target in enumerate(targets, 1):
            await talk(port, request(target))
            found = (await self.records(sent))[-1]
            if found.status == 200:
                path, _, query = target.removeprefix(b"http://other.example").decode().partition("?")
                self.assertEqual((found.path, found.query), (path, query))

    @asynchronous
    async def test_long_texts_are_cut(self) -> None:
        port = await self.serve_web()
        long = b"a" * 8000
        for sent, each in enumerate(
            (
                request(b"/" + b"p" * 2500 + b"?" + b"q" * 2500, b"User-Agent: " + long),
                request(b"/", b"User-Agent: x", b"Referer: " + long),
                request(b"/", b"User-Agent: " + b'"' * 8000),
            ),
            1,
        ):
            await talk(port, each)
            await self.records(sent)
        first, second, third = await self.records(3)
        self.assertEqual((first.path, first.query), ("/" + "p" * (KEPT_TEXT_BYTES - 1), "q" * KEPT_TEXT_BYTES))
        self.assertEqual((first.user_agent, second.referer), ("a" * KEPT_TEXT_BYTES,) * 2)
        self.assertGreaterEqual(len(third.user_agent), HOSTILE_TEXT_BYTES)
        self.assertEqual(set(third.user_agent), {'"'})
