"""Which requests of a node a service engine obeys: signed by a key that it trusts, for it, now, once, by the owner."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from twisted.logger import Logger

from avinet.errors import Conflict, Unauthenticated
from avinet.files import read_limited, write_atomic
from avinet.flow.allowance import Allowance
from avinet.rest.route import Request
from avinet.trust import keys, signatures
from avinet.trust.signatures import ENGINE_HEADER, FENCE_HEADER, SignedRequest
from avinet.wire.trust import Node

REMEMBERED = 10_000
SAID, SAID_PER_S = 10, 0.1
"""How many refusals are logged: anything on this machine can cause them."""


class NodeAuthority:
    """Checks requests for the service engine `id`. The highest fence that was seen is kept in `path`."""

    log = Logger()

    def __init__(self, id: str, nodes: Callable[[], Sequence[Node]], now: Callable[[], float], path: Path) -> None:
        self._id = id
        self._nodes = nodes
        self._now = now
        self._path = path
        self._fence = int(read_limited(path, 32)) if path.exists() else 0
        self._nonces: OrderedDict[str, None] = OrderedDict()
        self._said = Allowance(now, burst=SAID, per_s=SAID_PER_S)

    def check(self, request: Request) -> str:
        """The id of the node that signed it; see `avinet.se.control.Authority`."""
        try:
            return self._checked(request)
        except (Unauthenticated, Conflict) as error:
            if not self._said.wait_s(""):
                self._said.spend("")
                self.log.warn("refused {what}: {why}", what=f"{request.method} {request.path[:100]}", why=str(error))
            raise

    def _checked(self, request: Request) -> str:
        message = SignedRequest(request.method, request.authority, request.target, dict(request.headers))
        verified = signatures.verify(
            message, request.body, signatures.CONTROL, self._key, now=self._now(), repeated=request.repeated
        )
        if request.headers.get(ENGINE_HEADER) != self._id:
            raise Unauthenticated("the request is for another service engine")
        fence = request.headers.get(FENCE_HEADER, "")
        if not (fence.isascii() and fence.isdigit() and len(fence) < 19):
            raise Unauthenticated("the fence is not a number")
        if verified.nonce in self._nonces:
            raise Unauthenticated("the request was made before")
        self._nonces[verified.nonce] = None
        if len(self._nonces) > REMEMBERED:
            self._nonces.popitem(last=False)
        self._raise_fence(int(fence))
        return next(node.id for node in self._nodes() if verified.keyid in map(keys.fingerprint, node.avictlruser_keys))

    def _raise_fence(self, fence: int) -> None:
        if fence < self._fence:
            raise Conflict(f"another node owns this service engine now: fence {fence} is lower than {self._fence}")
        if fence > self._fence:
            write_atomic(self._path, b"%d\n" % fence)
            self._fence = fence

    def _key(self, keyid: str) -> Ed25519PublicKey | None:
        for node in self._nodes():
            for line in node.avictlruser_keys:
                if keys.fingerprint(line) == keyid:
                    return keys.parse_public_line(line)
        return None
