"""The doors are separate applications: nothing that stands behind one can be had through another (E12)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.controller import engine_door, significant
from avinet.controller.operators import operator_routes
from avinet.enrolment.door import enrolment_routes
from avinet.rest.route import Route
from avinet.rest.table import Table
from avinet.se.control import control_routes
from avinet.se.logs import log_routes
from avinet.wire.problem import Problem

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "")
SHARED = {("GET", "/v1/trust"), ("GET", "/v1/status"), ("GET", "/v1/configuration"), ("POST", "/v1/key-rotation")}
"""What stands behind several doors, each time as a route of its own: what is public, or means the peer itself."""
FILLED = {
    "id": "se-1",
    "name": "web",
    "job": "0000000000001-abc",
    "service": "ssh",
    "version": "3",
    "fingerprint": "ab12",
}


def doors() -> dict[str, list[Route]]:
    """The routes of each door, as the roles put them together."""
    return {
        "8443": list(
            enrolment_routes(Mock(), trust=Mock(), nonce_key=bytes(32), signer=Mock(), now=Mock(), allowance=Mock())
        ),
        "control of a node": list(engine_door.control_routes(Mock(), Mock(), Mock(), Mock(), lambda: 0.0)),
        "reports of a node": list(engine_door.report_routes(Mock(), Mock(), Mock(), Mock(), Mock(), lambda: 0.0)),
        "logs of a node": list(significant.log_routes(Mock(), Mock(), lambda: 0.0)),
        "operators": list(operator_routes(Mock())),
        "control of a service engine": list(control_routes(Mock(), Mock())),
        "logs of a service engine": list(log_routes(Mock())),
    }


def filled(path: str) -> str:
    """The path of a route with something in each of its places."""
    return re.sub(r"<(\w+)>", lambda match: FILLED[match[1]], path)


class DoorTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.routes = doors()
        self.tables = {door: Table(routes) for door, routes in self.routes.items()}
        self.own = {door: {(each.method, filled(each.path)) for each in routes} for door, routes in self.routes.items()}
        self.paths = sorted({path for own in self.own.values() for _, path in own})

    def open(self, door: str, verb: str, path: str) -> bool:
        return not isinstance(self.tables[door].match(verb, path), Problem)

    def test_each_door_opens_its_own_routes_and_nothing_else(self) -> None:
        for door, own in self.own.items():
            for path in self.paths:
                for verb in VERBS:
                    wanted = (verb, path) in own or (verb == "HEAD" and ("GET", path) in own)
                    self.assertEqual(self.open(door, verb, path), wanted, (door, verb, path))

    def test_what_is_behind_several_doors_is_known(self) -> None:
        seen: dict[Any, list[str]] = {}
        for door, own in self.own.items():
            for each in own:
                seen.setdefault(each, []).append(door)
        self.assertEqual({each for each, found in seen.items() if len(found) > 1} - SHARED, set())

    def variants(self, path: str) -> Iterator[str]:
        yield path + "/"
        yield path.replace("/v1/", "//v1/", 1)
        yield path.replace("/v1/", "/v1//", 1)
        yield path.replace("/v1/", "/v1/./", 1)
        yield path.replace("/v1/", "/v1/../v1/", 1)
        yield path.replace("/v1/", "/V1/", 1)
        yield path.replace("/v1/", "/%761/", 1)
        yield path + "%00"
        yield path + ";a=b"
        yield path.removeprefix("/")

    def test_a_path_that_is_written_in_another_way_opens_nothing(self) -> None:
        for door, own in self.own.items():
            for verb, path in own:
                for variant in self.variants(path):
                    match = self.tables[door].match(verb, variant)
                    if not isinstance(match, Problem):
                        route, arguments = match
                        # Only the last part of a path can take it, as an id that is none.
                        self.assertTrue(route.path.endswith(">"), (door, verb, variant))
                        self.assertNotIn(list(arguments.values())[-1], FILLED.values())

    def test_the_door_for_enrolment_changes_nothing_but_by_an_enrolment(self) -> None:
        changing = {(verb, path) for verb, path in self.own["8443"] if verb != "GET"}
        self.assertEqual(changing, {("POST", "/v1/service-engines/se-1/enrolment")})

    def test_no_service_engine_can_name_another_one(self) -> None:
        for door in ("control of a node", "reports of a node"):
            self.assertEqual([each.path for each in self.routes[door] if "<" in each.path], [])
