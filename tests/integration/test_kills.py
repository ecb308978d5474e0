"""`kill -9` of the controller, of service engines and of HAProxy at random moments: everything comes back by itself.

`AVINET_KILLS` is how many there are, `AVINET_SEED` which ones; a failure names both.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.cloud.local import MARK
from avinet.dataplane.master import installed
from demo.machine import Machine, StepFailed
from demo.story import BACKENDS, ENGINES, Story, make_domain, start_backends
from tests.peers import missing

KILLS = int(os.environ.get("AVINET_KILLS", "10"))
SEED = int(os.environ.get("AVINET_SEED", str(time.time_ns() % 1_000_000)))
TOGETHER = 5
"""So many kills between two looks at whether all is well."""
PAUSE_S = 1.5
PATIENCE_S = 60.0


class Storm(threading.Thread):
    """Kills `count` processes out of what `victims` finds, each after a random time."""

    def __init__(self, count: int, chance: random.Random, victims: Callable[[], dict[str, int]]) -> None:
        super().__init__(daemon=True)
        self.killed: list[str] = []
        self._count = count
        self._chance = chance
        self._victims = victims
        self._end = threading.Event()

    @override
    def run(self) -> None:
        while len(self.killed) < self._count and not self._end.wait(self._chance.uniform(0, PAUSE_S)):
            victims = self._victims()
            if victims:
                name = self._chance.choice(sorted(victims))
                try:
                    os.kill(victims[name], signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed.append(name)

    def stop(self) -> None:
        self._end.set()
        self.join(10)


def processes_of(instance: Path) -> Iterator[tuple[str, int]]:
    """The service engine of an instance, the master and the workers of its HAProxy: names and process ids."""
    record = instance / "instance.json"
    if not record.exists():
        return
    mark = f"{MARK}={json.loads(record.read_bytes())['mark']}".encode()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                command = (place / "cmdline").read_bytes().split(b"\0")
                if mark not in (place / "environ").read_bytes().split(b"\0"):
                    continue
            except OSError:
                continue
            if b"avi-se" in command and b"/bin/sh" not in command:
                yield instance.name, int(place.name)
            elif b"-W" in command:
                yield f"HAProxy of {instance.name}, {place.name}", int(place.name)


def serves(process: int) -> bool:
    """Whether it runs still; a zombie does not."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


class KillTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        if installed() is None:
            missing("HAProxy 2.6 or newer is not installed")
        self.machine = Machine(PATIENCE_S)
        self.addCleanup(self.machine.close)
        self.story = Story(self.machine, "haproxy")
        self.chance = random.Random(SEED)
        make_domain(self.story)
        start_backends(self.story)
        self.story.start_controller()

    def test_everything_comes_back_by_itself(self) -> None:
        killed: list[str] = []
        try:
            while len(killed) < KILLS:
                storm = Storm(min(TOGETHER, KILLS - len(killed)), self.chance, self.victims)
                storm.start()
                try:
                    while storm.is_alive():
                        self.operate()
                finally:
                    storm.stop()
                    killed += storm.killed
                self.machine.until("all is well", self.all_is_well)
            self.nothing_was_enrolled_twice()
            running = self.running()
            for id in ENGINES:
                self.machine.avictl("se", "delete", id, "--yes", "--drain", "0")
            self.assertEqual(self.machine.asked("se", "list")["items"], [])
            self.assertEqual([name for name, process in running.items() if serves(process)], [])
        except Exception as error:
            logs = [self.machine.folder / "controller.log", *self.machine.folder.glob("instances/*/console.log")]
            said = "".join(f"\n{path}:\n{path.read_text(errors='replace')[-4000:]}" for path in logs)
            raise AssertionError(f"AVINET_SEED={SEED} AVINET_KILLS={KILLS}, killed {killed}: {error}{said}") from error

    def victims(self) -> dict[str, int]:
        """What may be killed now, by name."""
        return self.running() | {"controller": self.machine.process("controller")}

    def running(self) -> dict[str, int]:
        """What runs on the instances."""
        return {name: each for id in ENGINES for name, each in processes_of(self.machine.folder / "instances" / id)}

    def tried(self, *arguments: str) -> str | None:
        """What `avictl` prints; None when it was refused, or could not reach the node. A service manager is at work."""
        self.keep_controller()
        try:
            return self.machine.avictl(*arguments)
        except StepFailed as failure:
            if "Traceback" in str(failure) or "fault" in str(failure):
                raise
            return None

    def keep_controller(self) -> None:
        if self.machine.ended("controller"):
            self.story.start_controller()

    def operate(self) -> None:
        """What an operator might do at any time."""
        do = self.chance.choice([self.create, self.configure, self.configure, self.ping])
        do()

    def create(self) -> None:
        for id in ENGINES:
            self.tried("se", "create", id, "--label", "site=demo")

    def configure(self) -> None:
        server = self.chance.choice(BACKENDS)
        for id, port in self.story.service_ports.items():
            document: dict[str, Any] = {
                "name": id,
                "applies_to": {"kind": "service-engine", "id": id},
                "virtual_services": [{"name": "web", "address": "127.0.0.1", "port": port, "pool": "web"}],
                "pools": [
                    {
                        "name": "web",
                        "servers": [
                            {"name": server, "address": "127.0.0.1", "port": self.story.backend_ports[server]},
                        ],
                    }
                ],
            }
            path = self.machine.folder / "document.json"
            path.write_text(json.dumps(document))
            self.tried("config", "apply", "-f", str(path))

    def ping(self) -> None:
        self.tried("run", self.chance.choice(ENGINES), "ping")

    def all_is_well(self) -> bool:
        """Both service engines have their tunnels, run what they acknowledged, and that is what the node wants."""
        self.keep_controller()
        known = {each["id"] for each in self.machine.asked("se", "list")["items"]}
        if known != set(ENGINES):
            self.create()
            return False
        documents = {each["name"] for each in self.machine.asked("config", "list")["items"]}
        if documents != set(ENGINES):
            self.configure()
            return False
        for id in ENGINES:
            engine = self.story.engine(id)
            if engine.get("config", {}).get("applied") != engine.get("desired") or engine["state"] != "enrolled":
                raise StepFailed(f"{id} does not run what it should: {engine}")
            if engine.get("connected_since") is None:
                raise StepFailed(f"{id} has no tunnel")
            wanted = self.machine.asked("config", "get", id)["document"]["pools"][0]["servers"][0]["name"]
            if (found := self.story.get(id)) != wanted:
                raise StepFailed(f"{id} sends its requests to {found}, not to {wanted}")
        return True

    def nothing_was_enrolled_twice(self) -> None:
        events = self.machine.asked("events", "--limit", "500")["items"]
        enrolled = Counter(each["id"] for each in events if each.get("outcome") == "enrolled")
        self.assertEqual(enrolled, Counter(ENGINES), events)
        self.assertEqual([each for each in events if each.get("alarm")], [])
