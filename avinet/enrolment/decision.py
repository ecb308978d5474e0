"""Who gets in, as a pure rule: what a well-signed request meets in the store, and what follows from that."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from avinet.enrolment.records import EngineRecord
from avinet.errors import AvinetError, Conflict, Gone, Unauthenticated
from avinet.wire.enrolment import EnrolmentRequest


@dataclass(frozen=True)
class Verdict:
    """`enrol`: this request enrols it; `again`: it did already, and gets the same receipt; `refuse` with the error.

    `alarm` is set when an operator should see the refusal.
    """

    outcome: Literal["enrol", "again", "refuse"]
    error: AvinetError | None = None
    alarm: str = ""


def decide(
    request: EnrolmentRequest, fingerprint: str, engine: EngineRecord | None, owner: str | None, now: float
) -> Verdict:
    """The verdict under the policy `claim`: only a service engine that is expected, and shows its one-time claim.

    `fingerprint` is that of the request's key, `engine` the record of its id, `owner` the id that the key belongs to.
    """
    if engine is None:
        return _gone(f"no service engine {request.id} is expected")
    if engine.state == "enrolled" and request.generation == engine.generation:
        if engine.fingerprint == fingerprint:
            return Verdict("again")
        taken = Conflict(f"{request.id} is enrolled with another key: the image key is not permitted for it any more")
        return Verdict("refuse", taken, "enrolled-twice")
    if engine.state == "revoked" or request.generation != engine.generation:
        return _gone(f"generation {request.generation} of {request.id} is over or was never expected")
    if request.claim is None or not claim_fits(request.claim, engine):
        return Verdict("refuse", Unauthenticated(f"the claim for {request.id} is not the one that was issued"))
    if now > engine.claim_expires:
        return _gone(f"the claim for {request.id} has expired", "expect it again with avictl se create or reset")
    if owner is not None:
        return Verdict("refuse", Conflict("this key belongs to another service engine"), "key-of-another")
    return Verdict("enrol")


def claim_digest(claim: str) -> str:
    """What is stored of a claim."""
    return hashlib.sha256(claim.encode("utf-8")).hexdigest()


def claim_fits(claim: str, engine: EngineRecord) -> bool:
    """Whether `claim` is the one that was issued for this record."""
    return bool(engine.claim_sha256) and hmac.compare_digest(claim_digest(claim), engine.claim_sha256)


def _gone(what: str, hint: str = "") -> Verdict:
    return Verdict("refuse", Gone(what, hint=hint))
