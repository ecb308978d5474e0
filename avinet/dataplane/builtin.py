"""The built-in proxy: listeners and pools in the service engine's own process, where no HAProxy is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from avinet.aio import Tasks, pause
from avinet.dataplane.certificates import require
from avinet.dataplane.counting import Counter
from avinet.dataplane.interface import Lines, Missed, Records, ServerState, nobody_listens
from avinet.dataplane.listener import Listener, Served
from avinet.dataplane.pools import LivePool
from avinet.dataplane.records import Record, line
from avinet.dataplane.tls import context
from avinet.errors import Invalid, NotFound
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Config, VirtualService
from avinet.wire.report import ServerHealth, ServiceTraffic

BACKLOG = 1024


Place = tuple[str, int]


@dataclass(frozen=True)
class _Open:
    listener: Listener
    port: IListeningPort


class BuiltIn:
    """See `avinet.dataplane.interface.Dataplane`. It ends with the process."""

    name = "built-in"

    def __init__(self, reactor: Any) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.lines: Lines = lambda lines: None
        self.records: Records = lambda records, lines: None
        self.missed: Missed = nobody_listens
        self._reactor = reactor
        self._certificates: dict[str, ServerCertificate] = {}
        self._tasks = Tasks()
        self._config = Config()
        self._open: dict[Place, _Open] = {}
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
        wanted = {(service.address, service.port): service for service in config.virtual_services}
        opened: dict[Place, _Open] = {}
        try:
            for place, service in wanted.items():
                if place not in self._open:
                    opened[place] = self._listen(service)
        except Invalid:
            for each in opened.values():
                await maybeDeferred(each.port.stopListening)
            raise
        for place in self._open.keys() - wanted.keys():
            await self._close(self._open.pop(place))
        self._open |= opened
        for place, service in wanted.items():
            listener = self._open[place].listener
            if not listener.served.fits(service):
                self._leave(listener.served)
                listener.served = self._serve(service)
            listener.served.change(service, self._counter(service.name), self._certificates)
        self._update_pools(config)
        self._config = config

    async def take_certificate(self, name: str, certificate: ServerCertificate) -> None:
        """See `Dataplane`."""
        context(certificate, "1.2")
        self._certificates[name] = certificate
        for each in self._services():
            if each.service.tls is not None and name in each.service.tls.certificates:
                each.change(each.service, each.front.counter, self._certificates)

    def drop_certificate(self, name: str) -> None:
        """See `Dataplane`."""
        self._certificates.pop(name, None)

    def _services(self) -> list[Served]:
        return [each.listener.served for each in self._open.values()]

    def _counter(self, name: str) -> Counter:
        return self._counters.setdefault(name, Counter(name))

    def _serve(self, service: VirtualService) -> Served:
        served = Served(self._reactor, service, self._counter(service.name), self._pool, self._tasks, self._take)
        served.change(service, self._counter(service.name), self._certificates)
        return served

    def _take(self, record: Record) -> None:
        lines = [line(record)]
        self.lines(lines)
        self.records([record], lines)

    def _listen(self, service: VirtualService) -> _Open:
        listener = Listener(self._serve(service))
        interface = "" if service.address == "*" else service.address
        try:
            port = self._reactor.listenTCP(service.port, listener, backlog=BACKLOG, interface=interface)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or str(error.socketError)
            raise Invalid(
                f"virtual service {service.name} cannot listen on {service.address}:{service.port}: {reason}",
                hint="free the port, or choose another one",
            ) from error
        return _Open(listener, port)

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

    async def _close(self, each: _Open) -> None:
        """Accept nothing more; what is open goes on to its end."""
        await maybeDeferred(each.port.stopListening)
        self._leave(each.listener.served)

    def _leave(self, served: Served) -> None:
        self._leaving = [each for each in [*self._leaving, served.front] if each.open]

    def health(self) -> Sequence[ServerHealth]:
        """See `Dataplane`."""
        return [each for pool in self._pools.values() for each in pool.health()]

    async def traffic(self) -> Sequence[ServiceTraffic]:
        """See `Dataplane`."""
        taken = [counter.take() for counter in self._counters.values()]
        served = {each.service.name for each in self._services()}
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
                    "tls": bool(each.service.tls),
                    "connections": len(each.front.open),
                }
                for each in self._services()
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
        for each in list(self._open.values()):
            await self._close(each)
        self._open.clear()
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
