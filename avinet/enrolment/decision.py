"""Who gets in, as a pure rule: what a well-signed request meets in the store, and what follows from that."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from avinet.enrolment.records import EngineRecord
from avinet.errors import AvinetError, Conflict, Gone, Unauthenticated
from avinet.wire.enrolment import EnrolmentRequest
from avinet.wire.fleet import EnrolmentPolicy


@dataclass(frozen=True)
class Verdict:
    """`enrol`: this request enrols it; `again`: it did already, and gets the same receipt; `wait`: for an operator;
    `refuse` with the error.

    `alarm` is set when an operator should see the refusal, `by` says what let it in.
    """

    outcome: Literal["enrol", "again", "wait", "refuse"]
    error: AvinetError | None = None
    alarm: str = ""
    by: EnrolmentPolicy = "claim"


def decide(
    request: EnrolmentRequest,
    fingerprint: str,
    engine: EngineRecord | None,
    owner: str | None,
    policy: EnrolmentPolicy,
    now: float,
) -> Verdict:
    """The verdict under `policy`. An id that has an open claim takes that, and nothing else, under any of them.

    `fingerprint` is that of the request's key, `engine` the record of its id, `owner` the id that the key belongs to.
    """
    if engine is not None:
        if engine.state == "enrolled" and request.generation == engine.generation:
            if engine.fingerprint == fingerprint:
                return Verdict("again")
            taken = Conflict(
                f"{request.id} is enrolled with another key: the image key is not permitted for it any more"
            )
            return Verdict("refuse", taken, "enrolled-twice")
        if engine.state != "expected" or request.generation != engine.generation:
            return _gone(f"generation {request.generation} of {request.id} is over or was never expected")
    if request.claim is not None:
        verdict = _by_claim(request.claim, request.id, engine, now)
    else:
        verdict = _without_claim(request, fingerprint, engine, policy, now)
    if verdict.outcome != "refuse" and owner is not None:
        return Verdict("refuse", Conflict("this key belongs to another service engine, or did"), "key-of-another")
    return verdict


def _by_claim(claim: str, id: str, engine: EngineRecord | None, now: float) -> Verdict:
    if engine is None:
        return _gone(f"no service engine {id} is expected")
    if not claim_fits(claim, engine):
        return Verdict("refuse", Unauthenticated(f"the claim for {id} is not the one that was issued"))
    if now > engine.claim_expires:
        return _gone(f"the claim for {id} has expired", "give it a new one with avictl se reset")
    return Verdict("enrol")


def _without_claim(
    request: EnrolmentRequest, fingerprint: str, engine: EngineRecord | None, policy: EnrolmentPolicy, now: float
) -> Verdict:
    if engine is not None:
        if engine.approved == fingerprint:
            return Verdict("enrol", by="approve")
        if engine.approved:
            taken = Conflict(f"an operator has let in another key as {request.id}")
            return Verdict("refuse", taken, "approved-for-another")
        if policy == "claim" or now <= engine.claim_expires:
            return Verdict("refuse", Unauthenticated(f"{request.id} was asked for without the claim that was issued"))
        if policy == "image":  # whoever has the image key could take over what was expected
            return _gone(f"the claim for {request.id} has expired", "give it a new one with avictl se reset")
    elif policy == "claim":
        return _gone(f"no service engine {request.id} is expected")
    elif request.generation != 1:
        return _gone(f"generation {request.generation} of {request.id} was never expected")
    return Verdict("wait" if policy == "approve" else "enrol", by=policy)


def claim_digest(claim: str) -> str:
    """What is stored of a claim."""
    return hashlib.sha256(claim.encode("utf-8")).hexdigest()


def claim_fits(claim: str, engine: EngineRecord) -> bool:
    """Whether `claim` is the one that was issued for this record."""
    return bool(engine.claim_sha256) and hmac.compare_digest(claim_digest(claim), engine.claim_sha256)


def _gone(what: str, hint: str = "") -> Verdict:
    return Verdict("refuse", Gone(what, hint=hint))
