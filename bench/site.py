"""A controller and its service engines as processes in a folder of their own, and what the controller says of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

from avinet.cli.node import Node
from avinet.cloud.bundle import LocalBoot
from avinet.cloud.driver import Order
from avinet.enrolment.records import EngineRecord, engine_key, owner_key, put_record
from avinet.errors import AvinetError
from avinet.files import private_folder
from avinet.store.interface import Put, Transaction
from avinet.store.tables import Tables
from avinet.trust.keys import fingerprint, public_line
from avinet.wire.config import ByEngine, ByLabels, Document, HealthCheck, Pool, Server, VirtualService
from avinet.wire.fleet import DocumentApplied, Engine, EngineCreate, EngineList, EnginesCreated, Status
from avinet.wire.message import decode, encode
from avinet.wire.trust import SignedTrust, TrustDocument
from bench.identities import engine_id, private_key
from bench.measure import BenchError
from bench.wire import listening
from demo.machine import AVICTL, ROOT, TWISTD, end_marked, free_ports

T = TypeVar("T")
CROWD = {"fleet": "crowd"}
RECEIPT_BYTES = 2000
MARK = "AVINET_BENCH"


class Site:
    """The folder, the processes in it, and the API of the controller; use it as a context."""

    def __init__(self, enrolment_settings: str = "") -> None:
        self._enrolment_settings = enrolment_settings
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-bench-"))
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK: str(self.folder)}
        self.node = Node(str(self.folder / "controller.sock"))
        self._settings = self.folder / "controller.toml"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ssh_port, self.https_port, self._service_port, *self._servers = free_ports(7)
        self.image = b""
        self._count = 0

    def __enter__(self) -> Site:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        end_marked(f"{MARK}={self.folder}")  # a load balancer outlives the service engine that started it
        shutil.rmtree(self.folder, ignore_errors=True)

    # Processes

    def start(self, name: str, command: Sequence[str]) -> float:
        """Start a process; its output goes to NAME.log. Returns the time of the start (monotonic)."""
        with (self.folder / f"{name}.log").open("ab") as log:
            begun = time.monotonic()
            self._processes[name] = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return begun

    def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def end(self, name: str) -> None:
        """End a process in order. Raises `BenchError` when it does not within a minute."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BenchError(f"{name} does not end: {self.tail(name)}") from None

    def pid(self, name: str) -> int:
        """The process id of a process that was started here."""
        return self._processes[name].pid

    def until(self, what: str, seen: Callable[[], T | None], *, timeout_s: float = 60, every_s: float = 0.01) -> T:
        """What `seen` returns as soon as it is true. Raises `BenchError` after `timeout_s`, or when a process ended."""
        deadline = time.monotonic() + timeout_s
        last = ""
        while time.monotonic() < deadline:
            try:
                if found := seen():
                    return found
            except AvinetError as error:
                last = f": {error}"
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise BenchError(f"{name} has ended: {self.tail(name)}")
            time.sleep(every_s)
        tails = "".join(f"\n{name}: {self.tail(name)}" for name in self._processes)
        raise BenchError(f"not within {timeout_s:g} s: {what}{last}{tails}")

    def tail(self, name: str) -> str:
        """The end of what a process has written."""
        return "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-5:])

    # The controller

    def make(self) -> None:
        """Make the domain of trust, start the controller and the servers, and build the image."""
        self._settings.write_text(
            f"""\
node = "node-1"
state = "controller"
socket = "{self.node.path}"
addresses = ["127.0.0.1"]

[ssh]
listen = ["127.0.0.1"]
port = {self.ssh_port}

[https]
listen = ["127.0.0.1"]
port = {self.https_port}

[enrolment]
{self._enrolment_settings}
"""
        )
        self._avictl("init", "--config", str(self._settings))
        self.start("servers", [sys.executable, "-m", "bench.backend", *map(str, self._servers)])
        self.start_controller()
        self.until("the controller answers", lambda: self.node.request("GET", "/v1/status"))
        image = self.folder / "image.tar.gz"
        self._avictl("--socket", self.node.path, "image", "build", "--out", str(image))
        self.image = image.read_bytes()

    def start_controller(self) -> float:
        """Start `twistd avi-controller`. Returns the time of the start (monotonic)."""
        command = ["--nodaemon", "--pidfile=", "avi-controller", "--config", str(self._settings)]
        return self.start("controller", [sys.executable, TWISTD, *command])

    def listens(self) -> bool:
        """Whether the door for tunnels is there to be dialled."""
        return listening(self.ssh_port)

    def _avictl(self, *arguments: str) -> None:
        done = subprocess.run([*AVICTL, *arguments], cwd=ROOT, env=self.environment, capture_output=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"avictl {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")

    # Service engines

    def expect(self, count: int, dataplane: str = "builtin") -> list[tuple[str, list[str]]]:
        """Have `count` more service engines expected and configured, and make their instances.

        Returns their ids and the commands to start them. Each runs one virtual service, on an address of 127.0.0.0/8 of
        its own, and four servers.
        """
        order = EngineCreate(count=count, prefix="se", driver="none")
        claimed = self.node.ask("POST", "/v1/service-engines", EnginesCreated, order).items
        boot = LocalBoot(dataplane)
        made = []
        for each in claimed:
            self._configure(each.id)
            folder = self.instance(each.id)
            made.append((each.id, list(boot(Order(each.id, each.generation, self.image, each.claim), folder))))
        return made

    def enrol(self, count: int) -> None:
        """Have the service engines of `bench.crowd`, `count` of them, enrolled already; the controller must not run.

        They are written into its store as its registrar would, all in one transaction.
        """
        tables = Tables(self.folder / "controller" / "store.sqlite")
        now = time.time()
        with tables.committed():
            for number in range(count):
                id, line = engine_id(number), public_line(private_key(number))
                record = EngineRecord(
                    id=id,
                    state="enrolled",
                    generation=1,
                    created=now,
                    labels=CROWD,
                    public_key=line,
                    host_key=line,
                    fingerprint=fingerprint(line),
                    enrolled=now,
                    receipt="{}".ljust(RECEIPT_BYTES),
                )
                owner = Put(owner_key(record.fingerprint), id.encode("ascii"))
                tables.transact(Transaction((), (put_record(engine_key(id), record), owner)))
        tables.close()

    def start_crowd(self, count: int, processes: int) -> None:
        """Start the service engines that were enrolled, and have all of them configured as one."""
        self.apply(_document("web", ByLabels(labels=CROWD), "127.0.0.1", self._service_port, self._servers))
        trust = decode(
            self.node.ask("GET", "/v1/trust", SignedTrust).document.encode(), TrustDocument, limit_bytes=10**6
        )
        (self.folder / "trust.json").write_bytes(encode(trust))
        for number in range(processes):
            first, end = (count * place // processes for place in (number, number + 1))
            command = [sys.executable, "-m", "bench.crowd", str(self.folder), str(first), str(end - first)]
            self.start(f"crowd-{number}", command)

    def instance(self, id: str) -> Path:
        """The folder of a service engine."""
        return private_folder(self.folder / id)

    def _configure(self, id: str) -> None:
        self._count += 1
        address = f"127.77.{self._count // 250}.{self._count % 250 + 1}"
        self.apply(_document(f"{id}-web", ByEngine(id=id), address, self._service_port, self._servers))

    def apply(self, document: Document) -> None:
        """Create a document."""
        self.node.ask("PUT", f"/v1/configurations/{quote(document.name)}", DocumentApplied, document)

    def status(self) -> Status:
        """The node and its fleet in one view."""
        return self.node.ask("GET", "/v1/status", Status)

    def engine(self, id: str) -> Engine:
        """A service engine as operators see it."""
        return self.node.ask("GET", f"/v1/service-engines/{quote(id)}", Engine)

    def engines(self) -> list[Engine]:
        """All of them, up to 500."""
        return self.node.ask("GET", "/v1/service-engines?limit=500", EngineList).items


def _document(name: str, applies_to: ByEngine | ByLabels, address: str, port: int, servers: Sequence[int]) -> Document:
    """One virtual service, with health checks of its servers."""
    return Document(
        name=name,
        applies_to=applies_to,
        virtual_services=[VirtualService(name="web", address=address, port=port, pool="web")],
        pools=[
            Pool(
                name="web",
                servers=[
                    Server(name=f"server-{number}", address="127.0.0.1", port=port)
                    for number, port in enumerate(servers, 1)
                ],
                health_check=HealthCheck(interval_ms=5000),
            )
        ],
    )


def acknowledged(engine: Engine) -> bool:
    """Whether it has said, through the tunnel that it has now, that it runs what it should."""
    greeted = engine.connected_since is not None and engine.version != ""
    return greeted and engine.desired is not None and engine.config.applied == engine.desired
