"""The built-in proxy: listeners and pools in the service engine's own process, where no HAProxy is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from avinet.aio import Tasks, pause
from avinet.dataplane.balance import route
from avinet.dataplane.certificates import Certificates, require
from avinet.dataplane.counting import Counter
from avinet.dataplane.http_proxy import HTTPFront
from avinet.dataplane.interface import ServerState
from avinet.dataplane.pools import LivePool
from avinet.dataplane.tcp_proxy import TCPFront
from avinet.errors import Invalid, NotFound
from avinet.wire.config import Config, VirtualService
from avinet.wire.report import ServerHealth, ServiceTraffic

BACKLOG = 1024


Place = tuple[str, int, str]


def place_of(service: VirtualService) -> Place:
    """What a listener is bound to, and how it speaks: services that only change their names keep it."""
    return service.address, service.port, service.mode


class Listener:
    """One virtual service that is being served; its configuration may change while it listens."""

    def __init__(self, service: VirtualService, port: IListeningPort, front: Any) -> None:
        self.service = service
        self.port = port
        self.front = front


class BuiltIn:
    """See `avinet.dataplane.interface.Dataplane`. It ends with the process, and serves what `certificates` hold."""

    name = "built-in"

    def __init__(self, reactor: Any, certificates: Certificates) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._reactor = reactor
        self._certificates = certificates
        self._tasks = Tasks()
        self._config = Config()
        self._listeners: dict[Place, Listener] = {}
        self._pools: dict[str, LivePool] = {}
        self._counters: dict[str, Counter] = {}
        self._leaving: list[Any] = []

    async def start(self, config: Config) -> None:
        """Listen and serve; see `Dataplane`."""
        await self.apply(config)

    async def check(self, config: Config) -> None:
        """Any can run, if its ports are free and its certificates held; see `Dataplane`."""
        require(config, self._certificates)

    async def apply(self, config: Config) -> None:
        """New ports are opened first: if one is taken, they are closed again and nothing has changed."""
        require(config, self._certificates)
        wanted = {place_of(service): service for service in config.virtual_services}
        opened: dict[Place, Listener] = {}
        try:
            for place, service in wanted.items():
                if place not in self._listeners:
                    opened[place] = self._listen(service)
        except Invalid:
            for listener in opened.values():
                await maybeDeferred(listener.port.stopListening)
            raise
        for place in self._listeners.keys() - wanted.keys():
            await self._close(self._listeners.pop(place))
        self._listeners |= opened
        for place, service in wanted.items():
            listener = self._listeners[place]
            listener.service = service
            listener.front.counter = self._counter(service.name)
        self._update_pools(config)
        self._config = config

    def _counter(self, name: str) -> Counter:
        return self._counters.setdefault(name, Counter(name))

    def _listen(self, service: VirtualService) -> Listener:
        counter = self._counter(service.name)
        front: Any
        if service.mode == "http":
            front = HTTPFront(
                self._reactor, counter, lambda host, path: self._pool(route(listener.service, host, path)), self._tasks
            )
        else:
            front = TCPFront(self._reactor, counter, lambda: self._pool(listener.service.pool), self._tasks)
        interface = "" if service.address == "*" else service.address
        try:
            port = self._reactor.listenTCP(service.port, front, backlog=BACKLOG, interface=interface)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or str(error.socketError)
            raise Invalid(
                f"virtual service {service.name} cannot listen on {service.address}:{service.port}: {reason}",
                hint="free the port, or choose another one",
            ) from error
        listener = Listener(service, port, front)
        return listener

    def _pool(self, name: str | None) -> LivePool | None:
        return self._pools.get(name) if name is not None else None

    def _update_pools(self, config: Config) -> None:
        wanted = {pool.name: pool for pool in config.pools}
        for name in set(self._pools) - set(wanted):
            self._pools.pop(name).stop()
        for name, pool in wanted.items():
            live = self._pools.get(name)
            if live is None:
                live = self._pools[name] = LivePool(self._reactor, pool, lambda: self.changed(), self._tasks)
                live.start()
            elif live.config != pool:
                live.update(pool)

    async def _close(self, listener: Listener) -> None:
        """Accept nothing more; what is open goes on to its end."""
        await maybeDeferred(listener.port.stopListening)
        self._leaving = [each for each in [*self._leaving, listener.front] if each.open]

    def health(self) -> Sequence[ServerHealth]:
        """See `Dataplane`."""
        return [each for pool in self._pools.values() for each in pool.health()]

    async def traffic(self) -> Sequence[ServiceTraffic]:
        """See `Dataplane`."""
        taken = [counter.take() for counter in self._counters.values()]
        served = {listener.service.name for listener in self._listeners.values()}
        for name in [name for name in self._counters if name not in served]:
            if not self._counters[name].connections:
                del self._counters[name]
        return [each for each in taken if each is not None]

    def lost_records(self) -> int:
        """None: every request is counted where it is served."""
        return 0

    async def set_server(self, pool: str, server: str, state: ServerState) -> None:
        """See `Dataplane`."""
        live = self._pools.get(pool)
        if live is None:
            raise NotFound(f"there is no pool {pool}")
        live.set_state(server, state)

    def describe(self) -> dict[str, object]:
        """See `Dataplane`."""
        return {
            "engine": self.name,
            "virtual_services": [
                {
                    "name": each.service.name,
                    "listens": f"{each.service.address}:{each.service.port}",
                    "mode": each.service.mode,
                    "connections": len(each.front.open),
                }
                for each in self._listeners.values()
            ],
            "pools": {
                name: {server: member.state for server, member in pool.members.items()}
                for name, pool in self._pools.items()
            },
        }

    async def detach(self) -> None:
        """The proxy ends with the process; see `Dataplane`."""
        await self.shut_down(0.0)

    async def shut_down(self, drain_s: float) -> None:
        """See `Dataplane`."""
        for listener in self._listeners.values():
            await self._close(listener)
        self._listeners.clear()
        deadline = self._reactor.seconds() + drain_s
        while any(front.open for front in self._leaving) and self._reactor.seconds() < deadline:
            await pause(self._reactor, 0.05)
        for front in self._leaving:
            for connection in list(front.open):
                connection.transport.abortConnection()
        for pool in self._pools.values():
            pool.stop()
        self._pools.clear()
        self._tasks.stop()
