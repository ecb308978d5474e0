"""What a node asks of a service engine through its tunnel: signed by the node's `avictlruser` key, under its fence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.controller.sessions import Session, Sessions
from avinet.errors import Invalid, LocalError, PeerError, TooLarge, Unauthenticated
from avinet.rest.client import Answer
from avinet.trust import keys, signatures
from avinet.trust.signatures import ENGINE_HEADER, FENCE_HEADER, SignedRequest
from avinet.wire.certificates import CertificatePush, CertificateState
from avinet.wire.command import CommandEvent, CommandRequest, OperatorKey, OutputRequest
from avinet.wire.config import ConfigPush, ConfigState
from avinet.wire.fleet import EngineDelete
from avinet.wire.jobs import LINE_BYTES
from avinet.wire.message import decode
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

    def run(self, engine_id: str, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        """Run a command: what it prints, and how it ends. Raises what asking raises, and `Conflict` if it was run."""
        return self._events(engine_id, "/v1/commands", request)

    def output(self, engine_id: str, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        """What a job prints behind a place, and how it ends."""
        return self._events(engine_id, f"/v1/commands/{job}/output", OutputRequest(after=after))

    async def end(self, engine_id: str, job: str) -> None:
        """Have a job end. Raises `NotFound` when it does not run."""
        await self._ask(engine_id, "POST", f"/v1/commands/{job}/end", b"")

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

    async def _events(self, engine_id: str, path: str, body: Any) -> AsyncGenerator[CommandEvent, None]:
        session = self._sessions.get(engine_id)
        with self.believed(engine_id):
            control = self._sessions.control(session)
            async with aclosing(control.lines("POST", path, body, sign=self.signer(session))) as lines:
                async for line in lines:
                    try:
                        event: CommandEvent = decode(line, CommandEvent, limit_bytes=LINE_BYTES)  # type: ignore[arg-type]
                    except (Invalid, TooLarge) as error:
                        raise PeerError(f"service engine {engine_id}: {error}") from error
                    yield event

    async def _ask(self, engine_id: str, method: str, path: str, body: Any, **options: Any) -> Answer:
        session = self._sessions.get(engine_id)
        with self.believed(engine_id):
            control = self._sessions.control(session)
            return await control.request(method, path, body, sign=self.signer(session), **options)

    @contextmanager
    def believed(self, engine_id: str) -> Iterator[None]:
        """Say what it means that a service engine does not do what this node asks for."""
        try:
            yield
        except Unauthenticated as error:
            raise SignatureRefused(
                f"service engine {engine_id} does not take this node's signature",
                hint="its trust document or its clock may be wrong; see its log",
            ) from error
        except LocalError as error:
            raise PeerError(f"service engine {engine_id}: {error}") from error

    def signer(self, session: Session) -> Callable[[str, str, dict[str, str], bytes], None]:
        """What signs a request of this node to the service engine of `session`."""

        def sign(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
            headers[ENGINE_HEADER] = session.id
            headers[FENCE_HEADER] = str(self._fence())
            request = SignedRequest(method, headers["host"], path, headers)
            key = self._key()
            keyid = keys.fingerprint(keys.public_line(key))
            signatures.sign(request, body, signatures.CONTROL, key, keyid, now=self._now())

        return sign
