"""Ed25519 keys as OpenSSH writes them: one-line public keys, SHA-256 fingerprints, PEM files that only we can read."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from avinet.errors import Invalid, LocalError, Unauthenticated
from avinet.files import read_limited, write_atomic

_PREFIX = "ssh-ed25519 "
_BLOB_HEAD = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
_FILE_LIMIT_BYTES = 4096


def generate() -> Ed25519PrivateKey:
    """A new key pair."""
    return Ed25519PrivateKey.generate()


def public_line(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The public half as `ssh-ed25519 AAAA…`, without a comment."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def parse_public_line(line: str) -> Ed25519PublicKey:
    """The key in `ssh-ed25519 AAAA…`: exactly this form, no options, no comment. Raises `Invalid`."""
    blob = _blob(line)
    return Ed25519PublicKey.from_public_bytes(blob[len(_BLOB_HEAD) :])


def _blob(line: str) -> bytes:
    try:
        blob = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
    except ValueError:
        blob = b""
    if not line.startswith(_PREFIX) or len(blob) != len(_BLOB_HEAD) + 32 or not blob.startswith(_BLOB_HEAD):
        raise Invalid("that is no Ed25519 public key in OpenSSH's format", hint="it begins with ssh-ed25519 AAAA")
    return blob


def fingerprint(line: str) -> str:
    """The fingerprint of a one-line public key, as `ssh-keygen -l` prints it. Raises `Invalid`."""
    return blob_fingerprint(_blob(line))


def blob_fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key of any kind, as it is sent."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """The key pair in OpenSSH's private key format, not encrypted: for files that only their owner can read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def parse_private_pem(data: bytes, source: str) -> Ed25519PrivateKey:
    """The key pair in OpenSSH's private key format; `source` names it in errors. Raises `LocalError`."""
    try:
        key = load_ssh_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LocalError(f"{source} holds no private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LocalError(f"{source} holds a key that is not Ed25519")
    return key


def load_private(path: Path) -> Ed25519PrivateKey:
    """The key pair in the file at `path`. Raises `LocalError`."""
    return parse_private_pem(read_limited(path, _FILE_LIMIT_BYTES), str(path))


def save_private(path: Path, key: Ed25519PrivateKey) -> None:
    """Write the key pair to `path`, durably and mode 0600."""
    write_atomic(path, private_pem(key))


def load_or_make(path: Path) -> Ed25519PrivateKey:
    """The key pair in the file at `path`, made now when there is none."""
    if not path.exists():
        save_private(path, generate())
    return load_private(path)


def verify(line: str, signature: bytes, data: bytes) -> None:
    """Raises `Unauthenticated` when `signature` (64 bytes) over `data` is not by the key in `line`."""
    try:
        parse_public_line(line).verify(signature, data)
    except (InvalidSignature, Invalid) as error:
        raise Unauthenticated("the signature is not by that key") from error
