"""The `logs` service: every byte of a segment once, from any byte on, and nothing changes without a signature."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.errors import AvinetError, Gone, Invalid, LocalError, NotFound, PeerError, Unauthenticated
from avinet.logs.spool.settings import SpoolSettings
from avinet.rest.client import Answer, Client
from avinet.rest.door import Door
from avinet.rest.route import Request
from avinet.rest.table import Table
from avinet.se import logs
from avinet.se.logs import LogService, log_routes
from avinet.wire.pull import Acknowledged, Acknowledgement, SealedThrough, SegmentPage, Vouched
from avinet.wire.segment import Manifest
from tests.logs.spooling import Spooling, T, at_once, lines
from tests.rest.test_door import Endpoint, Network


class Trust:
    """Believes who says so."""

    def check(self, request: Request) -> str:
        if "by-a-node" not in request.headers:
            raise Unauthenticated("it is not signed")
        return "node-1"


class Stuck(StringTransport):
    """Its peer takes nothing: whoever writes is to wait."""

    @override
    def write(self, data: bytes) -> None:
        super().write(data)
        if self.producer is not None:
            self.producer.pauseProducing()


class LogCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.tasks = Clock(), Tasks()
        self.addCleanup(self.tasks.stop)
        self.spooling = Spooling(
            Path(self.mktemp()).absolute() / "logs", settings=SpoolSettings(segment_rows=100), clock=self.clock
        )
        self.addCleanup(self.spooling.kill)
        self.kept: Any = self.spooling.spool
        self.service = LogService(lambda: self.kept, Trust(), at_once)
        self.door = Door(self.clock, Table(log_routes(self.service)), tasks=self.tasks)
        self.network = Network(self.clock, self.door)
        self.client = Client(self.clock, Endpoint(self.network), authority="logs", where="service engine se-1")

    def asking(self, method: str, path: str, body: Any = b"", **headers: str) -> Deferred[Answer]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = as_deferred(self.client.request(method, path, body, headers=named, timeout_s=500, limit_bytes=10**8))
        self.network.pump()
        return asked

    def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        return self.successResultOf(self.asking(method, path, body, **headers))

    def refused(self, kind: type[AvinetError], method: str, path: str, body: Any = b"", **headers: str) -> str:
        return str(self.failureResultOf(self.asking(method, path, body, **headers), kind).value)

    def sealed(self, *counts: int) -> list[Manifest]:
        """Segments of so many records each."""
        begin = sum(each.rows for each in self.spooling.manifests)
        for count in counts:
            self.spooling.spool.append(lines(range(begin + 1, begin + count + 1)))
            begin += count
            self.successResultOf(self.spooling.seal_now())
        return self.spooling.manifests


def place(manifest: Manifest) -> str:
    return f"/v1/log-segments/{manifest.first}-{manifest.last}"


class ReadingTests(LogCase):
    def test_the_segments_are_told_by_their_manifests(self) -> None:
        there = self.sealed(5, 7, 3)
        found = self.ask("GET", "/v1/log-segments").decoded(SegmentPage)
        self.assertEqual((found.items, found.next, found.acknowledged), (there, 0, 0))
        found = self.ask("GET", f"/v1/log-segments?after=5&until={T + 13}&service=shop").decoded(SegmentPage)
        self.assertEqual([each.first for each in found.items], [6])
        self.assertEqual([(each.first, each.last) for each in found.others], [(13, 15)])
        for wrong in ("after=-1", "since=x", f"until={2**53}", "service=" + "x" * 65):
            self.refused(Invalid, "GET", f"/v1/log-segments?{wrong}")

    def test_a_segment_is_read_whole(self) -> None:
        self.patch(logs, "READ_BYTES", 1000)
        self.patch(logs, "PIECE_BYTES", 64)
        manifest = self.sealed(50)[0]
        answer = self.ask("GET", place(manifest))
        self.assertEqual(hashlib.sha256(answer.body).hexdigest(), manifest.sha256)
        self.assertEqual(
            (answer.status, answer.headers["etag"], answer.headers["accept-ranges"]),
            (200, f'"{manifest.sha256}"', "bytes"),
        )

    def test_from_any_byte_on(self) -> None:
        self.patch(logs, "READ_BYTES", 100)
        manifest = self.sealed(50)[0]
        whole = self.ask("GET", place(manifest)).body
        answer = self.ask("GET", place(manifest), range="bytes=777-", if_range=f'"{manifest.sha256}"')
        self.assertEqual((answer.status, answer.body), (206, whole[777:]))
        self.assertEqual(answer.headers["content-range"], f"bytes 777-{manifest.bytes - 1}/{manifest.bytes}")
        self.assertEqual(self.ask("GET", place(manifest), range="bytes=3-5").body, whole[3:6])
        answer = self.ask("GET", place(manifest), range="bytes=777-", if_range='"another"')
        self.assertEqual((answer.status, answer.body), (200, whole))
        self.assertIn(
            str(manifest.bytes), self.refused(PeerError, "GET", place(manifest), range=f"bytes={manifest.bytes}-")
        )

    def test_what_is_not_there(self) -> None:
        """Names and links that lead elsewhere (H2)."""
        manifest = self.sealed(5)[0]
        for name in ("1-4", "2-5", "6-9", "x", "1-5x", "..%2Fclean", f"1-{'9' * 30}"):
            self.refused(NotFound, "GET", f"/v1/log-segments/{name}")
        file = self.spooling.spool.parquet(manifest)
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        self.refused(LocalError, "GET", place(manifest))
        file.unlink()
        self.refused(Gone, "GET", place(manifest))
        file.symlink_to("/etc/passwd")
        self.refused(LocalError, "GET", place(manifest))

    def test_who_reads_nothing_has_little_waiting_for_it_and_the_file_is_closed_when_it_goes(self) -> None:
        read: list[int] = []
        original = logs._File.read

        def noted(file: Any, at: int, size: int) -> bytes:
            read.append(size)
            return original(file, at, size)

        closed: list[bool] = []
        close = logs._File.close
        self.patch(logs._File, "read", noted)
        self.patch(logs._File, "close", lambda file: closed.append(True) or close(file))
        self.patch(logs, "READ_BYTES", 256)
        manifest = self.sealed(90)[0]
        channel = self.door.buildProtocol(None)
        assert channel is not None
        channel.makeConnection(Stuck())
        channel.dataReceived(f"GET {place(manifest)} HTTP/1.1\r\nhost: logs\r\n\r\n".encode())
        self.assertEqual((sum(read), closed), (512, []))
        channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((sum(read), closed), (512, [True]))

    def test_who_goes_while_the_file_is_opened_leaves_none_open(self) -> None:
        manifest = self.sealed(5)[0]
        opening: Deferred[None] = Deferred()
        opened: list[Any] = []

        def later(work: Any) -> Any:
            if opened:
                return at_once(work)
            opened.append(work())
            return opening.addCallback(lambda _: opened[0])

        self.service._in_thread = later
        channel = self.door.buildProtocol(None)
        assert channel is not None
        channel.makeConnection(StringTransport())
        channel.dataReceived(f"GET {place(manifest)} HTTP/1.1\r\nhost: logs\r\n\r\n".encode())
        channel.connectionLost(Failure(ConnectionDone()))
        opening.callback(None)
        self.assertTrue(opened[0]._closed)

    def test_one_that_keeps_none_says_so(self) -> None:
        self.kept = None
        for method, path in (
            ("GET", "/v1/log-segments"),
            ("GET", "/v1/log-segments/1-2"),
            ("POST", "/v1/log-sealings"),
        ):
            self.assertIn("keeps no request logs", self.refused(NotFound, method, path, by_a_node="yes"))


class ChangingTests(LogCase):
    def test_what_is_open_is_sealed_first(self) -> None:
        self.spooling.spool.append(lines(range(1, 4)))
        answer = self.ask("POST", "/v1/log-sealings", by_a_node="yes")
        self.assertEqual(answer.decoded(SealedThrough).last, 3)
        self.assertEqual([each.rows for each in self.spooling.manifests], [3])

    def test_sealing_that_fails_says_why(self) -> None:
        self.spooling.spool.append(lines(range(1, 4)))
        self.spooling.sealer.broken = "No space left on device"
        asked = self.asking("POST", "/v1/log-sealings", by_a_node="yes")
        self.spooling.later(125)
        self.network.pump()
        self.failureResultOf(asked, AvinetError)

    def test_what_is_safe_may_go(self) -> None:
        there = self.sealed(5, 7, 3)
        said = [Vouched(first=each.first, last=each.last, sha256=each.sha256) for each in there]
        for safe, through in (([said[1]], 0), ([said[0]], 12), (said, 15)):
            answer = self.ask("POST", "/v1/log-acknowledgements", Acknowledgement(segments=safe), by_a_node="yes")
            self.assertEqual(answer.decoded(Acknowledged).acknowledged, through)
        self.spooling.later()
        self.assertEqual((self.spooling.folder / "acknowledged").read_bytes(), b"15")
        self.assertEqual(self.ask("GET", "/v1/log-segments").decoded(SegmentPage).acknowledged, 15)

    def test_nothing_changes_without_a_signature(self) -> None:
        """Whoever reaches the service proves nothing by that (H12)."""
        manifest = self.sealed(5)[0]
        self.spooling.spool.append(lines(range(6, 8)))
        said = Acknowledgement(segments=[Vouched(first=1, last=5, sha256=manifest.sha256)])
        self.refused(Unauthenticated, "POST", "/v1/log-acknowledgements", said)
        self.refused(Unauthenticated, "POST", "/v1/log-sealings")
        self.assertEqual((len(self.spooling.manifests), self.spooling.spool.acknowledged), (1, 0))

    def test_what_is_no_acknowledgement(self) -> None:
        for wrong in ({}, {"segments": []}, {"segments": [{"first": 0, "last": 5, "sha256": "0" * 64}]}):
            body = json.dumps(wrong).encode()
            self.refused(Invalid, "POST", "/v1/log-acknowledgements", body, by_a_node="yes")
