"""The `control` service of a service engine: what a node may ask of it through the tunnel.

Whoever reaches it proves nothing by that: every request that changes something is signed by an `avictlruser` key that
the trust document names, for this service engine, with a fence no lower than the highest seen.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

from avinet.errors import NotFound
from avinet.rest.route import Answer, Reply, Request, Route
from avinet.rest.streaming import Streamed
from avinet.wire.certificates import PUSH_LIMIT_BYTES, CertificatePush, CertificateState
from avinet.wire.command import COMMAND_LIMIT_BYTES, CommandEvent, CommandRequest, OperatorKey, OutputRequest
from avinet.wire.config import ConfigPush, ConfigState
from avinet.wire.fleet import EngineDelete
from avinet.wire.trust import SignedTrust, TrustHeld

CONFIG_PUSH_LIMIT_BYTES = 8 * 1024 * 1024
_JOB = re.compile(r"[a-z0-9-]{8,64}\Z")


class Authority(Protocol):
    """Decides whether a request comes from a node that may ask for it now."""

    def check(self, request: Request) -> str:
        """The node's id. Raises `Unauthenticated` for a bad signature, `Conflict` for a fence that is too low."""


class Engine(Protocol):
    """What the routes act on."""

    async def configure(self, push: ConfigPush) -> ConfigState:
        """Validate and apply; see `avinet.config.apply`."""

    async def take_certificates(self, push: CertificatePush) -> CertificateState:
        """Check, serve and keep; see `avinet.se.custody`."""

    async def command(self, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        """Run a command, at most once for its job id; what it prints, as it comes."""

    async def output(self, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        """What a job prints behind a place. One that was never begun never will be."""

    def cancel(self, job: str) -> None:
        """Have a job end."""

    async def trust(self, signed: SignedTrust) -> int:
        """Take a trust document with a higher epoch; the one that it has then."""

    def admit_operator(self, key: OperatorKey) -> str:
        """Let an operator's key log in to the SSH service until it expires; returns the service's host key."""

    async def rotate(self) -> None:
        """Change its key, and come back with the new one."""

    async def depart(self, drain_s: float) -> None:
        """Drain the data plane and end it: the service engine is being deleted."""

    def status(self) -> dict[str, object]:
        """The state of the service engine, for people."""


def _job(request: Request) -> str:
    job = request.arguments["job"]
    if not _JOB.match(job):
        raise NotFound("there is no such job")
    return job


def control_routes(engine: Engine, authority: Authority) -> Sequence[Route]:
    """The routes of the `control` service."""

    def signed(answer: Callable[[Request], Awaitable[Reply | Streamed]]) -> Answer:
        async def checked(request: Request) -> Reply | Streamed:
            authority.check(request)
            return await answer(request)

        return checked

    async def configure(request: Request) -> Reply:
        return Reply(200, await engine.configure(request.decoded(ConfigPush)))

    async def certificates(request: Request) -> Reply:
        return Reply(200, await engine.take_certificates(request.decoded(CertificatePush)))

    async def command(request: Request) -> Streamed:
        return Streamed(await engine.command(request.decoded(CommandRequest)))

    async def output(request: Request) -> Streamed:
        after = request.decoded(OutputRequest).after
        return Streamed(await engine.output(_job(request), after))

    async def cancel(request: Request) -> Reply:
        engine.cancel(_job(request))
        return Reply(204)

    async def trust(request: Request) -> Reply:
        return Reply(200, TrustHeld(epoch=await engine.trust(request.decoded(SignedTrust))))

    async def admit(request: Request) -> Reply:
        host_key = engine.admit_operator(request.decoded(OperatorKey))
        return Reply(200, {"host_key": host_key})

    async def rotate(request: Request) -> Reply:
        await engine.rotate()
        return Reply(204)

    async def depart(request: Request) -> Reply:
        await engine.depart(request.decoded(EngineDelete).drain_s)
        return Reply(204)

    async def status(request: Request) -> Reply:
        return Reply(200, engine.status())

    job = "/v1/commands/<job>"
    return [
        Route(
            "PUT",
            "/v1/configuration",
            signed(configure),
            "Apply a configuration",
            ConfigPush,
            ConfigState,
            limit_bytes=CONFIG_PUSH_LIMIT_BYTES,
        ),
        Route(
            "PUT",
            "/v1/certificates",
            signed(certificates),
            "Take certificates with their keys",
            CertificatePush,
            CertificateState,
            limit_bytes=PUSH_LIMIT_BYTES,
        ),
        Route(
            "POST",
            "/v1/commands",
            signed(command),
            "Run a command",
            CommandRequest,
            limit_bytes=COMMAND_LIMIT_BYTES,
            streams=CommandEvent,
        ),
        Route("POST", f"{job}/output", signed(output), "What it prints", OutputRequest, streams=CommandEvent),
        Route("POST", f"{job}/end", signed(cancel), "Have it end", status=204),
        Route(
            "PUT", "/v1/trust", signed(trust), "Take a newer trust document", SignedTrust, TrustHeld, limit_bytes=10**6
        ),
        Route("PUT", "/v1/operator-keys", signed(admit), "Admit an operator's SSH key for a while", OperatorKey),
        Route("POST", "/v1/departure", signed(depart), "Drain and end the data plane", EngineDelete, status=204),
        Route("POST", "/v1/key-rotation", signed(rotate), "Change its key", status=204),
        Route("GET", "/v1/status", status, "The state of the service engine"),
    ]
