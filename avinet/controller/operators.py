"""The operators' door: the whole REST API, for `avictl` on the node's UNIX socket."""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Sequence
from typing import Any

from avinet import __version__
from avinet.controller.api.admission import admission_routes
from avinet.controller.api.certificates import certificate_routes
from avinet.controller.api.configuration import configuration_routes
from avinet.controller.api.engines import engine_routes
from avinet.controller.api.jobs import job_routes
from avinet.controller.api.log_pulls import log_pull_routes
from avinet.controller.api.log_queries import log_query_routes
from avinet.controller.api.overview import overview_routes
from avinet.controller.api.rollouts import rollout_routes
from avinet.controller.api.rollups import rollup_routes
from avinet.controller.api.significant import significant_routes
from avinet.controller.api.succession import succession_routes
from avinet.controller.node import Node
from avinet.rest.openapi import openapi
from avinet.rest.route import Reply, Request, Route


def peer_name(transport: Any) -> str:
    """The user at the other end of a UNIX socket, as the kernel says (SO_PEERCRED)."""
    raw = transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", raw)[1]
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


def operator_routes(node: Node) -> Sequence[Route]:
    """The routes of the operators' door."""

    async def described(request: Request) -> Reply:
        return Reply(200, openapi("avinet", __version__, routes))

    routes = [
        Route("GET", "/v1/openapi.json", described, "This description"),
        *overview_routes(node),
        *admission_routes(node),
        *engine_routes(node),
        *job_routes(node),
        *log_pull_routes(node),
        *log_query_routes(node),
        *significant_routes(node),
        *configuration_routes(node),
        *rollout_routes(node),
        *rollup_routes(node),
        *certificate_routes(node),
        *succession_routes(node),
    ]
    return routes
