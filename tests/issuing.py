"""Certificates for virtual services, as a public CA would issue them: a root, an intermediate, and servers under it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from avinet.trust.server_certificate import Key, ServerCertificate, parse

LIFE = timedelta(days=90)


def key_pem(key: Key) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def pem(*certificates: x509.Certificate) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


@lru_cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """It takes long to make one, and any will do."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Issuer:
    """A root CA, and an intermediate under it that issues."""

    def __init__(self, name: str = "Test CA", *, key: Key | None = None) -> None:
        now = datetime.now(UTC)
        self._from, self._until = now - timedelta(hours=1), now + LIFE
        root_key, self._key = ec_key(), key or ec_key()
        root_name, self._name = _named(f"{name} root"), _named(f"{name} issuing")
        self.root = self._signed(root_name, root_key.public_key(), root_name, root_key, ca=True)
        self.intermediate = self._signed(self._name, self._key.public_key(), root_name, root_key, ca=True)

    def _signed(
        self, subject: x509.Name, public: object, issuer: x509.Name, by: Key, *, ca: bool, names: tuple[str, ...] = ()
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._from)
            .not_valid_after(self._until)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), False)
        return builder.sign(by, hashes.SHA256())

    def certificate(self, key: Key, *names: str, common_name: str = "") -> x509.Certificate:
        """A server's certificate for `key`."""
        subject = _named(common_name or (names[0] if names else "nobody"))
        return self._signed(subject, key.public_key(), self._name, self._key, ca=False, names=names)

    def serve(self, *names: str, key: Key | None = None) -> ServerCertificate:
        """What a virtual service needs to serve `names`, with the intermediate in its chain."""
        key = key or ec_key()
        return parse(pem(self.certificate(key, *names), self.intermediate), key_pem(key))
