"""A cloud on this machine: an instance is a folder, and the processes that carry its mark in their environment.

Processes of an instance outlive the controller, as machines do. Its first process does what a machine's service
manager does: a service engine that ends otherwise than with 0, or with 78 for what no new start can change, is started
again after 1 s. Ending an instance ends every process that its own processes have started, the load balancer among
them, as deleting a machine would.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from avinet.aio import pause
from avinet.cloud.driver import Instance, Order
from avinet.errors import LocalError, NotFound
from avinet.files import private_folder, read_limited, write_atomic
from avinet.ids import parse_id

MARK = "AVINET_INSTANCE"
_RECORD = "instance.json"
_POLL_S = 0.05
_INIT = ("/bin/sh", "-c", 'until "$@"; do [ $? != 78 ] || exit 78; sleep 1; done', "init")
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "USER", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `instance.json` says; `mark` is unique to this instance of the id, `command` its service."""

    id: str
    generation: int
    mark: str
    command: list[str]


Boot = Callable[[Order, Path], Sequence[str]]
"""Prepares the folder of an instance for an order (image, user data); returns the command that is its service."""


class LocalCloud:
    """Instances below `folder`; ends take up to `end_s` before they are forced, and as long again after that."""

    name = "local"

    def __init__(self, clock: IReactorTime, folder: Path, boot: Boot, *, end_s: float = 10.0) -> None:
        self._clock = clock
        self._folder = folder
        self._boot = boot
        self._end_s = end_s
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []

    async def create(self, order: Order) -> Instance:
        """Prepare the folder and start the service engine; see `CloudDriver`."""
        place = self._folder / parse_id(order.id)
        record = _read(place)
        if record is not None and record.generation == order.generation:
            await self.power_on(order.id)
            return Instance(order.id, order.generation, running=True)
        await self.delete(order.id)
        private_folder(place)
        command = await deferToThread(self._boot, order, place)
        mark = f"{order.id}-{order.generation}-{os.urandom(8).hex()}"
        record = _Record(order.id, order.generation, mark, list(command))
        write_atomic(place / _RECORD, msgspec.json.encode(record))
        self._start(record, place)
        return Instance(order.id, order.generation, running=True)

    async def instances(self) -> Sequence[Instance]:
        """All instances in the folder; see `CloudDriver`."""
        places = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        records = [record for place in places if (record := _read(place)) is not None]
        running = set((await self._running()).values())
        return [Instance(each.id, each.generation, each.mark in running) for each in records]

    async def power_on(self, id: str) -> None:
        """Start an instance that is off. Raises `NotFound`."""
        place = self._folder / parse_id(id)
        record = _read(place)
        if record is None:
            raise NotFound(f"there is no instance {id} in {self._folder}")
        if record.mark not in (await self._running()).values():
            self._start(record, place)

    async def delete(self, id: str) -> None:
        """End every process of the instance, and remove its folder; see `CloudDriver`."""
        place = self._folder / parse_id(id)
        record = _read(place)
        if record is not None:
            await self._end(record)
        if place.exists():
            await deferToThread(shutil.rmtree, place)

    def _start(self, record: _Record, place: Path) -> None:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | {MARK: record.mark}
        with (place / "console.log").open("ab") as console:
            child = subprocess.Popen(
                (*_INIT, *record.command),
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._children.append((record.mark, child))

    async def _running(self) -> dict[int, str]:
        """The mark of every process of an instance, by process id.

        The environment of a process that has just begun is empty for a moment: those that this driver started itself
        are known without it.
        """
        marks = await deferToThread(_marks)
        self._children = [(mark, child) for mark, child in self._children if child.poll() is None]
        return marks | {child.pid: mark for mark, child in self._children}

    async def _end(self, record: _Record) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            deadline = self._clock.seconds() + self._end_s
            told: set[int] = set()
            while self._clock.seconds() < deadline:
                running = {process for process, mark in (await self._running()).items() if mark == record.mark}
                if not running:
                    return
                for process in running - told:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, sign)
                told |= running
                await pause(self._clock, _POLL_S)
        raise LocalError(f"the processes of instance {record.id} do not end", hint="see ps for what they wait for")


def _read(place: Path) -> _Record | None:
    path = place / _RECORD
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(read_limited(path, 65536), type=_Record)
    except msgspec.DecodeError as error:
        raise LocalError(f"{path} is damaged: {error}", hint="remove the instance's folder") from error


def _marks() -> dict[int, str]:
    """The mark of every process of ours that carries one, by process id; what has just ended is left out."""
    found = {}
    wanted = f"{MARK}=".encode()
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            environment = (place / "environ").read_bytes()
        except OSError:
            continue
        for variable in environment.split(b"\0"):
            if variable.startswith(wanted):
                found[int(place.name)] = variable[len(wanted) :].decode("utf-8", "replace")
    return found
