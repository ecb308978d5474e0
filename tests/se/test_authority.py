"""Which requests of a node a service engine obeys (H12): every way to be wrong is refused, and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.errors import AvinetError, Conflict, NotFound, Unauthenticated
from avinet.rest.route import Request
from avinet.se.authority import REMEMBERED, NodeAuthority
from avinet.se.control import control_routes
from avinet.trust import keys, signatures
from avinet.trust.signatures import ENGINE_HEADER, FENCE_HEADER, LIFE_S, SKEW_S, SignedRequest
from avinet.wire.certificates import CertificatePush, CertificateState
from avinet.wire.command import CommandEvent, CommandRequest, OperatorKey
from avinet.wire.config import ConfigPush, ConfigState
from avinet.wire.trust import Node, SignedTrust

BODY = b'{"command":"ping"}'


class AuthorityCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.key, self.stranger = keys.generate(), keys.generate()
        self.nodes = [self.node("node-1", self.key)]
        self.path = Path(self.mktemp())
        self.authority = self.another()

    def another(self) -> NodeAuthority:
        """The authority of a process that has just started."""
        return NodeAuthority("se-1", lambda: self.nodes, self.clock.seconds, self.path)

    def node(self, id: str, key: object) -> Node:
        line = keys.public_line(keys.generate())
        return Node(
            id=id,
            name=f"{id}.d.avinet.internal",
            https=["127.0.0.1:8443"],
            ssh=["127.0.0.1:22"],
            ssh_host_keys=[line],
            avictlruser_keys=[keys.public_line(key)],
        )

    def signed(
        self,
        *,
        key: object = None,
        engine: str = "se-1",
        fence: str = "5",
        body: bytes = BODY,
        method: str = "POST",
        path: str = "/v1/commands",
    ) -> Request:
        key = key or self.key
        headers = {
            "host": "control",
            "content-type": "application/json",
            ENGINE_HEADER: engine,
            FENCE_HEADER: fence,
        }
        message = SignedRequest(method, "control", path, headers)
        keyid = keys.fingerprint(keys.public_line(key))
        signatures.sign(message, body, signatures.CONTROL, key, keyid, now=self.clock.seconds())
        return self.request(dict(message.headers), body, method, path)

    def request(
        self, headers: dict[str, str], body: bytes, method: str = "POST", path: str = "/v1/commands"
    ) -> Request:
        return Request(
            method=method,
            path=path,
            target=path,
            authority="control",
            arguments={},
            query={},
            headers=headers,
            repeated=frozenset(),
            body=body,
            peer="tunnel",
            identity=None,
            limit_bytes=65536,
        )

    def refused(self, request: Request, kind: type[AvinetError] = Unauthenticated) -> None:
        before = self.path.read_bytes() if self.path.exists() else None
        self.assertRaises(kind, self.authority.check, request)
        self.assertEqual(self.path.read_bytes() if self.path.exists() else None, before)


class AuthorityTests(AuthorityCase):
    def test_a_node_s_request_is_obeyed_once(self) -> None:
        request = self.signed()
        self.assertEqual(self.authority.check(request), "node-1")
        self.refused(request)
        self.assertEqual(self.authority.check(self.signed()), "node-1")

    def test_without_a_signature_or_with_a_part_of_it_missing(self) -> None:
        self.refused(self.request({"host": "control", ENGINE_HEADER: "se-1", FENCE_HEADER: "5"}, BODY))
        whole = self.signed()
        for name in ("signature", "signature-input", "content-digest", ENGINE_HEADER, FENCE_HEADER):
            headers = {key: value for key, value in whole.headers.items() if key != name}
            self.refused(self.request(headers, BODY))

    def test_by_another_key_also_one_that_claims_the_right_one_s_name(self) -> None:
        self.refused(self.signed(key=self.stranger))
        whole, ours = self.signed(key=self.stranger), keys.fingerprint(keys.public_line(self.key))
        theirs = keys.fingerprint(keys.public_line(self.stranger))
        headers = {**whole.headers, "signature-input": whole.headers["signature-input"].replace(theirs, ours)}
        self.refused(self.request(headers, BODY))

    def test_what_is_signed_cannot_be_changed(self) -> None:
        whole = self.signed()
        headers = dict(whole.headers)
        self.refused(self.request(headers, BODY + b" "))
        self.refused(self.request(headers, BODY, path="/v1/departure"))
        self.refused(self.request(headers, BODY, method="PUT"))
        self.refused(self.request({**headers, FENCE_HEADER: "9"}, BODY))
        self.refused(self.request({**headers, ENGINE_HEADER: "se-2"}, BODY))
        self.assertEqual(self.authority.check(whole), "node-1")

    def test_for_another_service_engine(self) -> None:
        self.refused(self.signed(engine="se-2"))

    def test_too_late_or_from_the_future(self) -> None:
        request = self.signed()
        self.clock.advance(LIFE_S + SKEW_S + 1)
        self.refused(request)
        self.clock.advance(1000)
        early = self.signed()
        self.clock.rightNow -= SKEW_S + 1
        self.refused(early)

    def test_the_fence_only_rises_and_survives_the_process(self) -> None:
        self.authority.check(self.signed(fence="7"))
        self.refused(self.signed(fence="6"), Conflict)
        self.authority = self.another()
        self.refused(self.signed(fence="6"), Conflict)
        self.assertEqual(self.authority.check(self.signed(fence="7")), "node-1")
        for fence in ("", "-1", "1.5", "1e9", "9" * 19, "8 "):
            self.refused(self.signed(fence=fence))

    def test_a_key_that_left_the_trust_document_opens_nothing(self) -> None:
        request = self.signed()
        self.nodes = [self.node("node-2", self.stranger)]
        self.refused(request)
        self.assertEqual(self.authority.check(self.signed(key=self.stranger)), "node-2")

    def test_what_is_remembered_is_bounded(self) -> None:
        first = self.signed()
        self.authority.check(first)
        self.authority._nonces.update(dict.fromkeys(map(str, range(REMEMBERED - 1))))
        self.refused(first)
        self.authority.check(self.signed())
        self.assertEqual(len(self.authority._nonces), REMEMBERED)


class Recording:
    """A service engine that only keeps in mind what it was asked to do."""

    def __init__(self) -> None:
        self.did: list[str] = []

    async def configure(self, push: ConfigPush) -> ConfigState:
        self.did.append("configure")
        return ConfigState()

    async def command(self, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        self.did.append("command")
        raise NotFound("there are no commands here")

    async def output(self, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        self.did.append("output")
        raise NotFound("there are no commands here")

    def cancel(self, job: str) -> None:
        self.did.append("cancel")

    async def trust(self, signed: SignedTrust) -> None:
        self.did.append("trust")

    def admit_operator(self, key: OperatorKey) -> str:
        self.did.append("admit")
        return ""

    async def take_certificates(self, push: CertificatePush) -> CertificateState:
        self.did.append("take certificates")
        return CertificateState()

    async def depart(self, drain_s: float) -> None:
        self.did.append("depart")

    def status(self) -> dict[str, object]:
        return {}


class DoorTests(AuthorityCase):
    """Every route of the control service, asked by whoever is not a node."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = Recording()
        self.routes = control_routes(self.engine, self.authority)

    def test_only_reading_the_status_needs_no_signature(self) -> None:
        self.assertEqual([route.path for route in self.routes if route.method == "GET"], ["/v1/status"])
        self.assertEqual(len(self.routes), 10)

    def test_nothing_is_changed_for_another_process_or_a_key_that_is_no_node_s(self) -> None:
        for route in self.routes:
            if route.method == "GET":
                continue
            path = route.path.replace("<job>", "job-00000001")
            whole = self.signed(method=route.method, path=path, body=b"{}")
            unsigned = {key: value for key, value in whole.headers.items() if not key.startswith("signature")}
            for request in (
                self.request({}, b"{}", route.method, path),
                self.request(unsigned, b"{}", route.method, path),
                self.signed(key=self.stranger, method=route.method, path=path, body=b"{}"),
                self.signed(engine="se-2", method=route.method, path=path, body=b"{}"),
                self.signed(method=route.method, path="/v1/status", body=b"{}"),
            ):
                asked = replace(request, method=route.method, path=path, target=path, arguments={"job": path[13:25]})
                self.failureResultOf(as_deferred(route.answer(asked)), Unauthenticated)
        self.assertEqual(self.engine.did, [])

    def test_a_node_is_obeyed(self) -> None:
        (route,) = [route for route in self.routes if route.path == "/v1/departure"]
        asked = self.signed(method=route.method, path=route.path, body=b'{"drain_s":1.0}')
        self.successResultOf(as_deferred(route.answer(asked)))
        self.assertEqual(self.engine.did, ["depart"])
