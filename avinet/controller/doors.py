"""The doors of a node for service engines: enrolment and tunnels; and the way to the operators' socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avinet.controller.engine_door import control_routes, report_routes
from avinet.controller.node import Node
from avinet.controller.sessions import Session
from avinet.controller.settings import ControllerSettings
from avinet.controller.significant import log_routes
from avinet.enrolment.door import enrolment_routes
from avinet.errors import LocalError
from avinet.flow.allowance import Allowance
from avinet.rest.answering import DoorLimits
from avinet.rest.door import Door
from avinet.rest.table import Table
from avinet.ssh.gate import Limits
from avinet.ssh.identity import Identity
from avinet.ssh.opening import ChannelLimits
from avinet.ssh.policy import POST_QUANTUM, Policy
from avinet.ssh.server import Server
from avinet.ssh.tunnel import ServerTunnel, Services, Tunnel

ENGINE_DOOR = DoorLimits(connections=16)
"""What one service engine may have open at a service of its node."""


def enrolment_door(reactor: Any, settings: ControllerSettings, node: Node) -> Door:
    """What a service engine without a key of its own finds on 8443."""

    def signer() -> Any:
        domain = node.standing.domain
        return domain.server.key, domain.server_chain

    routes = enrolment_routes(
        node.registrar,
        trust=lambda: node.standing.signed,
        nonce_key=node.standing.domain.nonce_key,
        signer=signer,
        now=node.now,
        allowance=Allowance(
            reactor.seconds,
            burst=settings.enrolment.calls_at_once,
            per_s=settings.enrolment.calls_per_second,
        ),
    )
    return Door(reactor, Table(routes), tasks=node.tasks)


def tunnel_door(reactor: Any, settings: ControllerSettings, node: Node, random: Callable[[], float]) -> Server:
    """What a service engine finds on port 22, and behind its login."""
    ssh = settings.ssh
    control = Table(
        control_routes(node.desired, node.greetings, node.rotations, lambda: node.standing.signed, reactor.seconds)
    )
    reports = Table(report_routes(node.fleet, node.counted, node.distributor, node.supply, node.reported, node.now))
    logs = Table(log_routes(node.logs.recent, node.logs.batches, node.now))
    sessions = node.sessions
    limits = ChannelLimits(channels=ssh.channels)

    def services(tunnel: Tunnel) -> Services:
        def session(_: Any) -> Session:
            return sessions.of(tunnel)

        return {
            service: Door(reactor, table, tasks=node.tasks, identify=session, limits=ENGINE_DOOR)
            for service, table in (("control:80", control), ("reports:80", reports), ("logs:80", logs))
        }

    def offered(tunnel: Tunnel, service: str) -> None:
        sessions.offered(sessions.of(tunnel), service)

    def connection(identity: Identity) -> ServerTunnel:
        tunnel = ServerTunnel(
            reactor,
            identity,
            services,
            limits=limits,
            dead_after_s=ssh.dead_after_s,
            on_offer=offered,
        )
        sessions.opened(identity.admitted, tunnel, identity.address)
        return tunnel

    return Server(
        reactor,
        node.standing.domain.ssh_host_key,
        node.sessions,
        connection,
        policy=Policy(
            login_s=ssh.login_s,
            key_exchanges=POST_QUANTUM if ssh.post_quantum_only else Policy.key_exchanges,
        ),
        limits=Limits(
            in_all=ssh.unauthenticated,
            per_source=ssh.unauthenticated_from_one,
            per_second=ssh.logins_per_second,
        ),
        random=random,
        late_s=lambda: node.stalls.late_s,
        on_claim=node.misuse.turned_down,
    )


def free_socket(path: Path) -> None:
    """Remove the socket that a process left behind. Raises `LocalError` when somebody listens on it still."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as trial:
        try:
            trial.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: it listens
        except OSError as error:
            raise LocalError(f"cannot listen on {path}: {error.strerror}") from error
    raise LocalError(
        f"cannot listen on {path}: another process does", hint="stop that one, or set another path as `socket`"
    )
