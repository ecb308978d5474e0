"""Configuration documents."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from avinet.controller.api.matching import expected
from avinet.controller.api.pages import PAGE, PAGED
from avinet.controller.node import Node
from avinet.errors import Invalid, NotFound
from avinet.rest.route import Reply, Request, Route
from avinet.wire.config import DOCUMENT_LIMIT_BYTES, Document, DocumentVersion
from avinet.wire.fleet import DocumentApplied, DocumentList
from avinet.wire.message import schemas


class ConfigurationApi:
    """What operators want service engines to run."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def documents(self, request: Request) -> Reply:
        """The configuration documents."""
        limit = request.number("limit", 100, PAGE) or 1
        found = await self._node.documents.list(limit=limit, after=request.query.get("after", ""))
        return Reply(200, self._with_rollouts(found))

    async def document(self, request: Request) -> Reply:
        """One document, in its current version."""
        found = await self._node.documents.get(request.arguments["name"])
        return Reply(200, found, {"etag": f'"{found.version}"'})

    async def apply(self, request: Request) -> Reply:
        """Create or replace a document."""
        document = request.decoded(Document)
        if document.name != request.arguments["name"]:
            raise Invalid("the name in the document is not the name in the path")
        done = await self._node.documents.apply(
            document, request.identity, expected=expected(request), force=_force(request)
        )
        return Reply(200, done)

    async def remove(self, request: Request) -> Reply:
        """Delete a document."""
        name, force = request.arguments["name"], _force(request)
        await self._node.documents.delete(name, request.identity, expected=expected(request), force=force)
        return Reply(204)

    async def history(self, request: Request) -> Reply:
        """The versions of a document."""
        limit = request.number("limit", 100, PAGE) or 1
        after = request.query.get("after", "")
        found = await self._node.documents.history(request.arguments["name"], limit=limit, after=after)
        return Reply(200, self._with_rollouts(found))

    def _with_rollouts(self, found: DocumentList) -> DocumentList:
        """A page of documents, with their roll-outs that are under way."""
        names = {each.name for each in found.items}
        rollouts = [each for each in self._node.rollouts.known() if each.name in names]
        return msgspec.structs.replace(found, rollouts=rollouts)

    async def version(self, request: Request) -> Reply:
        """One version of a document."""
        number = request.arguments["version"]
        if not (number.isascii() and number.isdigit() and len(number) < 9):
            raise NotFound(f"there is no version {number[:40]!r}", hint="versions are numbers: see its history")
        return Reply(200, await self._node.documents.get(request.arguments["name"], int(number)))

    async def schema(self, request: Request) -> Reply:
        """The JSON schema of a configuration document."""
        found, components = schemas([Document])
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **found[0]}
        return Reply(
            200, {**schema, "components": {"schemas": components}}, {"content-type": "application/schema+json"}
        )


def _force(request: Request) -> bool:
    """Whether a roll-out that is under way gives way."""
    return bool(request.number("force", 0, 1))


def configuration_routes(node: Node) -> Sequence[Route]:
    """The routes of configuration documents."""
    do, document = ConfigurationApi(node), "/v1/configurations/<name>"
    return [
        Route("GET", "/v1/configurations", do.documents, "All documents", gives=DocumentList, query=PAGED),
        Route("GET", document, do.document, "One document", gives=DocumentVersion),
        Route(
            "PUT",
            document,
            do.apply,
            "Create or replace a document",
            Document,
            DocumentApplied,
            limit_bytes=2 * DOCUMENT_LIMIT_BYTES,
            query=("force",),
        ),
        Route("DELETE", document, do.remove, "Delete a document", status=204, query=("force",)),
        Route("GET", document + "/versions", do.history, "Its versions", gives=DocumentList, query=PAGED),
        Route("GET", document + "/versions/<version>", do.version, "One of them", gives=DocumentVersion),
        Route("GET", "/v1/schemas/configuration", do.schema, "The JSON schema of a document"),
    ]
