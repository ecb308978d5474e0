"""RFC 4252, public keys only: the server's side decides one request at a time, the client's signs at once.

A request costs one look-up in memory before its signature is verified, and the admission is asked only after.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import (
    DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
    DISCONNECT_TOO_MANY_CONNECTIONS,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.errors import AvinetError, PeerError, Unavailable
from avinet.ssh import phases
from avinet.ssh.identity import Identity, Refusal
from avinet.ssh.shown import printable
from avinet.ssh.strings import (
    ED25519,
    Reader,
    ed25519_blob,
    key_line,
    name_list,
    read_ed25519_blob,
    read_ed25519_signature,
    string,
)
from avinet.ssh.transport import ConnectionFactory, Transport

CONNECTION = b"ssh-connection"
USERAUTH = b"ssh-userauth"
PUBLICKEY = b"publickey"
_NAME_BYTES = 64
_BLOB_BYTES = 128
"""More than an Ed25519 key or signature has."""
_SHORT_KEYS = (b"ecdsa-sha2-nistp256", b"sk-ssh-ed25519@openssh.com", b"sk-ecdsa-sha2-nistp256@openssh.com")
"""Other kinds of keys that are worth a line."""


class Admission(Protocol):
    """Who may log in."""

    def known(self, user: str, public_key: str) -> bool:
        """Whether `user` may have this key (a line as OpenSSH writes it); at once, from memory."""

    def admit(self, user: str, public_key: str, address: str) -> Awaitable[Any]:
        """What the connection is to know about a peer that has proven to have the key.

        May take seconds, and is cancelled when the connection goes first. Raises `Unavailable` to have the peer come
        back later, and any other `AvinetError` to refuse it.
        """

    def left(self, identity: Identity) -> None:
        """A connection that was admitted has ended; called exactly once for each."""


def retry_text(error: Unavailable) -> str:
    """The text of a DISCONNECT that asks the peer to come back later."""
    return f"{error.what}, retry-after={max(1, ceil(error.retry_after_s))}"


def signed_part(session_id: bytes, user: bytes, blob: bytes) -> bytes:
    """What a client signs to log in as `user` with the key in `blob` (RFC 4252 §7)."""
    return string(session_id) + bytes((phases.USERAUTH_REQUEST,)) + _request(user, blob, signed=True)


def _request(user: bytes, blob: bytes, *, signed: bool) -> bytes:
    fields = string(user) + string(CONNECTION) + string(PUBLICKEY) + bytes((signed,))
    return fields + string(ED25519) + string(blob)


@dataclass(frozen=True)
class Claim:
    """An authentication request; `blob` is the key that it shows, if it is none that is too long to be one of ours."""

    user: str
    service: bytes
    method: str
    algorithm: bytes = b""
    blob: bytes = b""
    signature: bytes | None = None

    @classmethod
    def decode(cls, packet: bytes) -> Claim:
        """The request in the body of a USERAUTH_REQUEST. Raises `PeerError`."""
        reader = Reader(packet, "USERAUTH_REQUEST")
        user, service, method = reader.text(), reader.string(_NAME_BYTES), reader.string(_NAME_BYTES)
        if method != PUBLICKEY:
            return cls(user, service, printable(method))
        signed, algorithm = reader.byte(), reader.string(_NAME_BYTES)
        if signed > 1:
            raise PeerError("an authentication request is neither signed nor unsigned")
        if algorithm != ED25519:
            size = reader.uint32()
            known = algorithm in _SHORT_KEYS and size <= _BLOB_BYTES
            return cls(user, service, "publickey", algorithm, reader.take(size) if known else b"")
        blob = reader.string(_BLOB_BYTES)
        signature = reader.string(_BLOB_BYTES) if signed else None
        reader.end()
        return cls(user, service, "publickey", algorithm, blob, signature)

    @property
    def key(self) -> str:
        """The key that it shows, as OpenSSH writes it."""
        return key_line(self.blob, self.algorithm) if self.blob else ""


class AuthServer(SSHService):
    """The server's authentication service: lets a peer in as an `Identity`, and makes the next service for it.

    `refused` is told of every claim that was turned down, and of a peer that was sent away.
    """

    name = USERAUTH
    log = Logger()
    transport: Transport

    def __init__(
        self,
        admission: Admission,
        connection: ConnectionFactory,
        requests: int,
        refused: Callable[[Refusal], None],
    ) -> None:
        self._admission = admission
        self._connection = connection
        self._requests_left = requests
        self._refused = refused
        self._pending: Deferred[Any] | None = None
        self._stopped = False

    @override
    def serviceStopped(self) -> None:
        self._stopped = True
        if self._pending is not None:
            self._pending.cancel()

    @override
    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        self._requests_left -= 1
        if self._requests_left < 0:
            self.transport.fail(
                PeerError("it sent too many authentication requests"), DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE
            )
            return
        claim = Claim.decode(packet)
        why = self._objection(claim)
        if why:
            self._turn_down(claim, why)
        elif claim.signature is None:
            self.transport.sendPacket(phases.USERAUTH_PK_OK, string(ED25519) + string(claim.blob))
        else:
            self._ask(claim)

    def _objection(self, claim: Claim) -> str:
        """Why the claim is turned down without asking anyone, or nothing."""
        if claim.service != CONNECTION:
            return "it asked for another service than ssh-connection"
        if claim.method != "publickey":
            return f"it tried {claim.method}"
        if claim.algorithm != ED25519:
            return f"it tried a key of the kind {printable(claim.algorithm)}"
        public = read_ed25519_blob(claim.blob)
        if not self._admission.known(claim.user, claim.key):
            return "its key is not known for this user"
        if claim.signature is not None:
            session_id = self.transport.sessionID
            assert session_id is not None
            signed = signed_part(session_id, claim.user.encode("utf-8"), claim.blob)
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(read_ed25519_signature(claim.signature), signed)
            except (InvalidSignature, ValueError):
                return "its signature is wrong"
        return ""

    def _turn_down(self, claim: Claim, why: str) -> None:
        # `none` is how stock clients ask what there is to try.
        if claim.method != "none":
            self._refused(self._refusal(claim, why))
        self.transport.sendPacket(phases.USERAUTH_FAILURE, name_list((PUBLICKEY,)) + b"\0")

    def _refusal(self, claim: Claim, why: str) -> Refusal:
        user = printable(claim.user[:64].encode("utf-8"))
        return Refusal(self.transport.address, why, user, claim.method, claim.key)

    def _ask(self, claim: Claim) -> None:
        """Have the admission decide, and take nothing else of the peer meanwhile."""
        line = claim.key
        self.transport.hold()
        self._pending = as_deferred(self._admission.admit(claim.user, line, self.transport.address))
        self._pending.addBoth(self._decided, claim, line)

    def _decided(self, result: Any, claim: Claim, line: str) -> None:
        self._pending = None
        if isinstance(result, Failure):
            if not self._stopped:
                self._not_admitted(result, claim)
        else:
            identity = Identity(claim.user, line, self.transport.address, result)
            if self._stopped or self.transport.closing:
                self._admission.left(identity)
            else:
                self.transport.logged_in(identity, self._connection)
        self.transport.release()

    def _not_admitted(self, failure: Failure, claim: Claim) -> None:
        error = failure.value
        if isinstance(error, Unavailable):
            self._refused(self._refusal(claim, str(error)))
            self.transport.close(retry_text(error), DISCONNECT_TOO_MANY_CONNECTIONS)
        elif isinstance(error, AvinetError):
            self._turn_down(claim, str(error))
        elif not isinstance(error, CancelledError):
            self.log.failure("the admission of {peer} failed", failure, peer=self.transport.address)
            self.transport.close("an internal error")


class AuthClient(SSHService):
    """The client's authentication service: one signed request, and its answer."""

    name = USERAUTH
    transport: Transport

    def __init__(
        self,
        user: str,
        private_key: Ed25519PrivateKey,
        succeeded: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._user = user.encode("utf-8")
        self._private_key = private_key
        self._succeeded = succeeded
        self._failed = failed

    @override
    def serviceStarted(self) -> None:
        blob = ed25519_blob(self._private_key.public_key().public_bytes_raw())
        session_id = self.transport.sessionID
        assert session_id is not None
        signature = self._private_key.sign(signed_part(session_id, self._user, blob))
        request = _request(self._user, blob, signed=True) + string(string(ED25519) + string(signature))
        self.transport.sendPacket(phases.USERAUTH_REQUEST, request)

    @override
    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        if messageNum == phases.USERAUTH_SUCCESS:
            self._succeeded()
        else:
            self._failed()
