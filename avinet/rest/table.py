"""The routes of a door, matched by method and path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map, Rule

from avinet.rest.problems import problem
from avinet.rest.route import Route
from avinet.wire.problem import Problem

_NOTHING_HERE = problem(404, "there is nothing at this path", "see /v1/openapi.json")


class Table:
    """The routes of a door, matched by method and path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        rules = [
            Rule(route.path, methods=[route.method], endpoint=route, merge_slashes=False, strict_slashes=True)
            for route in routes
        ]
        self._adapter = Map(rules, redirect_defaults=False).bind("door")
        self.limit_bytes = max((route.limit_bytes for route in routes if route.takes is not None), default=0)

    def match(self, method: str, path: str) -> tuple[Route, Mapping[str, str]] | Problem:
        """The route and the arguments in its path, or why there is none (404, 405)."""
        if (
            path[:1] != "/" or path[1:2] == "/" or not method.isupper()
        ):  # the adapter takes these for what they are like
            return _NOTHING_HERE
        try:
            route, arguments = self._adapter.match(path, method=method)
        except MethodNotAllowed as refusal:
            allowed = ", ".join(sorted(refusal.valid_methods or ()))
            return problem(405, f"{method} is not possible here", f"use {allowed}" if allowed else "")
        except HTTPException:
            return _NOTHING_HERE
        return route, arguments
