"""The record that the built-in proxy makes of a request in memory: when what happened, who ended it, and exactly one."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from avinet.dataplane.http_proxy import ANSWER_S, IDLE_S
from avinet.dataplane.records import Record
from tests.dataplane.test_http_proxy import GET, OK, Case

POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"


class RecordTests(Case):
    def record(self) -> Record:
        [found] = self.records
        return found

    def ended(self) -> tuple[int, str]:
        """The status and how it ended, of the one record, which was counted as one."""
        found = self.record()
        taken = self.counter.take()
        assert taken is not None
        self.assertEqual(taken.requests, 1)
        return found.status, found.termination

    def test_its_times(self) -> None:
        self.clock.advance(30)
        self.front.dataReceived(GET[:5])
        self.clock.advance(0.1)
        self.servers.ready = Deferred()
        self.front.dataReceived(GET[5:])
        self.clock.advance(0.02)
        self.servers.ready.callback(None)
        self.clock.advance(0.003)
        self.back.dataReceived(OK[:-1])
        self.clock.advance(0.4)
        self.back.dataReceived(OK[-1:])
        found = self.record()
        self.assertEqual(found.time, 30_100)
        self.assertEqual((found.request_ms, found.queue_ms, found.connect_ms), (100, 0, 20))
        self.assertEqual((found.response_ms, found.total_ms), (3, 523))
        self.assertEqual((found.bytes_in, found.bytes_out), (len(GET), len(self.client.value())))
        self.assertEqual((found.client, found.client_port), ("192.0.2.7", 4000))

    def test_what_comes_together_is_counted_to_the_request_that_it_is_of(self) -> None:
        second = b"GET /longer/than/the/first HTTP/1.1\r\nHost: x\r\n\r\n"
        self.front.dataReceived(GET + second)
        self.clock.advance(2)
        self.back.dataReceived(OK)
        self.clock.advance(1)
        self.back.dataReceived(OK)
        self.assertEqual([each.bytes_in for each in self.records], [len(GET), len(second)])
        self.assertEqual([each.total_ms for each in self.records], [2000, 1000])
        self.assertEqual(sum(each.bytes_out for each in self.records), len(self.client.value()))

    def test_an_id_of_the_client_is_not_taken(self) -> None:
        sent, _ = self.exchange(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nx-request-id: again\r\n\r\n")
        self.assertEqual(self.head(sent)[1][b"x-request-id"].decode(), self.record().request_id)

    def test_a_request_that_a_server_has_answered(self) -> None:
        self.exchange()
        self.assertEqual(self.ended(), (200, "--"))
        self.leave()
        self.assertEqual(len(self.records), 1)

    def test_no_server(self) -> None:
        self.servers.away = True
        self.front.dataReceived(GET)
        self.assertEqual(self.ended(), (503, "SC"))
        found = self.record()
        self.assertEqual((found.pool, found.server, found.retries), ("p", "", 0))
        self.assertEqual((found.queue_ms, found.connect_ms, found.response_ms), (-1, -1, -1))

    def test_what_the_proxy_refuses(self) -> None:
        for data, status, how in (
            (b"nonsense\r\n\r\n", 400, "PR"),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405, "PC"),
            (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "PH"),
        ):
            self.again()
            self.front.dataReceived(data)
            self.assertEqual(self.ended(), (status, how))
            self.assertEqual(self.record().bytes_out, len(self.client.value()))

    def test_a_server_that_fails(self) -> None:
        for answer, lost, status, how in (
            (b"", ConnectionDone(), 502, "SH"),
            (b"", ConnectionLost(), 502, "SH"),
            (OK[:-1], ConnectionDone(), 200, "SD"),
            (OK[:-1], ConnectionLost(), 200, "SD"),
            (b"SSH-2.0-x\r\n\r\n", None, 502, "PH"),
        ):
            self.again()
            self.front.dataReceived(GET)
            if answer:
                self.back.dataReceived(answer)
            if lost is not None:
                self.back.connectionLost(Failure(lost))
            self.assertEqual(self.ended(), (status, how), (answer, lost))

    def test_a_server_that_is_late(self) -> None:
        for answer, status, how in ((b"", 504, "sH"), (OK[:-1], 200, "sD")):
            self.again()
            self.front.dataReceived(GET)
            if answer:
                self.back.dataReceived(answer)
            self.clock.advance(ANSWER_S)
            self.assertEqual(self.ended(), (status, how))

    def test_a_client_that_leaves(self) -> None:
        def head() -> None:
            self.front.dataReceived(GET[:-2])

        def dialled() -> None:
            self.servers.ready = Deferred()
            self.front.dataReceived(GET)

        def body() -> None:
            self.front.dataReceived(POST + b"abc")

        def answer() -> None:
            self.front.dataReceived(GET)
            self.back.dataReceived(OK[:-1])

        states: tuple[tuple[Any, int, str], ...] = (
            (head, -1, "CR"),
            (dialled, -1, "CC"),
            (body, -1, "CH"),
            (answer, 200, "CD"),
        )
        for state, status, how in states:
            self.again()
            state()
            self.leave()
            if self.servers.ready is not None:
                self.servers.ready.callback(None)
            self.assertEqual(self.ended(), (status, how), state)

    def test_a_client_that_is_late(self) -> None:
        self.front.dataReceived(GET[:-2])
        self.clock.advance(IDLE_S)
        self.leave()
        self.assertEqual(self.ended(), (-1, "cR"))

    def test_a_connection_that_asks_for_nothing_has_none(self) -> None:
        self.leave()
        self.assertEqual(self.records, [])
        self.again()
        self.exchange()
        self.clock.advance(IDLE_S)
        self.leave()
        self.assertEqual(len(self.records), 1)

    def test_what_comes_after_an_answer_that_was_early_is_no_request(self) -> None:
        self.front.dataReceived(POST + b"abc")
        self.back.dataReceived(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        self.front.dataReceived(b"def" + GET)
        self.leave()
        self.assertEqual(self.ended(), (413, "--"))
