"""Certificates as nodes deliver them."""

from __future__ import annotations

import msgspec

from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.certificates import CertificateMaterial, CertificatePush, CertificateVersion, material_sha256
from avinet.wire.config import Config, Tls, VirtualService


def material(name: str, revision: int, certificate: ServerCertificate) -> CertificateMaterial:
    chain, key = certificate.chain_pem, certificate.key_pem
    version = CertificateVersion(name=name, revision=revision, sha256=material_sha256(chain, key))
    return CertificateMaterial(version=version, chain=chain, key=key)


def push_of(*delivered: CertificateMaterial) -> CertificatePush:
    return CertificatePush(certificates=list(delivered))


def naming(*names: str) -> Config:
    """A configuration that serves certificates of these names."""
    service = VirtualService(name="web", port=443, tls=Tls(certificates=list(names)) if names else None)
    return Config(virtual_services=[service])


def of_another(delivered: CertificateMaterial, other: ServerCertificate) -> CertificateMaterial:
    """With the key of another certificate, and a SHA-256 that says so."""
    sha256 = material_sha256(delivered.chain, other.key_pem)
    version = msgspec.structs.replace(delivered.version, sha256=sha256)
    return msgspec.structs.replace(delivered, version=version, key=other.key_pem)
