"""The certificates that a data plane is given to serve, by name."""

from __future__ import annotations

from collections.abc import Mapping

from avinet.errors import Invalid
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Config

Certificates = Mapping[str, ServerCertificate]


def require(config: Config, held: Certificates) -> None:
    """Raises `Invalid` when `config` names a certificate that is not held."""
    for service in config.virtual_services:
        for name in service.tls.certificates if service.tls else ():
            if name not in held:
                raise Invalid(
                    f"virtual service {service.name} names certificate {name}, which this service engine does not hold",
                    hint="its nodes deliver a certificate before the configuration that names it",
                )
