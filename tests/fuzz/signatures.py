"""A signed request of a node whose headers are changed: what is verified is what was signed, all the rest is refused."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.errors import Unauthenticated
from avinet.trust.signatures import CONTROL, ENGINE_HEADER, FENCE_HEADER, SignedRequest, sign, verify
from tests.fuzz.steps import Draw, joined, steps
from tests.fuzz.vocabulary import damaged
from tests.fuzz.watch import check, watched

NOW = 1_800_000_000.0
BODY = b'{"a": 1}'
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
_HEADERS = ("signature-input", "signature", "content-digest", ENGINE_HEADER, FENCE_HEADER, "content-type")
_LONG = 1 << 14


def signed() -> SignedRequest:
    """The request as the node made it."""
    headers = {"host": "control", "content-type": "application/json", ENGINE_HEADER: "se-1", FENCE_HEADER: "7"}
    request = SignedRequest("PUT", "control", "/v1/config?a=b", headers)
    sign(request, BODY, CONTROL, KEY, "the-key", now=NOW, nonce="n" * 22)
    return request


HONEST = signed()
_WORDS = (
    *(b'node=("@method");created=1800000000', b'node=("@path" "@path");keyid="the-key"', b"node=:AAAA:, x=?1"),
    *(
        b'("content-digest";req)',
        b';alg="hmac-sha256"',
        b';created="x"',
        b";expires=1800000100.5",
        b"node=();created=0",
    ),
    *(
        b"sha-256=:AAAA:",
        b"sha-512=:" + b"A" * 86 + b"==:",
        b'";sf',
        b";bs",
        b';key="a"',
        b'"@query-param";name="a"',
        b"@status",
    ),
    *(
        b'"@target-uri"',
        b'"@request-target"',
        b";tag=avinet-control",
        b"node=:",
        b"1" * 40,
        b'node=("host";tr);nonce=:AA==:',
    ),
)


def _changed(request: SignedRequest, draw: Draw) -> None:
    """Change something of the request."""
    headers = request.headers
    name = draw.pick(_HEADERS)
    value = headers.get(name, "").encode("latin-1")
    match draw.below(8):
        case 0:
            value = damaged(value, draw.byte(), draw.byte(), draw.some(32))
        case 1:
            at = draw.byte() * (len(value) + 1) // 256
            value = value[:at] + draw.pick(_WORDS) + value[at:]
        case 2:
            value = draw.pick(_WORDS) + draw.rest()
        case 3:
            headers.pop(name, None)
            return
        case 4:
            request.target = draw.pick(("/v1/config", "/v1/config?a=b&a=c", "/v1/%2e", "/", "//x", "/é"))
            return
        case 5:
            request.method = draw.pick(("POST", "put", "PUT ", ""))
            return
        case 6:
            value = value + b", " + value
        case _:
            value = value.replace(
                *draw.pick(((b'"', b"'"), (b";", b" ;"), (b"=", b""), (b" ", b""), (b"node", b"img")))
            )
    headers[name] = value[:_LONG].decode("latin-1")


def _covered(request: SignedRequest) -> tuple[object, ...]:
    """What the signature is about."""
    headers: Mapping[str, str] = request.headers
    path = request.target.partition("?")[0]
    return request.method, path, *(headers.get(name) for name in (ENGINE_HEADER, FENCE_HEADER))


def run(data: bytes) -> None:
    """Change the request step by step, and have it verified after each."""
    request = SignedRequest(HONEST.method, HONEST.authority, HONEST.target, dict(HONEST.headers))
    body, now = BODY, NOW
    with watched():
        for step in steps(data):
            draw = Draw(step)
            match draw.below(10):
                case 8:
                    body = draw.rest()
                case 9:
                    now = NOW + draw.pick((-31.0, -30.0, 120.0, 151.0, 1e9, -1e9))
                case _:
                    _changed(request, draw)
            try:
                verified = verify(
                    request, body, CONTROL, lambda id: KEY.public_key() if id == "the-key" else None, now=now
                )
            except Unauthenticated:
                continue
            check(_covered(request) == _covered(HONEST), f"{request} is taken for the one that was signed")
            check(body == BODY, f"{body!r} is taken for the body that was signed")
            check(NOW - 30 <= now <= NOW + 150, "it is valid at another time")
            check((verified.keyid, verified.nonce, verified.created) == ("the-key", "n" * 22, int(NOW)), f"{verified}")


SEEDS = (
    [joined([bytes((0, header, how, 128)) + b"x"]) for header in range(6) for how in range(8)]
    + [
        joined([bytes((1, header, 1, where, word))])
        for header in range(3)
        for where in (0, 200)
        for word in range(len(_WORDS))
    ]
    + [joined([b"\x09\2"]), joined([b"\x08x"]), joined([b"\0\0\4\1"]), joined([b"\0\0\5\1"])]
)
