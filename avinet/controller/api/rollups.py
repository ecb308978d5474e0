"""Rollups: traffic as service engines have reported it, in series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

from avinet.controller.node import Node
from avinet.errors import Invalid
from avinet.ids import parse_id
from avinet.labels import parse_selector
from avinet.rest.route import Reply, Request, Route
from avinet.telemetry.rollups.reading import By, Wanted
from avinet.telemetry.rollups.shown import SERIES, SERIES_DEFAULT, shown, step_of
from avinet.wire.rollups import Rollups

HOUR_S = 3600
LATEST = 2**40
ENGINES = 1000
"""How many service engines may be named; labels select any number."""


class RollupsApi:
    """What operators see of traffic over time."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def rollups(self, request: Request) -> Reply:
        """Series of one virtual service or all, by server or service engine or neither."""
        now, query = self._node.now(), request.query
        until = request.number("until", int(now), LATEST)
        since = request.number("since", max(0, until - request.number("last", HOUR_S, LATEST)), LATEST)
        if since >= until:
            raise Invalid("since must be before until", hint="both are in seconds since 1970; or say last=3600")
        by = query.get("by", "")
        if by not in get_args(By):
            raise Invalid(f"by is one of {', '.join(each for each in get_args(By) if each)}, or left out")
        step_s = step_of(since, until, request.number("step", 0, LATEST), now, self._node.rollups.fine_age_s)
        wanted = Wanted(
            since - since % step_s,
            -(-until // step_s) * step_s,
            step_s,
            service=parse_id(query["virtual_service"], "virtual_service") if "virtual_service" in query else "",
            server=_server(query.get("server", "")),
            engines=self._engines(query.get("service_engine", ""), query.get("label")),
            by=cast("By", by),
        )
        limit = request.number("limit", SERIES_DEFAULT, SERIES) or 1
        return Reply(200, shown(await self._node.rollups.read(wanted), wanted, limit))

    def _engines(self, named: str, label: str | None) -> frozenset[str] | None:
        """Those that are meant; None for all, those included that are no more."""
        ids = [parse_id(each, "service_engine") for each in named.split(",")] if named else None
        if ids is not None and len(ids) > ENGINES:
            raise Invalid(f"at most {ENGINES} service engines may be named", hint="select them by labels")
        if label is None:
            return frozenset(ids) if ids is not None else None
        selector = parse_selector(label)
        found = frozenset(each.id for each in self._node.directory.records() if selector.matches(each.labels))
        return found if ids is None else found & frozenset(ids)


def _server(text: str) -> str:
    if not text:
        return ""
    pool, slash, server = text.partition("/")
    if not slash:
        raise Invalid(f"{text[:80]!r} is no server", hint="write it as POOL/SERVER")
    return f"{parse_id(pool, 'pool')}/{parse_id(server, 'server')}"


def rollup_routes(node: Node) -> Sequence[Route]:
    """The routes of rollups."""
    return [
        Route(
            "GET",
            "/v1/rollups",
            RollupsApi(node).rollups,
            "Traffic over time: requests, errors, latencies, connections, bytes",
            gives=Rollups,
            query=(
                "virtual_service",
                "server",
                "service_engine",
                "label",
                "by",
                "since",
                "until",
                "last",
                "step",
                "limit",
            ),
        ),
    ]
