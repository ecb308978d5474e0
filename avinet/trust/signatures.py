"""HTTP message signatures (RFC 9421) with content digests (RFC 9530): signing, and verifying without leniency.

A signature is expected under one label with one tag, by one algorithm, over at least the components of its `Kind`, with
`created`, `expires`, `nonce` and `keyid`; whatever else arrives is refused. The peer is told no more than that.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import http_sf
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import (
    ContentDigest,
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureComponentResolver,
    InvalidSignature,
    MappingKeyResolver,
    VerifyResult,
)
from http_message_signatures.algorithms import ECDSA_P256_SHA256, ED25519
from typing_extensions import override

from avinet.errors import Unauthenticated

LIFE_S = 120
SKEW_S = 30
"""How far two clocks may differ before a signature counts as made in the future, or too late."""
_DIGEST = '"content-digest"'
_SIGNATURE_HEADERS = ("signature", "signature-input", "content-digest", "content-type", "host")

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
Resolve = Callable[[str], PublicKey | None]
"""Finds the key of a key id."""


@dataclass(frozen=True)
class Kind:
    """What a signature is for: its label, its tag, what it covers, and the algorithm of its keys."""

    label: str
    tag: str
    covered: tuple[str, ...]
    """The digest of the body is always among them."""
    algorithm: Any = ED25519

    @property
    def identifiers(self) -> list[str]:
        """The components as they stand in what is signed (RFC 9421, section 2)."""
        return [f'"{each}"' for each in self.covered]


_ENROLMENT = ("@method", "@authority", "@path", "content-type", "content-digest")
BY_IMAGE = Kind("img", "avinet-enrol", _ENROLMENT)
BY_ENGINE = Kind("se", "avinet-proof-of-possession", _ENROLMENT)
_ROTATION = ("@method", "@path", "content-digest")
BY_OLD_KEY = Kind("old", "avinet-key-rotation", _ROTATION)
BY_NEW_KEY = Kind("new", "avinet-proof-of-possession", _ROTATION)
RECEIPT = Kind("node", "avinet-receipt", ("@status", "content-type", "content-digest"), ECDSA_P256_SHA256)
ENGINE_HEADER = "avinet-service-engine"
FENCE_HEADER = "avinet-fence"
CONTROL = Kind("node", "avinet-control", ("@method", "@path", "content-digest", ENGINE_HEADER, FENCE_HEADER))


@dataclass
class SignedRequest:
    """The parts of a request that a signature can cover; header names in lower case."""

    method: str
    authority: str
    target: str
    headers: MutableMapping[str, str]

    @property
    def url(self) -> str:
        """The target URI (RFC 9110, section 7.1)."""
        return f"https://{self.authority}{self.target}"


@dataclass
class SignedResponse:
    """The parts of a response that a signature can cover; header names in lower case."""

    status_code: int
    headers: MutableMapping[str, str]
    url: str = ""


@dataclass(frozen=True)
class Verified:
    """What a signature that holds says of itself. `created` is in seconds since 1970."""

    keyid: str
    nonce: str
    created: int


def sign(
    message: SignedRequest | SignedResponse,
    body: bytes,
    kind: Kind,
    key: PrivateKey,
    keyid: str,
    *,
    now: float,
    nonce: str | None = None,
    life_s: float = LIFE_S,
) -> None:
    """Add a signature of `kind` to the headers of `message`, beside those that are there already."""
    headers, canonical = message.headers, _Canonical(message)
    there = "signature-input" in headers
    if there is not ("signature" in headers) or (there and kind.label in _labels(headers)):
        raise ValueError(f"there is a signature {kind.label} already, or half of one")
    # The library would add it to the headers itself, for a third of the time: it builds and parses all of it once more.
    prepared = _SIGNERS[kind.algorithm].prepare(
        canonical,
        key_id=keyid,
        created=datetime.fromtimestamp(now, UTC),
        expires=datetime.fromtimestamp(now + life_s, UTC),
        nonce=nonce or secrets.token_urlsafe(16),
        label=kind.label,
        tag=kind.tag,
        covered_component_ids=kind.covered,
        body=body,
        use_existing_digest="content-digest" in headers,
    )
    made = base64.b64encode(kind.algorithm(private_key=key).sign(prepared.signature_base)).decode("ascii")
    headers.clear()
    headers.update({name.lower(): value for name, value in canonical.headers.items()})
    for name, value in (("signature-input", prepared.signature_params), ("signature", f":{made}:")):
        before = f"{headers[name]}, " if name in headers else ""
        headers[name] = f"{before}{kind.label}={value}"


def verify(
    message: SignedRequest | SignedResponse,
    body: bytes,
    kind: Kind,
    resolve: Resolve,
    *,
    now: float,
    repeated: frozenset[str] = frozenset(),
) -> Verified:
    """Check the one signature on `message`, as `verify_all` does."""
    [verified] = verify_all(message, body, ((kind, resolve),), now=now, repeated=repeated)
    return verified


def verify_all(
    message: SignedRequest | SignedResponse,
    body: bytes,
    expected: Sequence[tuple[Kind, Resolve]],
    *,
    now: float,
    repeated: frozenset[str] = frozenset(),
) -> list[Verified]:
    """Check that `message` carries a signature of each kind, and no other, by the keys found for their key ids.

    `repeated` names the headers that stood more than once. Raises `Unauthenticated`; its text is for our log, not for
    the peer.
    """
    doubled = repeated.intersection((*_SIGNATURE_HEADERS, *(name for kind, _ in expected for name in kind.covered)))
    if doubled:
        raise Unauthenticated(f"the header {min(doubled)} stands more than once")
    found = _labels(message.headers)
    if found != {kind.label for kind, _ in expected}:
        raise Unauthenticated(f"signatures under {sorted(found)} are not what belongs here")
    canonical = _Canonical(message)
    digest: str | None = None
    verified = []
    for kind, resolve in expected:
        try:
            held = _held(canonical, kind, resolve, now)
            covered = held.covered_components
            missing = [name for name in kind.identifiers if name not in covered]
            if not missing and covered[_DIGEST] != digest:  # the same header under each signature: checked once
                digest = covered[_DIGEST]
                missing = [] if ContentDigest.verify_components({_DIGEST: digest}, body) else ["the body"]
        except (InvalidSignature, HTTPMessageSignaturesException, ValueError) as error:
            raise Unauthenticated(f"the signature {kind.label} does not hold: {str(error)[:200]}") from error
        if missing:
            raise Unauthenticated(f"the signature {kind.label} does not cover {', '.join(missing)}")
        verified.append(_said(held, kind))
    return verified


def _held(canonical: _Canonical, kind: Kind, resolve: Resolve, now: float) -> VerifyResult:
    """The signature of `kind`, which holds. Raises what the library raises."""
    verifier = _Verifier(
        signature_algorithm=kind.algorithm,
        key_resolver=_Resolver(resolve),
        component_resolver_class=_Canonical.components,
        now=now,
    )
    [held] = verifier.verify(canonical, max_age=None, expect_tag=kind.tag, expect_label=kind.label)
    return held


def _said(held: VerifyResult, kind: Kind) -> Verified:
    parameters, algorithm = held.parameters, kind.algorithm.algorithm_id
    if not parameters.get("nonce") or parameters.get("alg", algorithm) != algorithm:
        raise Unauthenticated(f"the signature {kind.label} has no nonce")
    return Verified(str(parameters["keyid"]), str(parameters["nonce"]), int(parameters["created"]))


@dataclass
class _Canonical:
    """A message as the library wants it: it asks for attributes, and writes headers under their usual names."""

    message: SignedRequest | SignedResponse
    headers: dict[str, str] = field(init=False)
    _components: HTTPSignatureComponentResolver | None = None

    def __post_init__(self) -> None:
        self.headers = {name.title(): value for name, value in self.message.headers.items()}
        self.url = self.message.url
        if isinstance(self.message, SignedRequest):
            self.method = self.message.method
        else:
            self.status_code = self.message.status_code

    def components(self) -> HTTPSignatureComponentResolver:
        """What finds the components of this message, one for all its signatures."""
        if self._components is None:
            self._components = HTTPSignatureComponentResolver(self)
        return self._components


class _Signer(HTTPMessageSigner):
    """Parses what the signatures of a kind cover once."""

    def __init__(self, algorithm: Any) -> None:
        super().__init__(signature_algorithm=algorithm)
        self._parsed: dict[tuple[str, ...], Any] = {}

    @override
    def _parse_covered_component_ids(self, covered_component_ids: tuple[str, ...]) -> Any:
        if covered_component_ids not in self._parsed:
            self._parsed[covered_component_ids] = super()._parse_covered_component_ids(covered_component_ids)
        return list(self._parsed[covered_component_ids])


_SIGNERS = {algorithm: _Signer(algorithm) for algorithm in (ED25519, ECDSA_P256_SHA256)}


class _Resolver(MappingKeyResolver):
    def __init__(self, resolve: Resolve) -> None:
        super().__init__(public_keys={}, private_keys={})
        self._resolve = resolve

    @override
    def resolve_public_key(self, key_id: str) -> Any:
        return self._resolve(key_id)


class _Verifier(HTTPMessageVerifier):
    """Judges `created` and `expires` at a time that it is given: the clock of a service engine may be wrong."""

    def __init__(self, *, now: float, **rest: Any) -> None:
        super().__init__(**rest)
        self._now = now

    @override
    @staticmethod
    @lru_cache(maxsize=16)
    def _parse_signature_dictionary(value: str) -> Any:
        """Parse each header once, however many signatures are checked in it; nobody changes what comes out."""
        return HTTPMessageVerifier._parse_signature_dictionary(value)

    @override
    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        created, expires = (sig_input.params.get(name) for name in ("created", "expires"))
        if type(created) is not int or type(expires) is not int:
            raise InvalidSignature("created and expires must both be given")
        if not created <= expires <= created + LIFE_S:
            raise InvalidSignature(f"it would be valid for more than {LIFE_S} s")
        if not created - SKEW_S <= self._now <= expires + SKEW_S:
            raise InvalidSignature("it is not valid now")


def _labels(headers: Mapping[str, str]) -> set[str]:
    try:
        return set(_Verifier._parse_signature_dictionary(headers.get("signature-input", "")))
    except (ValueError, UnicodeError, http_sf.StructuredFieldError, HTTPMessageSignaturesException) as error:
        raise Unauthenticated("the header Signature-Input is malformed") from error
