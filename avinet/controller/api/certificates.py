"""Certificates of virtual services: put, looked at, deleted. Their private keys come in here, and go out nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.controller.api.matching import expected
from avinet.controller.api.pages import PAGE, PAGED
from avinet.controller.node import Node
from avinet.rest.route import Reply, Request, Route
from avinet.wire.certificates import (
    PUT_LIMIT_BYTES,
    Certificate,
    CertificateList,
    CertificatePut,
    CertificateStored,
    Resealed,
)


class CertificatesApi:
    """What operators do with certificates."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._overview = node.certificate_overview

    async def certificates(self, request: Request) -> Reply:
        """The certificates, by name."""
        limit, after = request.number("limit", 100, PAGE) or 1, request.query.get("after", "")
        return Reply(200, await self._overview.page(limit, after))

    async def certificate(self, request: Request) -> Reply:
        """One certificate, with who is to serve it and who holds it."""
        found = await self._overview.one(request.arguments["name"])
        return Reply(200, found, {"etag": f'"{found.version}"'})

    async def put(self, request: Request) -> Reply:
        """Create or replace a certificate."""
        put = request.decoded(CertificatePut)
        done = await self._node.certificates.put(
            request.arguments["name"], put, request.identity, expected=expected(request)
        )
        return Reply(200, await self._overview.stored(done))

    async def remove(self, request: Request) -> Reply:
        """Delete a certificate that no document names."""
        await self._node.certificates.delete(request.arguments["name"], request.identity, expected=expected(request))
        return Reply(204)

    async def reseal(self, request: Request) -> Reply:
        """Seal all private keys with a new key of this node."""
        return Reply(200, await self._node.resealing.reseal(request.identity))


def certificate_routes(node: Node) -> Sequence[Route]:
    """The routes of certificates."""
    do, certificate = CertificatesApi(node), "/v1/certificates/<name>"
    return [
        Route("GET", "/v1/certificates", do.certificates, "All certificates", gives=CertificateList, query=PAGED),
        Route("GET", certificate, do.certificate, "One certificate", gives=Certificate),
        Route(
            "PUT",
            certificate,
            do.put,
            "Create or replace a certificate",
            CertificatePut,
            CertificateStored,
            limit_bytes=PUT_LIMIT_BYTES,
        ),
        Route("DELETE", certificate, do.remove, "Delete a certificate", status=204),
        Route("POST", "/v1/secrets-key", do.reseal, "Seal all private keys with a new key", gives=Resealed),
    ]
