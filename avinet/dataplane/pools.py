"""The pools of the built-in proxy at work: servers, their health checks, and which one is next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import CANCELLED, Tasks, within
from avinet.dataplane.balance import BALANCE, Rise, in_service
from avinet.dataplane.interface import ServerState
from avinet.errors import AvinetError, NotFound, Unavailable
from avinet.wire.config import HealthCheck, Pool, Server
from avinet.wire.report import ServerHealth

CONNECT_S = 5.0
DIALS = 3
_ANSWER_BYTES = 4096


class Member:
    """One server of a pool, as the proxy sees it."""

    def __init__(self, server: Server, now: float) -> None:
        self.server = server
        self.state: ServerState = "ready"
        self.rise = Rise()
        self.since = now
        self.why = ""
        self.active = 0
        self.current = 0

    @property
    def weight(self) -> int:
        """Its share of new connections."""
        return self.server.weight if self.state == "ready" else 0


class LivePool:
    """A pool at work; `changed` is called when a server goes up or down."""

    def __init__(self, reactor: Any, config: Pool, changed: Callable[[], None], tasks: Tasks) -> None:
        self.config = config
        self._reactor = reactor
        self._changed = changed
        self._tasks = tasks
        self._timers: dict[str, IDelayedCall] = {}
        self.members = {each.name: Member(each, reactor.seconds()) for each in config.servers}

    def start(self) -> None:
        """Begin to check."""
        for member in self.members.values():
            self._check_soon(member, 0.0)

    def stop(self) -> None:
        """Check no more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.members = {}

    def update(self, config: Pool) -> None:
        """Go on with a new configuration; servers that stay keep their health."""
        old = self.members
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.config = config
        self.members = {}
        for server in config.servers:
            member = old.get(server.name)
            if member is None or (member.server.address, member.server.port) != (server.address, server.port):
                member = Member(server, self._reactor.seconds())
            member.server = server
            self.members[server.name] = member
        self.start()

    def choose(self, refused: set[str]) -> Member | None:
        """The server for a new connection, none of those in `refused`; None when there is none."""
        able = [each for each in self.members.values() if each.rise.up is not False and each.server.name not in refused]
        return BALANCE[self.config.balance](in_service(able))

    async def connect(self, factory: Any, dialled: list[str]) -> tuple[Member, Any]:
        """A server and a protocol that is connected to it; tries others when one does not answer.

        The names of those that it dials are put into `dialled`. Raises `Unavailable` when none answers.
        """
        while len(dialled) < DIALS and (member := self.choose(set(dialled))) is not None:
            dialled.append(member.server.name)
            with contextlib.suppress(AvinetError):
                return member, await self._dial(member.server, factory, CONNECT_S)
        raise Unavailable(f"no server of pool {self.config.name} can be reached")

    async def _dial(self, server: Server, factory: Any, timeout_s: float) -> Any:
        endpoint = HostnameEndpoint(self._reactor, server.address, server.port, timeout=timeout_s)
        try:
            return await within(self._reactor, timeout_s, endpoint.connect(factory), f"server {server.name}")
        except (AvinetError, *CANCELLED):
            raise
        except Exception as error:  # the edge: name look-up and connect fail with types of their own
            raise Unavailable(f"server {server.name}: {error}") from error

    def set_state(self, server: str, state: ServerState) -> None:
        """Take a server out of the balancing or back into it. Raises `NotFound`."""
        member = self.members.get(server)
        if member is None:
            raise NotFound(f"pool {self.config.name} has no server {server}")
        member.state = state
        self._changed()

    def health(self) -> list[ServerHealth]:
        """The health of every server."""
        return [
            ServerHealth(
                pool=self.config.name,
                server=name,
                state="unknown" if member.rise.up is None else "up" if member.rise.up else "down",
                since=member.since,
                why=member.why,
            )
            for name, member in self.members.items()
        ]

    def _check_soon(self, member: Member, delay_s: float) -> None:
        self._timers[member.server.name] = self._reactor.callLater(delay_s, self._check, member)

    def _check(self, member: Member) -> None:
        del self._timers[member.server.name]
        self._tasks.spawn(self._checked(member), "checking a server")

    async def _checked(self, member: Member) -> None:
        check, server = self.config.health_check, member.server
        try:
            why = await self._probe(server, check)
        except AvinetError as error:
            why = error.what
        if self.members.get(server.name) is not member or server.name in self._timers:
            return
        before = member.rise
        member.rise = before.checked(not why, check.rise, check.fall)
        if member.rise.up != before.up:
            member.since, member.why = self._reactor.seconds(), why[:200]
            self._changed()
        self._check_soon(member, check.interval_ms / 1000)

    async def _probe(self, server: Server, check: HealthCheck) -> str:
        """Why a server is not well; empty when it is. Raises `Unavailable` when it cannot be reached."""
        timeout_s = check.timeout_ms / 1000
        protocol = await self._dial(server, Factory.forProtocol(_Probe), timeout_s)
        try:
            if check.kind == "tcp":
                return ""
            request = f"GET {check.path} HTTP/1.1\r\nhost: {server.address}\r\nconnection: close\r\n\r\n"
            protocol.transport.write(request.encode("ascii"))
            status = await within(self._reactor, timeout_s, protocol.status, f"server {server.name}")
            return "" if 200 <= status < 400 else f"the check was answered {status}" if status else "no HTTP answer"
        finally:
            protocol.transport.abortConnection()


class _Probe(Protocol):
    """Reads the status of an answer to a health check; 0 for what is no HTTP."""

    transport: Any

    def __init__(self) -> None:
        self.status: Deferred[int] = Deferred()
        self._data = b""

    @override
    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if b"\n" in self._data or len(self._data) > _ANSWER_BYTES:
            words = self._data.split(b"\n")[0].split()
            known = len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit()
            self._settle(int(words[1]) if known else 0)

    def _settle(self, status: int) -> None:
        if not self.status.called:
            self.status.callback(status)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._settle(0)
