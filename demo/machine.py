"""What the demo runs on: a folder of its own, processes that it started and ends, and conditions that come true."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
AVICTL = [sys.executable, "-m", "avinet.cli"]
POLL_S = 0.05
PORTS = (20_000, 32_000)
"""Below those that Linux gives to connections (net.ipv4.ip_local_port_range)."""
TWISTD = str(Path(sys.executable).parent / "twistd")


class StepFailed(Exception):
    """A step was not seen to work; the text says what was seen instead."""


class Machine:
    """The demo's folder and processes; `close` ends and removes all of it."""

    def __init__(self, patience_s: float = 30.0) -> None:
        self.patience_s = patience_s
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-demo-"))
        self.socket = self.folder / "controller.sock"
        self.environment = {**os.environ, "AVINET_SOCKET": str(self.socket), "PYTHONPATH": str(ROOT)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        """Run `command` in a session of its own; its output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """End the process `name` as a power cut would."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def end(self, name: str) -> int:
        """Ask the process `name` to end, and return its status. Raises `StepFailed` when it goes on."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(self.patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise StepFailed(f"{name} did not end within {self.patience_s:g} s of SIGTERM") from None

    def process(self, name: str) -> int:
        """The id of the process `name`."""
        return self._processes[name].pid

    def ended(self, name: str) -> bool:
        """Whether the process `name` has ended by itself."""
        return self._processes[name].poll() is not None

    def log_tail(self, name: str, lines: int = 5) -> str:
        """The end of what the process `name` has written."""
        path = self.folder / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def avictl(self, *arguments: str, timeout_s: float = 60) -> str:
        """What `avictl` prints. Raises `StepFailed` with its error line when it fails."""
        try:
            done = subprocess.run(
                [*AVICTL, *arguments],
                env=self.environment,
                capture_output=True,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StepFailed(f"avictl {' '.join(arguments)} did not end within {timeout_s:g} s") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise StepFailed(f"avictl {' '.join(arguments)} ended with {done.returncode}: {said}")
        return done.stdout.decode()

    def asked(self, *arguments: str) -> Any:
        """The JSON that `avictl` prints."""
        return json.loads(self.avictl("--output", "json", *arguments))

    def until(self, what: str, seen: Callable[[], T | None]) -> T:
        """What `seen` returns as soon as it is true. Raises `StepFailed`, which says what did not happen."""
        deadline = time.monotonic() + self.patience_s
        last = ""
        while time.monotonic() < deadline:
            try:
                if found := seen():
                    return found
            except (StepFailed, OSError) as error:
                last = f": {error}"
            time.sleep(POLL_S)
        raise StepFailed(f"not within {self.patience_s:g} s: {what}{last}")

    def close(self) -> None:
        """End every process that was started, and remove the folder."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end_instances(self.folder)
        end_marked(f"AVINET_SOCKET={self.socket}")  # a load balancer outlives the service engine that started it
        shutil.rmtree(self.folder, ignore_errors=True)


def end_instances(folder: Path) -> None:
    """End what still runs on instances below `folder`: a demo that failed half-way leaves nothing behind."""
    for path in folder.glob("instances/*/instance.json"):
        end_marked(f"AVINET_INSTANCE={json.loads(path.read_text())['mark']}")


def end_marked(variable: str) -> None:
    """End every process that was started with `variable` in its environment."""
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if variable.encode() in (place / "environ").read_bytes().split(b"\0"):
                    os.kill(int(place.name), signal.SIGKILL)
            except OSError:
                continue


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listened on a moment ago, and that no connection is given as its own."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*PORTS)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
