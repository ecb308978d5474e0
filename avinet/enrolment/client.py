"""The service engine's side of an enrolment: challenge, two signatures, receipt; tried until the answer is final."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any

from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet import __version__
from avinet.aio import pause
from avinet.backoff import Backoff
from avinet.enrolment.identity import Booted, Identity
from avinet.enrolment.look import dialled, flaw
from avinet.errors import (
    AvinetError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    PeerError,
    Unauthenticated,
    Unavailable,
)
from avinet.rest.client import Client
from avinet.trust import keys, signatures
from avinet.trust.path import Distrusted, parse_chain_header, verify_node
from avinet.trust.signatures import SignedRequest, SignedResponse
from avinet.trust.tls import ClientTLS, refusal
from avinet.wire.enrolment import CHAIN_HEADER, RECEIPT_LIMIT_BYTES, Challenge, EnrolmentRequest, Receipt, Waiting
from avinet.wire.message import decode_signed, encode
from avinet.wire.trust import Node, SignedTrust


class Waits(Unavailable):
    """The node has the request, and an operator has to let it in."""


FINAL = (Conflict, Forbidden, Gone, Invalid, Unauthenticated)
"""Answers that no retry can change: an operator has to do something."""
LONGEST_WAIT_S = 300.0


def tls_client(reactor: Any, node: Node, address: str, roots: Any, at: datetime, *, bind: str | None = None) -> Client:
    """A client for the 8443 door of `node`, dialled at `address` (host:port), verified by its name."""
    endpoint = wrapClientTLS(ClientTLS(node.name, roots, at), dialled(reactor, address))
    port = address.rpartition(":")[2]
    return Client(reactor, endpoint, authority=f"{node.name}:{port}", where=f"node {node.id} at {address}")


class Enrolment:
    """Gets a receipt for `identity`. `now` is this machine's clock, `random` yields uniform values in [0, 1)."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        *,
        now: Callable[[], float],
        random: Callable[[], float],
        backoff: Backoff | None = None,
    ) -> None:
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._identity = identity
        self._now = now
        self._random = random
        self._backoff = backoff or Backoff(0.5, 30.0)
        self._request_id = secrets.token_urlsafe(16)

    async def run(self) -> Receipt:
        """The receipt, durable, and everything wiped that was needed for it.

        Tries every address of every node in turn, until one gives a receipt or an answer that no retry can change
        (`FINAL`), which is raised.
        """
        booted, attempt, said = self._identity.booted(), 0, ""
        if self._identity.clock_is_wrong(self._now()):
            self.log.warn("the clock of this machine is wrong: certificates are judged by the image's time")
        while True:
            wait_s = 0.0
            for node in self._identity.nodes():
                for address in node.https:
                    try:
                        return await self._enrol(booted, node, address)
                    except FINAL:
                        raise
                    except AvinetError as error:
                        if str(error) != said:  # it may wait for days
                            said = str(error)
                            self.log.warn("no enrolment yet: {why}", why=said)
                        if isinstance(error, Unavailable):
                            wait_s = max(wait_s, error.retry_after_s)
            wait_s = wait_s if wait_s > 1 else 0.0
            await pause(self._clock, self._backoff.delay_s(attempt, self._random, wait_s))
            attempt += 1

    async def _enrol(self, booted: Booted, node: Node, address: str) -> Receipt:
        roots, at = self._identity.roots(), self._identity.time(self._now())
        client = tls_client(self._reactor, node, address, roots, at)
        try:
            try:
                challenge = (await self._asked(client, "GET", "/v1/enrol/challenge")).decoded(Challenge)
            except Distrusted as error:
                seen = await flaw(self._reactor, node, address, roots, at)
                raise Distrusted(f"{client.where} is not trusted: {seen}") if seen else error from None
            body, headers, path = self._signed(booted, node, address, challenge)
            try:
                answer = await self._asked(client, "POST", path, body, headers=headers, limit_bytes=RECEIPT_LIMIT_BYTES)
            except Unauthenticated as error:  # one answer for all that may be wrong: only the node's log tells more
                raise Unauthenticated(
                    f"{error.what}: the claim or the image key is not the one that it expects",
                    hint="see the node's log; avictl se reset gives a new claim",
                ) from error
            if answer.status == 202:
                waiting = answer.decoded(Waiting)
                raise Waits(
                    f"{waiting.id} waits for an operator of {client.where}",
                    hint=f"avictl se approve {waiting.id} --fingerprint {self._identity.fingerprint}",
                    retry_after_s=min(waiting.retry_after_s, LONGEST_WAIT_S),
                )
            at = self._identity.time(self._now(), challenge.server_time)
            receipt = self._verified(answer.status, dict(answer.headers), answer.body, node, roots, at, challenge)
        finally:
            await client.close()
        self._identity.keep_time(challenge.server_time)
        self._identity.keep_receipt(answer.body, receipt)
        self.log.info("enrolled as {id}, generation {generation}", id=receipt.id, generation=receipt.generation)
        return receipt

    async def _asked(self, client: Client, *args: Any, **kwargs: Any) -> Any:
        """The client's answer; a handshake that failed is told by its reason."""
        try:
            return await client.request(*args, **kwargs)
        except AvinetError as error:
            reason = refusal(Failure(error.__cause__)) if error.__cause__ is not None else None
            if reason is None:
                raise
            raise Distrusted(f"{client.where} is not trusted: {reason}") from error

    def _signed(
        self, booted: Booted, node: Node, address: str, challenge: Challenge
    ) -> tuple[bytes, dict[str, str], str]:
        data, key = booted.user_data, self._identity.key
        body = encode(
            EnrolmentRequest(
                id=data.id,
                generation=data.generation,
                nonce=challenge.nonce,
                claim=data.claim,
                image=booted.manifest.image,
                ssh_public_key=keys.public_line(key),
                ssh_host_public_key=keys.public_line(self._identity.host_key),
                request_id=self._request_id,
                hostname=socket.gethostname()[:253],
                version=__version__,
            )
        )
        path = f"/v1/service-engines/{data.id}/enrolment"
        authority = f"{node.name}:{address.rpartition(':')[2]}"
        request = SignedRequest("POST", authority, path, {"content-type": "application/json", "host": authority})
        for kind, signer, keyid in (
            (signatures.BY_IMAGE, booted.image_key, booted.manifest.image),
            (signatures.BY_ENGINE, key, self._identity.fingerprint),
        ):
            signatures.sign(request, body, kind, signer, keyid, now=challenge.server_time, nonce=challenge.nonce)
        return body, dict(request.headers), path

    def _verified(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes,
        node: Node,
        roots: Any,
        at: datetime,
        challenge: Challenge,
    ) -> Receipt:
        """The receipt in an answer, if a node under our root has signed it for this key. Raises `PeerError`."""
        try:
            receipt = decode_signed(body, Receipt, limit_bytes=RECEIPT_LIMIT_BYTES, what="receipt")
            chain = parse_chain_header(headers.get(CHAIN_HEADER, ""))
            public = verify_node(chain, node.name, roots, at)
            signatures.verify(
                SignedResponse(status, headers), body, signatures.RECEIPT, lambda _: public, now=challenge.server_time
            )
        except AvinetError as error:
            raise PeerError(f"the receipt of node {node.id} is not valid: {error.what}") from error
        if receipt.fingerprint != self._identity.fingerprint:
            raise PeerError(f"the receipt of node {node.id} is for another key")
        return receipt


async def read_trust(client: Client) -> SignedTrust:
    """The trust document as a node's 8443 door gives it."""
    return (await client.request("GET", "/v1/trust")).decoded(SignedTrust)
