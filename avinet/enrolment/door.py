"""The routes of the 8443 door: the trust document, a challenge, and the enrolment itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from twisted.logger import Logger

from avinet.aio import News
from avinet.enrolment.challenge import LIFE_S, new_nonce
from avinet.enrolment.registrar import Registrar, Waits
from avinet.errors import LocalError, PeerError, TooMany, Unavailable
from avinet.flow.allowance import Allowance, source_of
from avinet.rest.route import Reply, Request, Route
from avinet.trust import signatures
from avinet.trust.path import chain_header
from avinet.trust.signatures import SignedResponse
from avinet.wire.enrolment import (
    CHAIN_HEADER,
    REQUEST_LIMIT_BYTES,
    Challenge,
    EnrolmentRequest,
    Receipt,
    Waiting,
)
from avinet.wire.trust import SignedTrust

_log = Logger()

BURST, PER_S = 200.0, 20.0
"""How often one source may ask: at once, and in the long run."""
LONGEST_WAIT_S = 15.0
"""How often a service engine that waits for an operator asks: at first each second, for somebody may be looking on."""


def enrolment_routes(
    registrar: Registrar,
    *,
    trust: Callable[[], SignedTrust],
    nonce_key: bytes,
    signer: Callable[[], tuple[EllipticCurvePrivateKey, Sequence[x509.Certificate]]],
    now: Callable[[], float],
    allowance: Allowance,
) -> Sequence[Route]:
    """The routes; nothing else is behind that door."""
    news = News()

    async def show_trust(request: Request) -> Reply:
        allowance.take(source_of(request.peer))
        return Reply(200, trust())

    async def challenge(request: Request) -> Reply:
        allowance.take(source_of(request.peer))
        return Reply(200, Challenge(nonce=new_nonce(nonce_key, now()), server_time=now(), expires_in=LIFE_S))

    async def enrol(request: Request) -> Reply:
        allowance.take(source_of(request.peer))
        try:
            done = await registrar.enrol(request)
            news.fresh("")
        except TooMany:
            raise
        except (Unavailable, LocalError, PeerError) as error:  # what the node's store says is for nobody out there
            if news.fresh(str(error)):
                _log.warn("enrolments cannot be decided: {why}", why=str(error))
            wait_s = error.retry_after_s if isinstance(error, Unavailable) else 5.0
            raise Unavailable("this node cannot decide it just now", retry_after_s=wait_s) from None
        if isinstance(done, Waits):
            wait_s = int(min(max((now() - done.since) / 2, 1), LONGEST_WAIT_S))
            waiting = Waiting(id=done.id, fingerprint=done.fingerprint, retry_after_s=wait_s)
            return Reply(202, waiting, {"retry-after": str(wait_s)})
        first, receipt = done
        answer = SignedResponse(201 if first else 200, {"content-type": "application/json"})
        key, chain = signer()
        signatures.sign(answer, receipt, signatures.RECEIPT, key, "node", now=now())
        return Reply(answer.status_code, receipt, {**answer.headers, CHAIN_HEADER: chain_header(chain)})

    return [
        Route("GET", "/v1/trust", show_trust, "The trust document", gives=SignedTrust),
        Route("GET", "/v1/enrol/challenge", challenge, "A nonce for an enrolment", gives=Challenge),
        Route(
            "POST",
            "/v1/service-engines/<id>/enrolment",
            enrol,
            "Enrol a service engine, once",
            EnrolmentRequest,
            Receipt,
            limit_bytes=REQUEST_LIMIT_BYTES,
            status=201,
        ),
    ]
