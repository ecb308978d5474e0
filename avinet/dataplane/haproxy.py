"""HAProxy as the data plane: a master-worker in a session of its own, which outlives the service engine's process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredLock, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from avinet.aio import CANCELLED, Tasks, pause
from avinet.dataplane.intake import Intake, Worker
from avinet.dataplane.interface import Lines, Missed, Records, ServerState, nobody_listens
from avinet.dataplane.keyring import Keyring
from avinet.dataplane.leaving import take_rest
from avinet.dataplane.losses import Losses
from avinet.dataplane.master import Master, claim_ports
from avinet.dataplane.observed import Observed
from avinet.dataplane.records import Record
from avinet.dataplane.render import RECORDS_SOCKET, first_of_backends, render
from avinet.dataplane.runtime import dropped_logs, stat_lines
from avinet.dataplane.unheard import Unheard
from avinet.errors import AvinetError, Invalid, NotFound, Unavailable
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Config
from avinet.wire.report import ServerHealth, ServiceTraffic

POLL_S = 0.5
RESTART_CAP_S = 10.0
CLEARED_S = 1.0


class HAProxy:
    """See `avinet.dataplane.interface.Dataplane`. All that it keeps is in `folder`; `program` is the binary.

    The certificates that it serves are in a folder below `keys` for it to read.
    """

    log = Logger()

    def __init__(self, reactor: Any, folder: Path, keys: Path, program: str, version: str) -> None:
        self.name = f"HAProxy {version}"
        self.changed: Callable[[], None] = lambda: None
        self.lines: Lines = lambda lines: None
        self.records: Records = lambda records, lines: None
        self.missed: Missed = nobody_listens
        self._reactor = reactor
        self._master = Master(reactor, folder, program)
        self._keyring = Keyring(self._master, keys)
        self._tasks = Tasks()
        self._leaving = Tasks()
        self._config: Config | None = None
        self._losses = Losses(reactor.seconds, lambda *missing: self.missed(*missing))
        self._intake = Intake(self._take, self._losses.miss, self._worker_ended)
        self._unheard = Unheard(reactor, folder, self._master.lives, self._losses)
        self._port: IListeningPort | None = None
        self._observed = Observed()
        self._change = DeferredLock()

    # Start, apply, end

    async def start(self, config: Config) -> None:
        """Attach to what runs, or start it; see `Dataplane`."""
        if self._port is None:
            self._listen()
            self._tasks.spawn(self._watch(), "watching HAProxy")
            running = await self._master.find()
            old = running.old if running is not None else ()  # of these nobody knows what was taken before
            self._leaving.spawn(self._unheard.outlast(old), "waiting for the end of workers")
        await self.apply(config)

    def _listen(self) -> None:
        (self._master.folder / RECORDS_SOCKET).unlink(missing_ok=True)
        self._port = self._reactor.listenUNIX(str(self._master.sockets / RECORDS_SOCKET), self._intake, mode=0o600)

    async def check(self, config: Config) -> None:
        """`haproxy -c`; see `Dataplane`."""
        async with self._change, self._untaken():
            await self._check(config)

    async def _check(self, config: Config) -> None:
        await self._keyring.lay_out(config)
        await self._master.check(render(config))

    async def apply(self, config: Config) -> None:
        """Reload without losing a connection, or start what does not run; see `Dataplane`."""
        async with self._change, self._untaken():
            await self._keyring.lay_out(config)
            running = await self._master.find()
            if running is None:
                if self._config is not None or self._master.written():
                    self._losses.died(None if self._config is not None else self._master.last_started_s())
                await self._master.end_leftovers()
                await self._claim_ports(config)
                await self._bring(config, self._master.launch)
                self._losses.listens()
            elif not await self._master.runs(render(config)):
                self._claim_new_ports(config)
                await self._bring(config, self._master.reload)
            elif self._master.written() != render(config):
                await self._master.write(render(config))
            await self._keyring.bring(config)
            self._config = config
            self._observed.serves(first_of_backends(config))
            await self._keyring.keep_only(config)
            await self._look()

    async def _claim_ports(self, config: Config) -> None:
        """See `claim_ports`; one that was killed a moment ago holds its ports until the kernel has cleared up."""
        deadline = self._reactor.seconds() + CLEARED_S
        while True:
            try:
                claim_ports(config.virtual_services)
                return
            except Invalid:
                if self._reactor.seconds() >= deadline:
                    raise
            await pause(self._reactor, POLL_S / 10)

    def _claim_new_ports(self, config: Config) -> None:
        """See `claim_ports`; what an HAProxy holds that was only just found is known to itself alone."""
        if self._config is not None:
            known = {(each.address, each.port) for each in self._config.virtual_services}
            claim_ports([each for each in config.virtual_services if (each.address, each.port) not in known])

    async def _bring(self, config: Config, change: Callable[[], Awaitable[None]]) -> None:
        """Have HAProxy read `config` by `change`; when it does not take it, it has what it had."""
        await self._check(config)
        before = self._master.written()
        await self._master.write(render(config))
        try:
            await change()
        except AvinetError:
            await self._master.write(before)
            with contextlib.suppress(AvinetError):
                await self._master.reload()
            raise
        self._keyring.was_read()

    # Certificates

    async def take_certificate(self, name: str, certificate: ServerCertificate) -> None:
        """See `Dataplane`, and `Keyring`."""
        async with self._change:
            served = self._config is not None and name in self._config.certificates
            await self._keyring.take(name, certificate, served=served)

    def drop_certificate(self, name: str) -> None:
        """See `Dataplane`."""
        self._keyring.drop(name)

    @contextlib.asynccontextmanager
    async def _untaken(self) -> AsyncIterator[None]:
        """Removes the keys that only a configuration needs that is not taken."""
        try:
            yield
        except AvinetError:
            if self._config is not None:
                await self._keyring.keep_only(self._config)
            raise

    # What it says

    async def _watch(self) -> None:
        """Read the health of the servers, and start HAProxy again when it is gone."""
        wait_s = POLL_S
        while True:
            await pause(self._reactor, wait_s)
            async with self._change:
                try:
                    await self._look()
                    self._losses.listens()
                    wait_s = POLL_S
                except CANCELLED:
                    raise
                except Exception as error:  # the edge: whatever it is, HAProxy must not stay down for it
                    wait_s = min(2 * wait_s, RESTART_CAP_S)
                    if not isinstance(error, AvinetError):
                        self.log.failure("what HAProxy says of itself could not be read")
                    await self._revive(str(error))

    async def _revive(self, why: str) -> None:
        try:
            if self._config is None or await self._master.find() is not None:
                return
            self.log.warn("HAProxy is gone ({why}): starting it again", why=why)
            self._losses.died()
            await self._master.end_leftovers()
            await self._keyring.lay_out(self._config)
            await self._master.launch()
            self._losses.listens()
            self._keyring.was_read()
            await self._look()
        except AvinetError as failure:
            self.log.warn("HAProxy does not start again: {why}", why=str(failure))
        except CANCELLED:
            raise
        except Exception:  # the edge, as above
            self.log.failure("HAProxy does not start again")

    async def _look(self) -> None:
        frontends, servers = stat_lines(await self._master.stats("show stat"))
        if self._observed.look(frontends, servers, self._reactor.seconds()):
            self.changed()

    def _worker_ended(self, worker: Worker) -> None:
        self._leaving.spawn(self._take_rest(worker), "taking the last records of a worker")

    async def _take_rest(self, worker: Worker) -> None:
        """See `take_rest`."""
        whole = False
        try:
            whole = await take_rest(self._reactor, worker, self._master.ring, self._master.state, self._master.lives)
        finally:
            if not whole:
                self._losses.died()
                self._unheard.left(worker.pid)

    def _take(self, records: Sequence[Record], lines: Sequence[bytes]) -> None:
        last = records[-1]
        self._losses.taken((last.time + max(0, last.total_ms)) / 1000)
        self._observed.count(records)
        self.lines(lines)
        self.records(records, lines)

    def health(self) -> Sequence[ServerHealth]:
        """See `Dataplane`."""
        return list(self._observed.health)

    async def traffic(self) -> Sequence[ServiceTraffic]:
        """See `Dataplane`."""
        with contextlib.suppress(Unavailable):
            await self._look()
            self._losses.dropped(dropped_logs(await self._master.stats("show info")))
        services = {each.name for each in self._config.virtual_services} if self._config else set()
        return self._observed.take(services)

    def lost_records(self) -> int:
        """See `Dataplane`."""
        return self._losses.take()

    async def set_server(self, pool: str, server: str, state: ServerState) -> None:
        """See `Dataplane`."""
        modes = [each for each in ("http", "tcp") if f"backend {each}.{pool}\n" in self._master.written()]
        if (pool, server) not in {(each.pool, each.server) for each in self._observed.health} or not modes:
            raise NotFound(f"there is no server {server} in a pool {pool}")
        for mode in modes:
            said = await self._master.stats(f"set server {mode}.{pool}/{server} state {state}")
            if said.strip():
                raise Invalid(f"HAProxy does not change {pool}/{server}: {said.strip()[:200]}")
        await self._look()

    def describe(self) -> dict[str, object]:
        """See `Dataplane`."""
        services = self._config.virtual_services if self._config else []
        return {
            "engine": self.name,
            "virtual_services": [
                {
                    "name": each.name,
                    "listens": f"{each.address}:{each.port}",
                    "mode": each.mode,
                    "tls": bool(each.tls),
                    "connections": self._observed.connections(each.name),
                }
                for each in services
            ],
            "folder": str(self._master.folder),
        }

    # The end

    async def detach(self) -> None:
        """HAProxy goes on; see `Dataplane`."""
        self._tasks.stop()
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        await self._leaving.end()
        try:
            await self._master.in_thread(self._unheard.keep)
        except AvinetError as error:
            self.log.warn("that workers of HAProxy still leave is not kept: {why}", why=str(error))
        self._losses.listens()
        if port is not None:
            await self._intake.close(self._reactor)
            self._master.release()

    async def shut_down(self, drain_s: float) -> None:
        """A soft stop, and after `drain_s` a hard one; see `Dataplane`."""
        self._tasks.stop()
        async with self._change:
            await self._master.end(drain_s)
            self._config = None
            await self._keyring.keep_only(Config())
        await self.detach()
