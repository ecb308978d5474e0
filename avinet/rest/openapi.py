"""The OpenAPI 3.1 description of a door, generated from its routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from avinet.rest.route import Route
from avinet.rest.streaming import NDJSON
from avinet.wire.message import schemas
from avinet.wire.problem import CONTENT_TYPE, Problem

_ARGUMENT = re.compile(r"<([a-z_]+)>")


def openapi(title: str, version: str, routes: Sequence[Route]) -> dict[str, Any]:
    """The description, as a value that is ready for JSON."""
    types: list[Any] = [Problem]
    for route in routes:
        types += [
            each
            for each in (route.takes, route.gives, route.streams)
            if each not in (None, bytes) and each not in types
        ]
    found, components = schemas(types)
    refs = {id(kind): schema for kind, schema in zip(types, found, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _ARGUMENT.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, refs: dict[int, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _ARGUMENT.findall(route.path)
    ] + [{"name": name, "in": "query", "schema": {"type": "string"}} for name in route.query]
    operation: dict[str, Any] = {
        "summary": route.summary,
        "responses": {
            str(route.status): {"description": "Success"} | _given(route, refs),
            "default": {
                "description": "A problem (RFC 9457)",
                "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        operation["requestBody"] = {"required": True} | _content(route.takes, refs, "content")
    return operation


def _given(route: Route, refs: dict[int, Any]) -> dict[str, Any]:
    given = _content(route.gives, refs, "content")
    if route.streams is None:
        return given
    lines = {NDJSON: {"schema": refs[id(route.streams)], "description": "one a line"}}
    return {"content": given.get("content", {}) | lines}


def _content(kind: Any, refs: dict[int, Any], name: str) -> dict[str, Any]:
    if kind is None:
        return {}
    if kind is bytes:
        return {name: {"application/octet-stream": {}}}
    return {name: {"application/json": {"schema": refs[id(kind)]}}}
