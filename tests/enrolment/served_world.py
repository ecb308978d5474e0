"""The world of a controller as it is served: who comes there comes over sockets.

That is TLS to the door for enrolments, the operators' UNIX socket, and SSH to the door for tunnels.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.web.client import readBody
from typing_extensions import override

from avinet.aio import pause, within
from avinet.backoff import Backoff
from avinet.enrolment.directory import Login
from avinet.enrolment.records import ImageRecord
from avinet.enrolment.verify import verify_log
from avinet.errors import AvinetError, TimedOut
from avinet.rest.client import Client
from avinet.rest.problems import status_of
from avinet.se.link import USER, Link, Waits
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.policy import Policy
from avinet.ssh.tunnel import ClientTunnel
from avinet.trust import keys
from avinet.wire.audit import LogEntries, LogHead
from avinet.wire.enrolment import Challenge
from avinet.wire.fleet import (
    Approval,
    Claimed,
    EngineCreate,
    EnginesCreated,
    EnrolmentPolicy,
    Rejection,
    RulesChange,
)
from avinet.wire.message import decode, encode
from avinet.wire.session import Hello, HelloReply
from tests.enrolment.line import PATIENCE_S, Line
from tests.enrolment.served import AHEAD_S, DEAD_S, Served
from tests.enrolment.words import Reply
from tests.enrolment.world import LIMITS, Done, Look, Reader, Wire, rotation

LOOKS = 10
BUSY = "the node has much to do"


class ServedWorld(Served):
    """See the module; what it adds is called in the machine's thread."""

    sessions = True

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self._runs = 0
        self._challenge: tuple[float, str, float] = (0.0, "", 0.0)
        self.images: dict[str, Ed25519PrivateKey] = {}
        self.ids: tuple[str, ...] = ()
        self._lines = [Line(self.dial_tls) for _ in range(5)]
        self._operator = Line(self.dial_unix)
        self._links: list[Link] = []

    @override
    async def stop(self) -> None:
        for line in (*self._lines, self._operator):
            line.close()
        await super().stop()
        await self._hang_up()

    def restart(self) -> None:
        async def again() -> None:
            await self.stop()
            await self.open()

        self.in_reactor(again)
        self.reader.again(self.service._store, self.node.audit)

    def begin(self, ids: int) -> None:
        if not self._runs:
            self.reader = Reader(self.service._store, self.node.audit)
        self._runs += 1
        self._ahead_s = AHEAD_S
        self.ids = tuple(f"run-{self._runs}-{number}" for number in range(ids))
        for number in range(2):
            id, key = f"image-{self._runs}-{number}", keys.generate()
            record = ImageRecord(id=id, public_key=keys.public_line(key), not_after=self.now() + 864000)
            self.in_reactor(self.node.engines.add_image, record, "operator")
            self.images[id] = key
        self._ask("PATCH", "/v1/enrolment", RulesChange(policy="claim", **LIMITS), 200)
        self.look([], [])

    def end(self) -> None:
        for id in list(self.images):  # and with it all that wait
            self.retire(id)
        self.images = {}
        self.in_reactor(self._hang_up)

    async def _hang_up(self) -> None:
        """No tunnel of the last run is left."""
        links, self._links = self._links, []
        for link in links:
            link.tunnel.close("the run is over")
        for link in links:
            await within(self._reactor, PATIENCE_S, link.tunnel.when_lost(), "the end of the tunnel")

    # requests

    def challenge(self) -> tuple[str, float]:
        """A new one for each moment that the clock was put to."""
        ahead_s, nonce, made = self._challenge
        if ahead_s != self._ahead_s or self.now() - made > 5:
            self._lines[0].send("GET", "/v1/enrol/challenge", {"host": self.authority}, b"")
            challenge = decode(self._lines[0].receive().body, Challenge, limit_bytes=10**4)
            nonce, made = challenge.nonce, challenge.server_time
            self._challenge = (self._ahead_s, nonce, made)
        return nonce, made

    def send(self, wires: Sequence[Wire], order: Sequence[int], lost: frozenset[int]) -> list[Reply | None]:
        for line, wire in zip(self._lines, wires, strict=False):
            line.send("POST", wire.path, wire.headers, wire.body)
        for at in lost:
            self._lines[at].close()
        return [None if at in lost else _kept(self._lines[at].receive()) for at in range(len(wires))]

    def knock(self, verb: str, path: str) -> int:
        """What the door for enrolments says of any request."""
        self._lines[0].send(verb, path, {"host": self.authority}, b"")
        return self._lines[0].receive(verb).status

    def knock_through(self, client: Client, verb: str, path: str) -> int:
        """The same of a service of the node, at the end of a tunnel."""

        async def ask() -> int:
            response = await client._agent.request(verb.encode(), b"http://node" + path.encode())
            await readBody(response)
            return int(response.code)

        status: int = self.in_reactor(ask)
        return status

    # operators

    def _ask(self, method: str, path: str, message: Any = None, wanted: int = 0) -> Reply:
        body = b"" if message is None else encode(message)
        self._operator.send(method, path, {"host": "node", "content-type": "application/json"}, body)
        reply = self._operator.receive()
        assert wanted in (0, reply.status), f"{method} {path} was answered {reply}"
        return reply

    def expect(self, id: str) -> Done:
        reply = self._ask("POST", "/v1/service-engines", EngineCreate(ids=[id], driver="none"))
        if reply.status != 201:
            return Done(reply.status)
        [claimed] = decode(reply.body, EnginesCreated, limit_bytes=10**5).items
        return Done(201, claimed)

    def claim_anew(self, id: str) -> Done:
        try:
            return Done(200, self.in_reactor(self.node.engines.claim_anew, id, 3600))
        except AvinetError as error:
            return Done(status_of(error))

    def reset(self, id: str) -> Done:
        reply = self._ask("POST", f"/v1/service-engines/{id}/reset")
        return Done(reply.status, decode(reply.body, Claimed, limit_bytes=10**5) if reply.status == 200 else None)

    def revoke(self, id: str) -> int:
        return self._ask("POST", f"/v1/service-engines/{id}/revocation").status

    def forget(self, id: str) -> int:
        return self._ask("DELETE", f"/v1/service-engines/{id}?drain_s=0").status

    def approve(self, id: str, fingerprint: str) -> int:
        return self._ask("POST", f"/v1/pending/{id}/approval", Approval(fingerprint=fingerprint)).status

    def refuse(self, id: str, fingerprint: str) -> int:
        return self._ask("POST", f"/v1/pending/{id}/refusal", Rejection(fingerprint=fingerprint)).status

    def change_policy(self, policy: EnrolmentPolicy) -> int:
        return self._ask("PATCH", "/v1/enrolment", RulesChange(policy=policy)).status

    def retire(self, image: str) -> int:
        return self._ask("POST", f"/v1/images/{image}/retirement").status

    # what there is

    def look(self, ids: Sequence[str], fingerprints: Sequence[str]) -> Look:
        seen: Look = self.in_reactor(self.reader.look, ids, fingerprints)
        return seen

    def verify(self) -> None:
        """The audit log is whole, as `avictl events --verify` sees it. Raises `Conflict`."""
        head = decode(self._ask("GET", "/v1/log/head").body, LogHead, limit_bytes=10**5)
        records: list[str] = []
        while len(records) < head.size:
            page = self._ask("GET", f"/v1/log/entries?first={len(records)}&limit=500")
            records += decode(page.body, LogEntries, limit_bytes=10**6).items
        verify_log(head, records, [self.domain.root])

    def login(self, public_key: str) -> Login | None:
        return self.node.directory.login(public_key)

    # tunnels

    def dial(self, key: Ed25519PrivateKey) -> Link | None:
        while True:
            try:
                link: Link = self.in_reactor(self._dial_ssh, key)
            except AvinetError as error:
                if BUSY in str(error):  # a machine that stands still for a moment: it may come again
                    continue
                return None
            self._links.append(link)
            return link

    async def _dial_ssh(self, key: Ed25519PrivateKey) -> Any:
        def link() -> Link:
            waits = Waits(Backoff(1, 1), random)
            return Link(self._reactor, self.here, key, waits, lambda _: None, lambda _: None)

        factory = Factory.forProtocol(link)  # type: ignore[arg-type]
        factory.noisy = False
        return await LoginEndpoint(
            self._reactor,
            TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._ports[0]),
            Credentials(USER, key, self.here.ssh_host_keys),
            lambda identity: ClientTunnel(self._reactor, identity, lambda _: {}, dead_after_s=DEAD_S),
            where="the node",
            policy=Policy(login_s=DEAD_S),
        ).connect(factory)

    def hello(self, tunnel: Link, ratchet: str) -> tuple[int, str]:
        async def say() -> tuple[int, str]:
            said = Hello(boot="b" * 16, started=self.now(), ratchet=ratchet)
            try:
                answer = await tunnel.control.request("PUT", "/v1/session", said, timeout_s=PATIENCE_S)
            except AvinetError as error:
                return status_of(error), ""
            return answer.status, answer.decoded(HelloReply).ratchet

        found: tuple[int, str] = self.in_reactor(say)
        return found

    def rotate(self, tunnel: Link, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> int:
        headers, body = rotation(old, new, self.now())

        async def ask() -> int:
            try:
                return (
                    await tunnel.control.request("POST", "/v1/key", body, headers=headers, timeout_s=PATIENCE_S)
                ).status
            except AvinetError as error:
                return status_of(error)

        status: int = self.in_reactor(ask)
        return status

    def is_lost(self, tunnel: Link, within_s: float) -> bool:
        async def wait() -> bool:
            try:
                await within(self._reactor, within_s, tunnel.tunnel.when_lost(), "the end of the tunnel")
            except TimedOut:  # it may have come while all of this process stood still
                for _ in range(LOOKS):
                    await pause(self._reactor, 0)
            return tunnel.tunnel.lost

        return bool(tunnel.tunnel.lost or (within_s and self.in_reactor(wait)))

    def opens(self, tunnel: Link) -> bool:
        async def ask() -> bool:
            try:
                await tunnel.control.request("GET", "/v1/trust", timeout_s=PATIENCE_S)
            except AvinetError:
                return False
            return True

        return bool(self.in_reactor(ask))


def _kept(reply: Reply) -> Reply:
    """A reply as the ledger knows it: a refusal has no body that means anything."""
    return reply if reply.status in (200, 201) else Reply(reply.status)
