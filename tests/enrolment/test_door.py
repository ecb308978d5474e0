"""The 8443 door as bytes: one answer for whatever proves nothing, and a limit on how often one may ask."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import Tasks, as_deferred
from avinet.enrolment.door import enrolment_routes
from avinet.errors import LocalError, PeerError, TimedOut, Unavailable
from avinet.flow.allowance import Allowance
from avinet.rest.door import Door
from avinet.rest.route import Request
from avinet.rest.table import Table
from avinet.trust import signatures
from avinet.trust.path import parse_chain_header
from avinet.wire.trust import SignedTrust
from tests.enrolment.making import Newborn, Office, domain
from tests.store.memory import MemoryStore


class DoorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.office = Office(MemoryStore(self.clock))
        self.successResultOf(as_deferred(self.office.admit_image()))
        self.se = Newborn("se-1", self.successResultOf(as_deferred(self.office.expect("se-1"))))
        self.door = Door(self.clock, Table(self.routes()), tasks=Tasks())

    def routes(self) -> Any:
        chain = [domain().server.certificate, domain().issuing.certificate]
        return enrolment_routes(
            self.office.registrar,
            trust=lambda: SignedTrust(document="{}", signature="", issuer=""),
            nonce_key=domain().nonce_key,
            signer=lambda: (domain().server.key, chain),
            now=self.office.now,
            allowance=Allowance(self.clock.seconds, burst=100, per_s=1),
        )

    def said(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        channel = self.door.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4000))
        assert channel is not None
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(data)
        channel.setTimeout(None)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        named = (field.partition(": ") for field in fields)
        return int(status.split()[1]), {name.lower(): value for name, _, value in named}, body

    def post(self, asked: Request, *more: str, path: str = "") -> tuple[int, dict[str, str], bytes]:
        lines = [f"{name}: {value}" for name, value in asked.headers.items()]
        head = [f"POST {path or asked.target} HTTP/1.1", *lines, f"content-length: {len(asked.body)}", *more]
        return self.said("\r\n".join([*head, "", ""]).encode() + asked.body)

    def signed(self) -> Request:
        return self.se.signed(self.office.time)

    def test_a_receipt_is_signed_by_the_node(self) -> None:
        status, headers, body = self.post(self.signed())
        self.assertEqual(status, 201)
        chain = parse_chain_header(headers["avinet-chain"])
        self.assertEqual(chain[0], domain().server.certificate)
        answer = signatures.SignedResponse(status, headers)
        public: Any = chain[0].public_key()
        signatures.verify(answer, body, signatures.RECEIPT, lambda _: public, now=self.office.time)

    def test_a_replay_gets_the_same_body(self) -> None:
        asked = self.signed()
        first, again = self.post(asked), self.post(asked)
        self.assertEqual((first[0], again[0]), (201, 200))
        self.assertEqual(first[2], again[2])

    def test_whatever_proves_nothing_gets_one_answer(self) -> None:
        """(E5)"""
        good = self.signed()
        digest = good.headers["content-digest"]
        no_claim = Newborn("se-1", "w" * 32)
        of_nobody = Newborn("se-1", self.se.claim)
        of_nobody.image_key = no_claim.key
        answers = [
            self.post(self.signed(), f"content-digest: {digest}"),
            self.post(self.signed(), f"signature: {good.headers['signature']}"),
            self.post(self.signed(), f"signature-input: {good.headers['signature-input']}"),
            self.post(self.signed(), "content-type: application/json"),
            self.post(self.signed(), path=good.target + "?"),
            self.post(self.signed(), path=good.target + "?a=b"),
            self.post(self.signed(), path=good.target.replace("se-1", "se-2")),
            self.post(no_claim.signed(self.office.time)),
            self.post(of_nobody.signed(self.office.time)),
            self.said(f"POST {good.target} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode()),
        ]
        self.assertEqual({each[0] for each in answers}, {401})
        self.assertEqual(len({each[2] for each in answers}), 1)
        self.assertEqual(json.loads(answers[0][2]).get("detail", ""), "")

    def test_what_the_store_says_stays_with_the_node(self) -> None:
        store: Any = self.office.registrar._store
        for error in (
            Unavailable("https://192.0.2.1:2379 has no quorum", retry_after_s=7),
            TimedOut("https://192.0.2.1:2379 is silent"),
            PeerError("etcd refuses what it was asked"),
            LocalError("etcd does not let this node in"),
        ):

            async def fails(*arguments: Any, error: Exception = error, **more: Any) -> Any:
                raise error

            self.patch(store, "read", fails)
            status, headers, body = self.post(self.signed())
            self.assertEqual((status, json.loads(body)["detail"]), (503, "this node cannot decide it just now"))
            self.assertIn("retry-after", headers)

    def test_a_percent_sign_makes_no_other_path(self) -> None:
        self.assertEqual(self.post(self.signed(), path=self.signed().target.replace("se-1", "se%2d1"))[0], 401)

    def test_chunks_and_a_length_contradict_each_other(self) -> None:
        """(E5)"""
        asked = self.signed()
        self.assertEqual(self.post(asked, "transfer-encoding: chunked")[0], 400)

    def test_a_body_in_chunks_is_as_good(self) -> None:
        asked = self.signed()
        lines = [f"{name}: {value}" for name, value in asked.headers.items()]
        head = "\r\n".join([f"POST {asked.target} HTTP/1.1", *lines, "transfer-encoding: chunked", "", ""]).encode()
        half = len(asked.body) // 2
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (asked.body[:half], asked.body[half:], b""))
        self.assertEqual(self.said(head + chunks)[0], 201)

    def test_a_challenge_and_the_trust_document_are_for_everybody(self) -> None:
        for path in ("/v1/enrol/challenge", "/v1/trust"):
            self.assertEqual(self.said(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())[0], 200)

    def test_who_asks_too_often_is_told_when_to_come_again(self) -> None:
        for _ in range(100):
            self.assertEqual(self.said(b"GET /v1/trust HTTP/1.1\r\nhost: x\r\n\r\n")[0], 200)
        status, headers, _ = self.said(b"GET /v1/trust HTTP/1.1\r\nhost: x\r\n\r\n")
        self.assertEqual((status, headers["retry-after"]), (429, "1"))
        self.clock.advance(1)
        self.assertEqual(self.said(b"GET /v1/trust HTTP/1.1\r\nhost: x\r\n\r\n")[0], 200)
