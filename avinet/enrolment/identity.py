"""Who a service engine is, as files on it: its keys, what it was booted with, its receipt, whom it believes.

A crash at any point leaves a state from which the same steps go on: keys are made before they are used, the receipt is
durable before claim and image key are wiped.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.errors import AvinetError, Invalid, LocalError
from avinet.files import cannot, private_folder, read_limited, remove_durably, sync_folder, write_atomic
from avinet.ids import parse_id
from avinet.trust import keys
from avinet.trust.image import KEY, NODES, ROOTS, Manifest, load_manifest
from avinet.trust.path import judged_at, parse_certificates
from avinet.wire.enrolment import RECEIPT_LIMIT_BYTES, Claim, Receipt
from avinet.wire.message import Id, Message, decode
from avinet.wire.trust import Node, TrustDocument

FORMAT = 1
TIME_KEPT_S = 86400.0
KEY_FILE, NEXT_KEY_FILE = "se_ed25519_key", "se_ed25519_key.next"


class UserData(Message, frozen=True, kw_only=True):
    """What the cloud or the operator hands to an instance: who it shall be, and its one-time claim.

    An instance without it proposes an id of its own, for domains that let in more than who shows a claim.
    """

    id: Id
    generation: int
    claim: Claim | None = None


@dataclass(frozen=True)
class Booted:
    """What a service engine was booted with. Its image key and its claim are there until it has enrolled."""

    manifest: Manifest
    user_data: UserData
    image_key: Ed25519PrivateKey


class Identity:
    """The state folder of a service engine, with the folder of its image and the file of its user data.

    Without user data it proposes to be `id`, or what its host is called.
    """

    def __init__(self, state: Path, image: Path, user_data: Path, id: str = "") -> None:
        self._id = id
        self._state = private_folder(state)
        self._image = image
        self._user_data = user_data
        self._check_format()
        self.key = keys.load_or_make(state / KEY_FILE)
        next_key = state / NEXT_KEY_FILE
        self.next_key = keys.load_private(next_key) if next_key.exists() else None
        """The key that may have taken the place of `key`: the node knows which one it admits."""
        self.host_key = keys.load_or_make(state / "ssh_host_ed25519_key")
        self.manifest = load_manifest(image)
        self.ratchet = self._load_ratchet()
        """The secret for the next hello; empty before the first."""
        self.receipt = self._load_receipt()
        self.document = self._load_document()

    def _check_format(self) -> None:
        path = self._state / "format"
        if not path.exists():
            write_atomic(path, b"%d\n" % FORMAT)
        found = read_limited(path, 32).strip()
        if not found.isdigit() or int(found) > FORMAT:
            raise LocalError(
                f"the state folder {self._state} has format {found.decode('ascii', 'replace')}, and this version of "
                f"avinet knows {FORMAT}",
                hint="use the newer version that wrote it",
            )

    def _load_receipt(self) -> Receipt | None:
        path = self._state / "receipt.json"
        if not path.exists():
            return None
        return decode(read_limited(path, RECEIPT_LIMIT_BYTES), Receipt, limit_bytes=RECEIPT_LIMIT_BYTES, what=str(path))

    def _load_document(self) -> TrustDocument | None:
        path = self._state / "trust.json"
        if not path.exists():
            return None
        return decode(read_limited(path, 10**6), TrustDocument, limit_bytes=10**6, what=str(path))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its own key."""
        return keys.fingerprint(keys.public_line(self.key))

    def booted(self) -> Booted:
        """What it was booted with. Raises `LocalError` when there is nothing that it could enrol with."""
        try:
            user_data = self._told() if self._user_data.exists() else self._proposed()
            key = keys.parse_private_pem(read_limited(self._image / KEY, 65536), str(self._image / KEY))
        except AvinetError as error:
            raise LocalError(
                f"this service engine has no receipt, and nothing to enrol with: {error.what}",
                hint="boot it from an image, with the id and claim that avictl se create gives",
            ) from error
        return Booted(self.manifest, user_data, key)

    def _told(self) -> UserData:
        return decode(read_limited(self._user_data, 65536), UserData, limit_bytes=65536, what=str(self._user_data))

    def _proposed(self) -> UserData:
        """The id that it proposes, the same at each start: whatever it was first, it stays that."""
        path = self._state / "proposed-id"
        if self._id:
            return UserData(id=parse_id(self._id, "the setting id:"), generation=1)
        if not path.exists():
            write_atomic(path, proposed_id(socket.gethostname(), self.fingerprint).encode("ascii"))
        return UserData(id=parse_id(read_limited(path, 256).decode("ascii", "replace"), str(path)), generation=1)

    def roots(self) -> list[x509.Certificate]:
        """The root CA certificates that it believes now."""
        if self.document is not None:
            return parse_certificates("".join(self.document.roots).encode("ascii"), "the trust document")
        if self.receipt is not None:
            return parse_certificates("".join(self.receipt.roots).encode("ascii"), "the receipt")
        return parse_certificates(read_limited(self._image / ROOTS, 65536), str(self._image / ROOTS))

    def nodes(self) -> Sequence[Node]:
        """The nodes that it knows: of the trust document, else of the receipt, else of the image."""
        if self.document is not None:
            return self.document.nodes
        if self.receipt is not None:
            return self.receipt.nodes
        data = read_limited(self._image / NODES, 10**6)
        return decode(data, list[Node], limit_bytes=10**6, what=str(self._image / NODES))

    @property
    def epoch(self) -> int:
        """The epoch of what it believes."""
        if self.document is not None:
            return self.document.epoch
        return self.receipt.epoch if self.receipt is not None else 0

    def time(self, clock: float, server_time: float = 0.0) -> datetime:
        """The time at which certificates are judged here, whatever the clock says."""
        return judged_at(clock, self.manifest.built, max(server_time, self._verified_time()), self.manifest.not_after)

    def clock_is_wrong(self, clock: float) -> bool:
        """Whether the clock is before the image was built, or after it expired."""
        return not self.manifest.built <= clock <= self.manifest.not_after

    def _verified_time(self) -> float:
        path = self._state / "time"
        try:
            return float(read_limited(path, 64)) if path.exists() else 0.0
        except ValueError:
            return 0.0

    def keep_time(self, server_time: float) -> None:
        """Remember a server time that came through a verified channel, to the day."""
        if server_time > self._verified_time() + TIME_KEPT_S:
            write_atomic(self._state / "time", repr(server_time).encode("ascii"))

    def keep_receipt(self, data: bytes, receipt: Receipt) -> None:
        """Make the receipt durable, then wipe the claim and the image's private key."""
        write_atomic(self._state / "receipt.json", data)
        self.receipt = receipt
        self.wipe()

    def _load_ratchet(self) -> str:
        path = self._state / "ratchet"
        return read_limited(path, 1024).decode("utf-8", "replace") if path.exists() else ""

    def keep_ratchet(self, secret: str) -> None:
        """Make the secret for the next hello durable."""
        write_atomic(self._state / "ratchet", secret.encode("utf-8"))
        self.ratchet = secret

    def make_next_key(self) -> Ed25519PrivateKey:
        """A key to take the place of the one that there is, durable before anybody hears of it."""
        if self.next_key is None:
            key = keys.generate()
            keys.save_private(self._state / NEXT_KEY_FILE, key)
            self.next_key = key
        return self.next_key

    def settle(self, key: Ed25519PrivateKey) -> None:
        """A node has admitted `key`: when it is the next one, it takes its place. Raises `LocalError`.

        When it is the old one, the next one stays: a node may still be at work on it.
        """
        if self.next_key is not None and key is self.next_key:
            try:
                os.replace(self._state / NEXT_KEY_FILE, self._state / KEY_FILE)
                sync_folder(self._state)
            except OSError as error:
                raise cannot("replace", self._state / KEY_FILE, error) from error
            self.key, self.next_key = key, None

    def wipe(self) -> None:
        """Remove what only an enrolment needs; repeated at each start, in case a crash came between."""
        for path in (self._user_data, self._image / KEY):
            if path.exists():
                remove_durably(path)

    def keep_document(self, text: bytes, document: TrustDocument) -> None:
        """Make a newer trust document durable. Raises `Invalid` for one that is not newer."""
        if document.epoch <= self.epoch:
            raise Invalid(f"the trust document of epoch {document.epoch} is not newer than {self.epoch}")
        write_atomic(self._state / "trust.json", text)
        self.document = document


def proposed_id(host: str, fingerprint: str) -> str:
    """What a host called `host` proposes to be: its name as an id, or a part of its key's fingerprint."""
    name = re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")[:63].rstrip("-")
    if name in ("", "localhost", "localhost-localdomain"):
        return "se-" + hashlib.sha256(fingerprint.encode("ascii")).hexdigest()[:12]
    return name


def user_data(id: str, generation: int, claim: str) -> bytes:
    """The user data of an instance, as its file holds it."""
    return msgspec.json.encode(UserData(id=id, generation=generation, claim=claim))
