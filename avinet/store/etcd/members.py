"""How a node reaches etcd over mTLS, and the CA for that: one for etcd's members and their clients alone.

The gateway looks at no name in a client's certificate: whoever has one of this CA may read and change everything. So no
certificate of the domain of trust is ever one of this CA, nor the other way round.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from avinet.errors import Conflict, LocalError
from avinet.files import private_folder, read_limited, write_atomic
from avinet.trust.authority import BACKDATED, Credential, new_key
from avinet.trust.path import parse_certificates
from avinet.trust.tls import ClientTLS

CA_LIFE, MEMBER_LIFE = timedelta(days=3650), timedelta(days=365)
CA, CLIENT = "ca", "client"
_LIMIT_BYTES = 64 * 1024


@implementer(IPolicyForHTTPS)
class MutualTLS:
    """TLS to members whose certificates are under `ca`, as whoever `credential` names."""

    def __init__(self, ca: Iterable[x509.Certificate], credential: Credential, now: Callable[[], float]) -> None:
        self.ca = list(ca)
        self.credential = credential
        self._now = now

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """See `IPolicyForHTTPS`."""
        at = datetime.fromtimestamp(self._now(), UTC).replace(tzinfo=None)
        return ClientTLS(hostname.decode("ascii"), self.ca, at, self.credential)

    @classmethod
    def load(cls, ca: Path, certificate: Path, key: Path, now: Callable[[], float]) -> MutualTLS:
        """What these files hold. Raises `LocalError`."""
        pair = Credential.from_pem(
            read_limited(certificate, _LIMIT_BYTES), read_limited(key, _LIMIT_BYTES), str(certificate)
        )
        return cls(parse_certificates(read_limited(ca, _LIMIT_BYTES), str(ca)), pair, now)


def found_members(folder: Path, members: Mapping[str, Iterable[str]], now: datetime) -> list[Path]:
    """Make what etcd's members and the nodes need in `folder`, and what is missing of it when it is there already.

    That is `ca.pem` and `ca.key`; and `NAME.pem` and `NAME.key` for each member, at its names or addresses, and for
    `client` without any. Returns the certificates that were made. Raises `Conflict`, `LocalError`.
    """
    private_folder(folder)
    place = folder / f"{CA}.pem"
    if place.exists():
        authority = _load(folder, CA)
    else:
        if any(folder.iterdir()):
            raise Conflict(f"{folder} holds something else already", hint="name a folder that is empty")
        authority = _new_ca(now)
        _save(folder, CA, authority)
    made = []
    for name, addresses in {**members, CLIENT: ()}.items():
        if not (folder / f"{name}.pem").exists():
            _save(folder, name, _new_member(authority, name, addresses, now))
            made.append(folder / f"{name}.pem")
    return made


def _load(folder: Path, name: str) -> Credential:
    certificate, key = (read_limited(folder / f"{name}.{kind}", _LIMIT_BYTES) for kind in ("pem", "key"))
    return Credential.from_pem(certificate, key, str(folder / f"{name}.pem"))


def _save(folder: Path, name: str, made: Credential) -> None:
    write_atomic(folder / f"{name}.key", made.key_pem)
    write_atomic(folder / f"{name}.pem", made.certificate_pem)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: str, issuer: x509.Name, now: datetime, life: timedelta) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(subject))
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _new_ca(now: datetime) -> Credential:
    key = new_key()
    name = f"avinet etcd {os.urandom(4).hex()}"
    builder = _builder(name, _named(name), now, CA_LIFE).public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Credential(builder.sign(key, hashes.SHA256()), key)


def _new_member(authority: Credential, name: str, addresses: Iterable[str], now: datetime) -> Credential:
    key = new_key()
    builder = _builder(name, authority.certificate.subject, now, MEMBER_LIFE).public_key(key.public_key())
    names = [_general_name(each) for each in addresses]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if names else [])]
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Credential(builder.sign(authority.key, hashes.SHA256()), key)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise LocalError(f"{text!r} is neither a name nor an address") from error
