"""The certificates of a service engine on its disk: chains as they are, private keys sealed under a key beside them.

The seal protects a copy of the folder of certificates without the file of the key: a backup that leaves that out, a
disk that was not wiped. It protects from nobody who can read both, root on the running machine among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from twisted.logger import Logger

from avinet.errors import Damaged, Invalid
from avinet.files import cannot, private_folder, read_limited, remove_durably, sync_folder, write_atomic
from avinet.trust.sealing import Seal, load_or_make_seal
from avinet.trust.server_certificate import ServerCertificate, parse
from avinet.wire.certificates import CertificateMaterial, CertificateVersion, material_sha256
from avinet.wire.message import Message, decode

FOLDER, KEY = "certificates", "secrets.key"
_FILE_LIMIT_BYTES = 128 * 1024
_ENDING, _ASIDE, _DAMAGED = ".json", ".next", ".damaged"


@dataclass(frozen=True)
class Held:
    """A version of a certificate, checked."""

    version: CertificateVersion
    certificate: ServerCertificate


class _File(Message, frozen=True, kw_only=True):
    version: CertificateVersion
    chain: str
    sealed: str


def checked(material: CertificateMaterial, *, known_good: bool = False) -> Held:
    """What was delivered, when it is what its version says, and can be served; see `parse`. Raises `Invalid`."""
    if material_sha256(material.chain, material.key) != material.version.sha256:
        raise Invalid(f"certificate {material.version.name} is not what its SHA-256 says")
    return Held(material.version, parse(material.chain, material.key, known_good=known_good))


class Keystore:
    """Certificates in the state folder `state`. All that it does takes the time of a disk."""

    log = Logger()

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER
        self._key = state / KEY

    def read(self) -> dict[str, Held]:
        """All that it has. What is damaged is set aside, for the nodes to deliver it again.

        Raises `LocalError` for what cannot be read now, and may be whole: nothing is changed then.
        """
        try:
            paths = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise cannot("read", self._folder, error) from error
        seal = self._opened()
        whole, damaged = {}, []
        for path in paths:
            if _is_kept(path):
                try:
                    held = self._read(path, seal)
                    whole[held.version.name] = held
                except (Damaged, Invalid) as error:
                    self.log.error("certificate {file} was lost: {why}", file=path.name, why=str(error))
                    damaged.append(path)
        for path in damaged:
            _set_aside(path)
        for path in paths:
            if not _is_kept(path) and path.suffix != _DAMAGED:  # what was laid out when a process ended
                path.unlink(missing_ok=True)
        return whole

    def _opened(self) -> Seal:
        try:
            return load_or_make_seal(self._key)
        except Damaged as error:
            self.log.error("the certificates of this service engine cannot be opened: {why}", why=str(error))
            _set_aside(self._key)
            return load_or_make_seal(self._key)

    def _read(self, path: Path, seal: Seal) -> Held:
        file = decode(read_limited(path, _FILE_LIMIT_BYTES), _File, limit_bytes=_FILE_LIMIT_BYTES, what="file")
        if path.name != file.version.name + _ENDING:
            raise Damaged("it has another name")
        key = seal.open(file.sealed, _about(file.version)).decode("ascii")
        return checked(CertificateMaterial(version=file.version, chain=file.chain, key=key), known_good=True)

    def lay_out(self, held: Held) -> None:
        """Have this version on the disk, beside the one before; `keep` or `discard` it. Raises `LocalError`."""
        private_folder(self._folder)
        seal, certificate = load_or_make_seal(self._key), held.certificate
        sealed = seal.seal(certificate.key_pem.encode("ascii"), _about(held.version))
        file = _File(version=held.version, chain=certificate.chain_pem, sealed=sealed)
        write_atomic(self._aside(held.version.name), msgspec.json.encode(file))

    def keep(self, name: str) -> None:
        """Have what was laid out in place of the one before. Raises `LocalError`, and then that one stays."""
        try:
            self._aside(name).rename(self._path(name))
            sync_folder(self._folder)
            _damaged(self._path(name)).unlink(missing_ok=True)
        except OSError as error:
            raise cannot("write", self._path(name), error) from error

    def discard(self, name: str) -> None:
        """Have what was laid out no more."""
        self._aside(name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Have none of this name any more. Raises `LocalError`."""
        path = self._path(name)
        try:
            if path.exists():
                remove_durably(path)
        except OSError as error:
            raise cannot("remove", path, error) from error

    def remove_damaged(self) -> None:
        """Have nothing any more that was set aside. Raises `LocalError`."""
        try:
            for path in (_damaged(self._key), *self._folder.glob(f"*{_DAMAGED}")):
                if path.exists():
                    remove_durably(path)
        except OSError as error:
            raise cannot("remove what is damaged in", self._folder, error) from error

    def _path(self, name: str) -> Path:
        return self._folder / (name + _ENDING)

    def _aside(self, name: str) -> Path:
        return self._folder / (name + _ASIDE)


def _is_kept(path: Path) -> bool:
    return path.suffix == _ENDING and not path.name.startswith(".")


def _damaged(path: Path) -> Path:
    return path.with_name(path.name + _DAMAGED)


def _set_aside(path: Path) -> None:
    try:
        path.rename(_damaged(path))
        sync_folder(path.parent)
    except OSError as error:
        raise cannot("set aside", path, error) from error


def _about(version: CertificateVersion) -> str:
    return f"certificate {version.name} {version.revision} {version.sha256}"
