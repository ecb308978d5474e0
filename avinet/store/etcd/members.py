"""How a node reaches etcd over mTLS, and the CA for that: one for etcd's members and their clients alone.

etcd looks at no name in a client's certificate: whoever has one of this CA may read and change everything. So no
certificate of the domain of trust is ever one of this CA, nor the other way round.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from avinet.errors import Conflict, Invalid, LocalError
from avinet.files import private_folder, read_limited, write_atomic
from avinet.ids import parse_id
from avinet.trust.authority import SUFFIX, Credential, certificate_builder, key_usage, new_key
from avinet.trust.path import parse_certificates
from avinet.trust.tls import ClientTLS

CA_LIFE, MEMBER_LIFE = timedelta(days=3650), timedelta(days=365)
CA, CLIENT = "ca", "client"
CONTEXT_S = 600.0
"""For how long certificates are judged at the same time: OpenSSL lets that of a context be set once."""
_LIMIT_BYTES = 64 * 1024
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z")


@implementer(IPolicyForHTTPS)
class MutualTLS:
    """TLS to members whose certificates are under `ca`, as whoever `credential` names."""

    def __init__(self, ca: Iterable[x509.Certificate], credential: Credential, now: Callable[[], float]) -> None:
        self.ca = list(ca)
        self.credential = credential
        self._now = now
        self._made: dict[bytes, tuple[float, ClientTLS]] = {}

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """See `IPolicyForHTTPS`; it is called for each request, and a context costs more than that."""
        now = self._now()
        made_at, made = self._made.get(hostname, (-inf, None))
        if made is None or not 0 <= now - made_at < CONTEXT_S:
            at = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
            made = ClientTLS(hostname.decode("ascii"), self.ca, at, self.credential)
            self._made[hostname] = now, made
        return made

    @classmethod
    def load(cls, ca: Path, certificate: Path, key: Path, now: Callable[[], float]) -> MutualTLS:
        """What these files hold. Raises `LocalError`, also for a CA of a domain of trust."""
        pair = Credential.from_pem(
            read_limited(certificate, _LIMIT_BYTES), read_limited(key, _LIMIT_BYTES), str(certificate)
        )
        authorities = parse_certificates(read_limited(ca, _LIMIT_BYTES), str(ca))
        if any(map(_vouches_for_nodes, authorities)):
            raise LocalError(
                f"{ca} is a CA of a domain of trust: etcd would let in every node of it with every right",
                hint="give etcd a CA of its own: avictl store certificates",
            )
        return cls(authorities, pair, now)


def _vouches_for_nodes(authority: x509.Certificate) -> bool:
    try:
        found = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except (x509.ExtensionNotFound, ValueError):
        return False
    return any(isinstance(each, x509.DNSName) and each.value.endswith(SUFFIX) for each in found)


def due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether less than a quarter of the certificate's life is left."""
    ends = certificate.not_valid_after_utc
    return now > ends - (ends - certificate.not_valid_before_utc) / 4


Became = Literal["kept", "made", "renewed"]


@dataclass(frozen=True)
class Held:
    """A certificate in the folder of etcd's CA; `addresses` are names and IP addresses, none for a client."""

    name: str
    certificate: x509.Certificate
    became: Became

    @property
    def addresses(self) -> tuple[str, ...]:
        """See the class."""
        return addresses_of(self.certificate)


def found_members(
    folder: Path, members: Mapping[str, Iterable[str]], now: datetime, *, renew: bool = False
) -> list[Held]:
    """Make what etcd's members and the nodes need in `folder`, and what is missing of it when it is there already.

    That is `ca.pem` and `ca.key`; and `NAME.pem` and `NAME.key` for each member, at its names or addresses, and for
    `client` without any. With `renew` those that are `due`, or that are for other addresses than a member has now, are
    made anew for the key that is there; those of before are good until their end, also under a CA that was renewed.
    Returns all that are in the folder, the CA's first. Raises `Conflict`, `Invalid`, `LocalError`.
    """
    wanted = {_member(name): tuple(map(_spelt, addresses)) for name, addresses in members.items()}
    private_folder(folder)
    there = {path.stem: _certificate(path) for path in sorted(folder.glob("*.pem"))}
    if CA not in there and any(path.name != f"{CA}.key" for path in folder.iterdir()):
        raise Conflict(f"{folder} holds something else already", hint="name a folder that is empty")
    before = {name: addresses_of(certificate) for name, certificate in there.items() if name != CA}
    for name, addresses in wanted.items():
        if name in before and {*before[name]} != {*addresses} and not renew:
            said = ", ".join(before[name]) or "a client"
            raise Conflict(f"{folder / name}.pem is for {said}", hint="add --renew to have it made anew")
    authority, held = _authority(folder, there.get(CA), now, renew)
    found = [held]
    for name, addresses in {**before, CLIENT: (), **wanted}.items():
        stale = renew and name in before and (due(there[name], now) or {*before[name]} != {*addresses})
        found.append(_member_held(folder, name, there.get(name), stale, authority, addresses, now))
    return found


def _authority(folder: Path, before: x509.Certificate | None, now: datetime, renew: bool) -> tuple[Credential, Held]:
    became: Became = "made" if before is None else "renewed"
    if before is None:
        key, name = new_key(), _named(f"avinet etcd {os.urandom(4).hex()}")
    else:
        pair = _load(folder, CA)
        if not (renew and due(before, now)):
            if now > before.not_valid_after_utc:
                raise LocalError(f"{folder / CA}.pem has expired", hint="add --renew to have it made anew")
            return pair, Held(CA, before, "kept")
        key, name = pair.key, before.subject
    made = Credential(_ca_certificate(key, name, now), key)
    _save(folder, CA, made)
    return made, Held(CA, made.certificate, became)


def _member_held(
    folder: Path,
    name: str,
    before: x509.Certificate | None,
    stale: bool,
    authority: Credential,
    addresses: Iterable[str],
    now: datetime,
) -> Held:
    if before is not None and not stale:
        return Held(name, before, "kept")
    kept = before is not None and (folder / f"{name}.key").exists()
    key = _load(folder, name).key if kept else new_key()
    made = Credential(_member_certificate(key, authority, name, addresses, now), key)
    _save(folder, name, made)
    return Held(name, made.certificate, "made" if before is None else "renewed")


def _member(name: str) -> str:
    if name in (CA, CLIENT):
        raise Invalid(f"no member can be called {name}", hint="that is the name of other files in the folder")
    return parse_id(name, "member")


def _spelt(address: str) -> str:
    """An address as a certificate gives it back. Raises `Invalid` for what is neither a name nor an address."""
    try:
        return str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        if not _HOST.match(address) or len(address) > 253:
            raise Invalid(f"{address!r} is neither a host name nor an IP address") from None
        return address.lower()


def addresses_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(each.value) for each in found)


def _certificate(path: Path) -> x509.Certificate:
    return parse_certificates(read_limited(path, _LIMIT_BYTES), str(path))[0]


def _load(folder: Path, name: str) -> Credential:
    certificate, key = (read_limited(folder / f"{name}.{kind}", _LIMIT_BYTES) for kind in ("pem", "key"))
    return Credential.from_pem(certificate, key, str(folder / f"{name}.pem"))


def _save(folder: Path, name: str, made: Credential) -> None:
    """The key first: one without a certificate is of a making that was cut off."""
    write_atomic(folder / f"{name}.key", made.key_pem)
    write_atomic(folder / f"{name}.pem", made.certificate_pem)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _ca_certificate(key: ec.EllipticCurvePrivateKey, name: x509.Name, now: datetime) -> x509.Certificate:
    builder = certificate_builder(name, name, key.public_key(), now, now + CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(key_usage(certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _member_certificate(
    key: ec.EllipticCurvePrivateKey, authority: Credential, name: str, addresses: Iterable[str], now: datetime
) -> x509.Certificate:
    names = [_general_name(each) for each in addresses]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if names else [])]
    until = min(now + MEMBER_LIFE, authority.certificate.not_valid_after_utc)
    builder = certificate_builder(_named(name), authority.certificate.subject, key.public_key(), now, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(key_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)
