"""What a load generator has asked for, through a real HAProxy, is what a query answers: each request once.

Through reloads nothing is missing. Where something was killed, what is missing lies within a gap that has bounds.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from demo.machine import free_ports
from tests.integration.serving import ServingCase
from tests.peers import require

SETTINGS = '\n[spool]\nkeep = "always"\nsegment_age_s = 1.0\n'
CLIENTS = 4
SLACK_MS = 2
"""A record is written in the millisecond of its end, or the next."""


class Load:
    """Clients that ask for one path after the other, each on a connection of its own, until they are told to stop.

    `answered` has the paths that they had an answer to, with the time of its end in milliseconds; `failed` the others.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._going = True
        self.answered: dict[str, float] = {}
        self.failed: set[str] = set()
        self._threads = [threading.Thread(target=self._ask, args=(each,)) for each in range(CLIENTS)]
        for each in self._threads:
            each.start()

    def _ask(self, client: int) -> None:
        number = 0
        while self._going:
            path = f"/{client}-{number}"
            number += 1
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            try:
                connection.request("GET", path, headers={"connection": "close"})
                connection.getresponse().read()
                self.answered[path] = time.time() * 1000
            except (OSError, http.client.HTTPException):
                self.failed.add(path)
            finally:
                connection.close()

    def stop(self) -> None:
        """Let each client end what it has begun."""
        self._going = False
        for each in self._threads:
            each.join()


class LogTruthTests(ServingCase):
    balanced = "haproxy"

    @override
    def engine_settings(self) -> str:
        return SETTINGS

    @override
    def setUp(self) -> None:
        require("haproxy")
        (self.other_port,) = free_ports(1)
        super().setUp()
        self.machine.until("it serves", self.serves)

    def reload(self, version: int) -> None:
        """Have the service engine run a configuration that needs a reload, as each version does."""
        self.apply({"name": f"v{version}", "address": "127.0.0.1", "port": self.other_port, "pool": "p"})
        self.machine.until("it is applied", self.applied)

    def applied(self) -> bool:
        found = self.node.engine("se-1")
        return found.get("desired") is not None and found["config"].get("applied") == found["desired"]

    def serves(self) -> bool:
        return self.ask("GET", "/first") == 200

    def load(self) -> Load:
        made = Load(self.port)
        self.addCleanup(made.stop)
        return made

    def some(self, load: Load, count: int = 300) -> None:
        """So many more requests were answered."""
        more = len(load.answered) + count
        self.machine.until("there is load", lambda: len(load.answered) >= more)

    def pull(self) -> None:
        done = self.node.avictl("logs", "pull", "se-1")
        self.assertEqual(done.returncode, 0, done)

    def asked(self, *what: str) -> list[dict[str, Any]]:
        """The rows of an answer, each by the names of its columns."""
        answer = json.loads(self.node.avictl("logs", "query", "-o", "json", "--limit", "1000000", *what).stdout)
        return [
            dict(zip((each["name"] for each in answer["columns"]), row, strict=True)) for row in answer.get("rows", [])
        ]

    def pulled(self, load: Load) -> Counter[str]:
        """How often each path is in the archive, when the last that was answered is.

        What was asked for a moment ago may still be on its way: a service engine that comes back is found by HAProxy
        within a second or two, and a worker that leaves is asked from time to time.
        """
        last = max(load.answered, key=lambda path: load.answered[path])

        def there() -> Counter[str] | None:
            self.pull()
            found = self.found()
            return found if last in found else None

        return self.machine.until("the last record is in the archive", there)

    def found(self) -> Counter[str]:
        """How often each path is in the archive."""
        rows = self.asked("--rows", "--service", "web", "--columns", "path")
        return Counter(each["path"] for each in rows if each["path"] != "/first")

    def test_each_request_is_found_once_though_it_was_reloaded_during_a_pull(self) -> None:
        load = self.load()
        self.some(load)
        pulled: list[Any] = []
        pull = threading.Thread(target=lambda: pulled.append(self.node.avictl("logs", "pull", "se-1")))
        pull.start()
        for version in range(2, 5):
            self.reload(version)
            self.some(load)
        pull.join()
        load.stop()
        found = self.pulled(load)
        self.assertEqual((pulled[0].returncode, load.failed), (0, set()), pulled)
        self.assertEqual(found, Counter(list(load.answered)))
        self.assertEqual(self.asked("--gaps"), [])

    def killed(self, kill: Callable[[], None], back: Callable[[], None]) -> None:
        """Each request is found once, or is within a gap, though `kill` was called under load, and then `back`."""
        load = self.load()
        self.some(load)
        kill()
        back()
        self.machine.until("it serves again", self.serves)
        self.some(load)
        load.stop()
        self.machine.until("it is connected", lambda: self.node.connected("se-1"))
        found, gaps = self.pulled(load), self.asked("--gaps")
        self.assertEqual([path for path, times in found.items() if times > 1], [])
        self.assertEqual(set(found) - set(load.answered) - load.failed, set())
        self.assertEqual({each["reason"] for each in gaps}, {"crash"})
        outside = {
            path: ended_ms
            for path, ended_ms in load.answered.items()
            if path not in found
            and not any(each["from_ms"] - SLACK_MS <= ended_ms <= each["to_ms"] + SLACK_MS for each in gaps)
        }
        self.assertEqual(outside, {}, gaps)
        self.assertGreater(len(found), 300)

    def test_haproxy_is_killed(self) -> None:
        self.killed(lambda: os.kill(self.workers()[0], signal.SIGKILL), lambda: None)

    def test_the_service_engine_is_killed(self) -> None:
        self.killed(lambda: self.machine.kill("se-1"), lambda: self.node.start_engine("se-1"))

    def workers(self) -> list[int]:
        """The worker processes of HAProxy."""
        mine = f"\0{self.node.place('se-1') / 'state' / 'dataplane'}\0".encode()
        found = []
        for each in os.listdir("/proc"):
            if each.isdigit():
                try:
                    with open(f"/proc/{each}/cmdline", "rb") as command, open(f"/proc/{each}/stat") as stat:
                        parent = stat.read().rpartition(")")[2].split()[1]
                        if mine in command.read():
                            found.append((int(parent), int(each)))
                except OSError:
                    continue
        masters = {each for _, each in found}
        return [each for parent, each in found if parent in masters]
