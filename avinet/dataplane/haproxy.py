"""HAProxy as the data plane: a master-worker in a session of its own, which outlives the service engine's process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from avinet.aio import Tasks, pause
from avinet.dataplane.counting import Counter
from avinet.dataplane.intake import Intake, RequestRecord
from avinet.dataplane.interface import ServerState
from avinet.dataplane.render import MASTER_SOCKET, RECORDS_SOCKET, STATE_FILE, STATS_SOCKET, render
from avinet.dataplane.runtime import Processes, ask, first_alert, processes, stat_lines
from avinet.errors import AvinetError, Invalid, LocalError, NotFound, Unavailable
from avinet.files import private_folder, write_atomic
from avinet.wire.config import Config, VirtualService
from avinet.wire.report import ServerHealth, ServiceTraffic

POLL_S = 0.5
START_S = 10.0
CHECK_S = 30.0
RESTART_CAP_S = 10.0


class HAProxy:
    """See `avinet.dataplane.interface.Dataplane`. All that it keeps is in `folder`; `program` is the binary."""

    log = Logger()

    def __init__(self, reactor: Any, folder: Path, program: str, version: str) -> None:
        self.name = f"HAProxy {version}"
        self.changed: Callable[[], None] = lambda: None
        self._reactor = reactor
        self._folder = private_folder(folder)
        # The way to the sockets is through the open folder: their whole path may be longer than a socket's may be.
        self._opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sockets = Path(f"/proc/self/fd/{self._opened}")
        self._program = program
        self._tasks = Tasks()
        self._config: Config | None = None
        self._intake = Intake(self._record)
        self._port: IListeningPort | None = None
        self._counters: dict[str, Counter] = {}
        self._totals: dict[str, int] = {}
        self._health: list[ServerHealth] = []
        self._dropped = 0
        self._said_bad = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._changing = False

    # Start, apply, end

    async def start(self, config: Config) -> None:
        """Attach to what runs, or start it; see `Dataplane`."""
        self._listen()
        running = await self._find()
        if running is None:
            self._claim_ports(config.virtual_services)
            await self.check(config)
            self._write(config)
            await self._launch()
            self._config = config
        else:
            self.log.info("attached to HAProxy {master}", master=running.master)
            if self._written() != render(config):
                self._config = Config()
                await self.apply(config)
            self._config = config
        await self._look()
        self._tasks.spawn(self._watch(), "watching HAProxy")

    def _listen(self) -> None:
        if self._port is None:
            (self._folder / RECORDS_SOCKET).unlink(missing_ok=True)
            self._port = self._reactor.listenUNIX(str(self._sockets / RECORDS_SOCKET), self._intake, mode=0o600)

    async def check(self, config: Config) -> None:
        """`haproxy -c`; see `Dataplane`."""
        candidate = self._folder / "candidate.cfg"
        write_atomic(candidate, render(config).encode("ascii"))
        code, said = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._checked, candidate)
        if code != 0:
            raise Invalid(f"HAProxy refuses the configuration: {first_alert(said)}")

    def _checked(self, path: Path) -> tuple[int, list[str]]:
        """In a thread: what `haproxy -c` says of the file at `path`."""
        try:
            done = subprocess.run(
                [self._program, "-c", "-C", str(self._folder), "-f", path.name],
                capture_output=True,
                timeout=CHECK_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LocalError(f"haproxy -c cannot run: {error}") from error
        return done.returncode, done.stderr.decode("utf-8", "replace").splitlines()

    async def apply(self, config: Config) -> None:
        """Reload without losing a connection; see `Dataplane`."""
        before = self._config
        if before is None:
            raise Invalid("HAProxy is not running")
        known = {(each.address, each.port) for each in before.virtual_services}
        self._claim_ports([each for each in config.virtual_services if (each.address, each.port) not in known])
        await self.check(config)
        self._changing = True
        try:
            self._write(config)
            try:
                await self._reload()
            except Invalid:
                self._write(before)
                with contextlib.suppress(Invalid):
                    await self._reload()
                raise
            self._config = config
        finally:
            self._changing = False
        await self._look()

    def _claim_ports(self, services: Sequence[VirtualService]) -> None:
        """Raises `Invalid` when the address of one of `services` is taken: HAProxy would say so too late."""
        for each in services:
            family = socket.AF_INET6 if ":" in each.address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    trial.bind(("" if each.address == "*" else each.address, each.port))
                except OSError as error:
                    raise Invalid(
                        f"virtual service {each.name} cannot listen on {each.address}:{each.port}: {error.strerror}",
                        hint="free the port, or choose another one",
                    ) from error

    def _write(self, config: Config) -> None:
        write_atomic(self._folder / "haproxy.cfg", render(config).encode("ascii"))

    def _written(self) -> str:
        path = self._folder / "haproxy.cfg"
        return path.read_text("ascii") if path.exists() else ""

    async def _launch(self) -> None:
        (self._folder / STATE_FILE).touch()
        with (self._folder / "haproxy.log").open("wb") as console:
            self._child = subprocess.Popen(
                [
                    self._program,
                    "-W",
                    "-S",
                    f"unix@{MASTER_SOCKET},mode,600",
                    "-C",
                    str(self._folder),
                    "-f",
                    "haproxy.cfg",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = self._reactor.seconds() + START_S
        while self._reactor.seconds() < deadline:
            if self._child.poll() is not None:
                raise Invalid(f"HAProxy does not start: {first_alert(self._console())}")
            running = await self._find()
            if running is not None and running.workers:
                self.log.info("HAProxy runs, master {master}", master=running.master)
                return
            await pause(self._reactor, 0.05)
        raise Unavailable(f"HAProxy did not start within {START_S:g} s")

    def _console(self) -> list[str]:
        return (self._folder / "haproxy.log").read_text("utf-8", "replace").splitlines()

    async def _find(self) -> Processes | None:
        """The processes that run, workers that answer included; None when there are none."""
        try:
            found = processes(await ask(self._reactor, self._sockets / MASTER_SOCKET, "show proc"))
            await ask(self._reactor, self._sockets / STATS_SOCKET, "show info")
        except Unavailable:
            return None
        return found

    async def _reload(self) -> None:
        """Have the master read its configuration anew. Raises `Invalid` when it could not: the old workers go on."""
        master = self._sockets / MASTER_SOCKET
        state = await ask(self._reactor, self._sockets / STATS_SOCKET, "show servers state")
        write_atomic(self._folder / STATE_FILE, state.encode("utf-8"))
        before = processes(await ask(self._reactor, master, "show proc"))
        with contextlib.suppress(Unavailable):  # the master closes the connection as it begins anew
            await ask(self._reactor, master, "reload")
        deadline = self._reactor.seconds() + START_S
        while self._reactor.seconds() < deadline:
            await pause(self._reactor, 0.05)
            try:
                now = processes(await ask(self._reactor, master, "show proc"))
            except Unavailable:
                continue
            if now.failed > before.failed:
                raise Invalid(f"HAProxy could not take the configuration: {first_alert(self._console())}")
            if now.reloads > before.reloads and now.workers and set(now.workers).isdisjoint(before.workers):
                return
        raise Invalid(f"HAProxy did not reload within {START_S:g} s")

    # What it says

    async def _watch(self) -> None:
        """Read the health of the servers, and start HAProxy again when it is gone."""
        wait_s = POLL_S
        while not self._stopping:
            await pause(self._reactor, wait_s)
            if self._changing or self._stopping:
                continue
            try:
                await self._look()
                wait_s = POLL_S
            except Unavailable as error:
                wait_s = min(2 * wait_s, RESTART_CAP_S)
                await self._revive(error)

    async def _revive(self, error: Unavailable) -> None:
        if self._changing or self._stopping or await self._find() is not None:
            return
        self.log.warn("HAProxy is gone ({why}): starting it again", why=error.what)
        try:
            await self._end_leftovers()
            await self._launch()
            await self._look()
        except AvinetError as failure:
            self.log.warn("HAProxy does not start again: {why}", why=str(failure))

    async def _end_leftovers(self) -> None:
        """A master without workers, or the reverse, is of no use to anyone."""
        with contextlib.suppress(Unavailable):
            found = processes(await ask(self._reactor, self._sockets / MASTER_SOCKET, "show proc"))
            for each in (found.master, *found.workers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        if self._child is not None:
            self._child.poll()

    async def _look(self) -> None:
        frontends, servers = stat_lines(await ask(self._reactor, self._sockets / STATS_SOCKET, "show stat"))
        for each in frontends:
            counter = self._counter(each.name)
            counter.connections = each.open
            before = self._totals.get(each.name, 0)
            counter.new_connections += each.total - before if each.total >= before else each.total
            self._totals[each.name] = each.total
        now = self._reactor.seconds()
        known = {(each.pool, each.server): each for each in self._health}
        health: dict[tuple[str, str], ServerHealth] = {}
        for line in servers:
            pool = line.backend.partition(".")[2]
            state, why = _state(line.status), line.check
            old = known.get((pool, line.server))
            if old is not None and old.state == state:
                health[pool, line.server] = old
            else:
                health[pool, line.server] = ServerHealth(
                    pool=pool,
                    server=line.server,
                    state=state,  # type: ignore[arg-type]
                    since=now - line.changed_s,
                    why=why[:200] if state != "up" else "",
                )
        found = list(health.values())
        if found != self._health:
            self._health = found
            self.changed()

    def _counter(self, name: str) -> Counter:
        return self._counters.setdefault(name, Counter(name))

    def _record(self, record: RequestRecord) -> None:
        counter = self._counter(record.s)
        counter.bytes_in += record.i
        counter.bytes_out += record.o
        counter.ended(max(0, record.t) / 1000, record.c)

    def health(self) -> Sequence[ServerHealth]:
        """See `Dataplane`."""
        return list(self._health)

    async def traffic(self) -> Sequence[ServiceTraffic]:
        """See `Dataplane`."""
        with contextlib.suppress(Unavailable):
            await self._look()
            await self._count_dropped()
        services = {each.name for each in self._config.virtual_services} if self._config else set()
        taken = [counter.take() for counter in self._counters.values()]
        for name in [each for each in self._counters if each not in services]:
            del self._counters[name]
        return [each for each in taken if each is not None]

    async def _count_dropped(self) -> None:
        info = await ask(self._reactor, self._sockets / STATS_SOCKET, "show info")
        dropped = next((int(line.split()[1]) for line in info.splitlines() if line.startswith("DroppedLogs:")), 0)
        self._said_bad += max(0, dropped - self._dropped)
        self._dropped = dropped

    def lost_records(self) -> int:
        """See `Dataplane`."""
        lost, self._said_bad = self._said_bad + self._intake.bad, 0
        self._intake.bad = 0
        return lost

    async def set_server(self, pool: str, server: str, state: ServerState) -> None:
        """See `Dataplane`."""
        modes = [each for each in ("http", "tcp") if f"backend {each}.{pool}\n" in self._written()]
        if (pool, server) not in {(each.pool, each.server) for each in self._health} or not modes:
            raise NotFound(f"there is no server {server} in a pool {pool}")
        for mode in modes:
            said = await ask(
                self._reactor, self._sockets / STATS_SOCKET, f"set server {mode}.{pool}/{server} state {state}"
            )
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
                    "connections": self._counter(each.name).connections,
                }
                for each in services
            ],
            "folder": str(self._folder),
        }

    # The end

    async def detach(self) -> None:
        """HAProxy goes on; see `Dataplane`."""
        self._stopping = True
        self._tasks.stop()
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
            os.close(self._opened)

    async def shut_down(self, drain_s: float) -> None:
        """A soft stop, and after `drain_s` a hard one; see `Dataplane`."""
        self._stopping = True
        self._tasks.stop()
        for sign, patience_s in ((signal.SIGUSR1, drain_s), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            running = await self._find()
            if running is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.master, sign)
            deadline = self._reactor.seconds() + patience_s
            while self._reactor.seconds() < deadline and await self._alive():
                await pause(self._reactor, 0.05)
        if self._child is not None:
            self._child.poll()
        self._config = None
        await self.detach()

    async def _alive(self) -> bool:
        try:
            await ask(self._reactor, self._sockets / MASTER_SOCKET, "show proc")
        except Unavailable:
            return False
        return True


def _state(status: str) -> str:
    """HAProxy's word for a server's state as one of ours."""
    word = status.split()[0] if status else ""
    if word in ("UP", "OPEN", "DRAIN"):
        return "up"
    return "down" if word in ("DOWN", "MAINT", "NOLB") else "unknown"


def installed(program: str = "haproxy") -> tuple[str, str] | None:
    """The binary and its version, when HAProxy 2.6 or newer is installed."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        return None
    try:
        said = subprocess.run([path, "-v"], capture_output=True, timeout=10, check=False).stdout.decode(
            "ascii", "replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = said.split()
    version = words[2].partition("-")[0] if len(words) > 2 else ""
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()) or (int(parts[0]), int(parts[1])) < (2, 6):
        return None
    return path, version
