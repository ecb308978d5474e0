"""What a node asks of a service engine through its tunnel: signed by the node's `avictlruser` key, under its fence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.controller.sessions import Session, Sessions
from avinet.errors import LocalError, PeerError, Unauthenticated
from avinet.rest.client import Answer
from avinet.trust import keys, signatures
from avinet.trust.signatures import ENGINE_HEADER, FENCE_HEADER, SignedRequest
from avinet.wire.certificates import CertificatePush, CertificateState
from avinet.wire.command import CommandRequest, CommandResult, OperatorKey
from avinet.wire.config import ConfigPush, ConfigState
from avinet.wire.fleet import EngineDelete
from avinet.wire.trust import SignedTrust, TrustHeld

PUSH_S = 60.0
_STATE_BYTES = 1024 * 1024


class SignatureRefused(PeerError):
    """The service engine does not believe that the request is from one of its nodes: it has done nothing."""


class Reverse:
    """Asks service engines, signing with `key`, as it is at that moment.

    `fence` is the store revision at which this node became their owner.
    """

    def __init__(
        self,
        sessions: Sessions,
        key: Callable[[], Ed25519PrivateKey],
        fence: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._key = key
        self._fence = fence
        self._now = now

    async def push(self, engine_id: str, push: ConfigPush) -> ConfigState:
        """Send a configuration; see `avinet.config.distribute.Pusher`."""
        session = self._sessions.get(engine_id)
        try:
            answer = await self._ask(engine_id, "PUT", "/v1/configuration", push, timeout_s=PUSH_S)
        finally:
            self._sessions.hang_up(session)
        return answer.decoded(ConfigState)

    async def certificates(self, engine_id: str, push: CertificatePush) -> CertificateState:
        """Send certificates; see `avinet.controller.certificates.supply.Pusher`."""
        session = self._sessions.get(engine_id)
        try:
            answer = await self._ask(
                engine_id, "PUT", "/v1/certificates", push, timeout_s=PUSH_S, limit_bytes=_STATE_BYTES
            )
        finally:
            self._sessions.hang_up(session)
        return answer.decoded(CertificateState, _STATE_BYTES)

    async def command(self, engine_id: str, request: CommandRequest, timeout_s: float) -> CommandResult:
        """Run a command."""
        answer = await self._ask(
            engine_id, "POST", "/v1/commands", request, timeout_s=timeout_s, limit_bytes=4 * 1024 * 1024
        )
        return answer.decoded(CommandResult, 4 * 1024 * 1024)

    async def trust(self, engine_id: str, signed: SignedTrust) -> int:
        """Push a trust document; the epoch of the one that it holds then."""
        answer = await self._ask(engine_id, "PUT", "/v1/trust", signed)
        return answer.decoded(TrustHeld).epoch

    async def admit(self, engine_id: str, key: OperatorKey) -> None:
        """Let an operator's key log in to the SSH service for a while."""
        await self._ask(engine_id, "PUT", "/v1/operator-keys", key)

    async def rotate(self, engine_id: str) -> None:
        """Have it change its key."""
        await self._ask(engine_id, "POST", "/v1/key-rotation", b"", timeout_s=30)

    async def depart(self, engine_id: str, drain_s: float) -> None:
        """Have the data plane drained and ended."""
        await self._ask(engine_id, "POST", "/v1/departure", EngineDelete(drain_s=drain_s), timeout_s=drain_s + 15)

    async def _ask(self, engine_id: str, method: str, path: str, body: Any, **options: Any) -> Answer:
        session = self._sessions.get(engine_id)
        try:
            control = self._sessions.control(session)
            return await control.request(method, path, body, sign=self._signer(session), **options)
        except Unauthenticated as error:
            raise SignatureRefused(
                f"service engine {engine_id} does not take this node's signature",
                hint="its trust document or its clock may be wrong; see its log",
            ) from error
        except LocalError as error:
            raise PeerError(f"service engine {engine_id}: {error}") from error

    def _signer(self, session: Session) -> Callable[[str, str, dict[str, str], bytes], None]:
        def sign(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
            headers[ENGINE_HEADER] = session.id
            headers[FENCE_HEADER] = str(self._fence())
            request = SignedRequest(method, headers["host"], path, headers)
            key = self._key()
            keyid = keys.fingerprint(keys.public_line(key))
            signatures.sign(request, body, signatures.CONTROL, key, keyid, now=self._now())

        return sign
