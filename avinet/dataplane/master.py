"""HAProxy's master-worker as a process: started in a session of its own, found again, reloaded, ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from avinet.aio import pause
from avinet.dataplane.render import MASTER_SOCKET, RING, STATE_FILE, STATS_SOCKET, described
from avinet.dataplane.runtime import (
    Processes,
    WorkerState,
    ask,
    ask_raw,
    description,
    events,
    first_alert,
    state_of,
    worker_state,
)
from avinet.dataplane.runtime import processes as meaning_of
from avinet.errors import Invalid, LocalError, Unavailable
from avinet.files import cannot, private_folder, write_atomic
from avinet.wire.config import VirtualService

T = TypeVar("T")
START_S = 10.0
_BY_SIGNAL = 128
"""A master whose worker was killed ends with more than this."""
CHECK_S = 30.0
END_S = 5.0
POLL_S = 0.05
FILE, CONSOLE = "haproxy.cfg", "haproxy.log"


class Master:
    """The HAProxy whose files and sockets are in `folder`; `program` is the binary."""

    log = Logger()

    def __init__(self, reactor: Any, folder: Path, program: str) -> None:
        self._reactor = reactor
        self.folder = private_folder(folder)
        self._program = program
        self._child: subprocess.Popen[bytes] | None = None
        # The way to the sockets is through the open folder: their whole path may be longer than a socket's may be.
        self._opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.sockets = Path(f"/proc/self/fd/{self._opened}")

    def release(self) -> None:
        """Give up the way to the sockets; HAProxy goes on."""
        os.close(self._opened)

    async def stats(self, command: str) -> str:
        """What a worker answers to `command`. Raises `Unavailable`."""
        return await ask(self._reactor, self.sockets / STATS_SOCKET, command)

    async def ring(self, worker: int) -> bytes:
        """The lines in the ring of records of a worker, also of one that is to stop. Raises `Unavailable`."""
        command = f"@!{worker} show events {RING}"
        return events(await ask_raw(self._reactor, self.sockets / MASTER_SOCKET, command))

    async def state(self, worker: int) -> WorkerState:
        """The state of a worker, also of one that is to stop. Raises `Unavailable`."""
        return worker_state(await ask(self._reactor, self.sockets / MASTER_SOCKET, f"@!{worker} show info"))

    @staticmethod
    def lives(worker: int) -> bool:
        """Whether there is such a process, and it has not ended."""
        try:
            return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    async def processes(self) -> Processes:
        """What the master says of itself and its workers. Raises `Unavailable`."""
        return meaning_of(await ask(self._reactor, self.sockets / MASTER_SOCKET, "show proc"))

    async def write(self, text: str) -> None:
        """Make `text` the configuration that is read at the next start or reload."""
        await self.in_thread(lambda: write_atomic(self.folder / FILE, text.encode("ascii")))

    def written(self) -> str:
        """The configuration that was read last, or was to be."""
        path = self.folder / FILE
        return path.read_text("ascii") if path.exists() else ""

    def last_started_s(self) -> float:
        """When it was started last, or given another configuration (seconds since 1970); 0.0: never."""
        return max(
            (path.stat().st_mtime for name in (FILE, CONSOLE) if (path := self.folder / name).exists()), default=0.0
        )

    async def check(self, text: str) -> None:
        """`haproxy -c` on `text`. Raises `Invalid` with the first thing that it finds wrong."""
        code, said = await self.in_thread(lambda: self._checked(text))
        if code != 0:
            raise Invalid(f"HAProxy refuses the configuration: {first_alert(said)}")

    async def in_thread(self, call: Callable[[], T]) -> T:
        """What `call` returns, which waits for a disk or a process."""
        return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)

    def _checked(self, text: str) -> tuple[int, list[str]]:
        """In a thread: what `haproxy -c` says of `text`."""
        candidate = self.folder / "candidate.cfg"
        write_atomic(candidate, text.encode("ascii"))
        try:
            done = subprocess.run(
                [self._program, "-c", "-C", str(self.folder), "-f", candidate.name],
                capture_output=True,
                timeout=CHECK_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LocalError(f"haproxy -c cannot run: {error}") from error
        return done.returncode, done.stderr.decode("utf-8", "replace").splitlines()

    async def launch(self) -> None:
        """Start it. Raises `Invalid` when it ends at once by itself.

        Raises `Unavailable` when somebody ends it, which says nothing against the configuration, and when it gives no
        sign within 10 s; `LocalError` for what this machine has no room for.
        """
        try:
            child = self._child = self._spawn()
        except OSError as error:
            raise cannot(f"start {self._program} in", self.folder, error) from error
        deadline = self._reactor.seconds() + START_S
        while self._reactor.seconds() < deadline:
            status = child.poll()
            if status is not None and (status < 0 or status > _BY_SIGNAL):
                raise Unavailable(
                    f"HAProxy was ended while it started, by signal {-status if status < 0 else status - 128}"
                )
            if status is not None:
                raise Invalid(f"HAProxy does not start: {first_alert(self._console())}")
            running = await self.find()
            if running is not None and running.workers:
                self.log.info("HAProxy runs, master {master}", master=running.master)
                return
            await pause(self._reactor, POLL_S)
        raise Unavailable(f"HAProxy did not start within {START_S:g} s")

    def _spawn(self) -> subprocess.Popen[bytes]:
        path = self.folder / STATE_FILE
        path.write_text(state_of(path.read_text("utf-8", "replace") if path.exists() else "", self.written()), "utf-8")
        with (self.folder / CONSOLE).open("wb") as console:
            return subprocess.Popen(
                [
                    self._program,
                    "-W",
                    "-S",
                    f"unix@{MASTER_SOCKET},mode,600",
                    "-C",
                    str(self.folder),
                    "-f",
                    FILE,
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def _console(self) -> list[str]:
        return (self.folder / CONSOLE).read_text("utf-8", "replace").splitlines()

    async def find(self) -> Processes | None:
        """The processes that run, workers that answer included; None when there are none."""
        try:
            found = await self.processes()
            await self.stats("show info")
        except Unavailable:
            return None
        return found

    async def runs(self, text: str) -> bool:
        """Whether the workers have the configuration `text`: what is written may not have been read yet."""
        return description(await self.stats("show info")) == described(text)

    async def reload(self) -> None:
        """Have the master read its configuration anew. Raises `Invalid` when it could not, and then the old workers
        go on; `Unavailable` when it gives no sign within 10 s.
        """
        state = state_of(await self.stats("show servers state"), self.written())
        await self.in_thread(lambda: write_atomic(self.folder / STATE_FILE, state.encode("utf-8")))
        before = await self.processes()
        with contextlib.suppress(Unavailable):  # the master closes the connection as it begins anew
            await ask(self._reactor, self.sockets / MASTER_SOCKET, "reload")
        deadline = self._reactor.seconds() + START_S
        while self._reactor.seconds() < deadline:
            await pause(self._reactor, POLL_S)
            try:
                now = await self.processes()
            except Unavailable:
                continue
            if now.failed > before.failed:
                raise Invalid(f"HAProxy could not take the configuration: {first_alert(self._console())}")
            if now.reloads > before.reloads and now.workers and set(now.workers).isdisjoint(before.workers):
                return
        raise Unavailable(f"HAProxy did not reload within {START_S:g} s")

    async def end_leftovers(self) -> None:
        """End at once whatever is left of HAProxy here: a master without workers, or the reverse, serves nobody.

        Raises `Unavailable` when that does not end.
        """
        deadline = self._reactor.seconds() + END_S
        while left := await self.in_thread(self._left):
            if self._reactor.seconds() > deadline:
                raise Unavailable(f"HAProxy's processes {left} do not end")
            for each in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            await pause(self._reactor, POLL_S)

    def _left(self) -> list[int]:
        """In a thread: the masters and workers that run on this folder, whether they answer or not."""
        mine = f"\0-C\0{self.folder}\0-f\0{FILE}\0".encode()
        found: set[int] = set()
        # One that is ending has no command line any more, and is ours until its status is taken.
        if self._child is not None and self._child.poll() is None:
            found.add(self._child.pid)
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with contextlib.suppress(OSError):
                    if mine in (place / "cmdline").read_bytes():
                        found.add(int(place.name))
        return sorted(found)

    async def end(self, drain_s: float) -> None:
        """A soft stop, and after `drain_s` a hard one."""
        for sign, patience_s in ((signal.SIGUSR1, drain_s), (signal.SIGTERM, END_S)):
            try:
                running = await self.processes()  # its workers may have closed their sockets, and still serve
            except Unavailable:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.master, sign)
            deadline = self._reactor.seconds() + patience_s
            while self._reactor.seconds() < deadline and await self._alive():
                await pause(self._reactor, POLL_S)
        await self.end_leftovers()

    async def _alive(self) -> bool:
        try:
            await self.processes()
        except Unavailable:
            return False
        return True


def claim_ports(services: Sequence[VirtualService]) -> None:
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
