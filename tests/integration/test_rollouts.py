"""Roll-outs over real processes, under traffic: a good version comes to all, a bad one hurts one service engine only."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

from typing_extensions import override

from avinet.cli.exits import REFUSED, REMOTE
from demo.machine import free_ports
from tests.integration.node import NodeCase
from tests.integration.web import web_server
from tests.peers import require

IDS = ("se-1", "se-2", "se-3")


class Traffic:
    """Requests to each service engine, one after the other, until it is ended; how many were not answered well."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.good = dict.fromkeys(ports, 0)
        self.failed = dict.fromkeys(ports, 0)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=each) for each in ports.items()]
        for thread in self._threads:
            thread.start()

    def _run(self, id: str, port: int) -> None:
        while not self._stopped.wait(0.01):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", "/")
                answered = connection.getresponse()
                well = answered.status == 200 and answered.read() == b"here"
            except (OSError, http.client.HTTPException):
                well = False
            finally:
                connection.close()
            (self.good if well else self.failed)[id] += 1

    def end(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


class RolloutCase(NodeCase):
    """Three service engines, each with a virtual service of its own, which share the pool that is rolled out."""

    engine = "builtin"

    @override
    def setUp(self) -> None:
        super().setUp()
        self.servers = [web_server(self).server_port for _ in range(2)]
        (self.closed,) = free_ports(1)
        self.ports = dict(zip(IDS, free_ports(len(IDS)), strict=True))
        self.node.expect(*IDS)
        for id in IDS:
            settings = self.node.place(id) / "se.toml"
            text = settings.read_text().replace('engine = "builtin"', f'engine = "{self.engine}"')
            settings.write_text("report_interval_s = 1.0\n" + text)
            self.node.start_engine(id)
        for id in IDS:
            self.until(f"{id} is connected", lambda id=id: self.node.connected(id))
        self.apply("pool", self.pool(self.servers[0]))
        for id, port in self.ports.items():
            self.apply(id, self.service(id, port))
        self.until("all serve", lambda: all(map(self.in_sync, IDS)))
        for port in self.ports.values():
            self.until("it serves", lambda port=port: self.answers(port))
        self.traffic = Traffic(self.ports)
        self.addCleanup(self.traffic.end)

    def until(self, what: str, seen: Any) -> None:
        self.node.machine.until(what, seen)

    def pool(self, *ports: int) -> dict[str, Any]:
        servers = [{"name": f"s{number}", "address": "127.0.0.1", "port": port} for number, port in enumerate(ports)]
        check = {"interval_ms": 200, "timeout_ms": 200, "rise": 1, "fall": 2}
        return {"name": "pool", "pools": [{"name": "pool", "servers": servers, "health_check": check}]}

    def service(self, id: str, port: int) -> dict[str, Any]:
        service = {"name": f"web-{id}", "address": "127.0.0.1", "port": port, "pool": "pool"}
        return {"name": id, "applies_to": {"kind": "service-engine", "id": id}, "virtual_services": [service]}

    def file(self, name: str, document: dict[str, Any]) -> str:
        path = self.node.folder / f"{name}.json"
        path.write_text(json.dumps(document))
        return str(path)

    def apply(self, name: str, document: dict[str, Any]) -> None:
        self.node.machine.avictl("config", "apply", "-f", self.file(name, document))

    def roll(self, *ports: int, options: tuple[str, ...] = ()) -> tuple[int, list[str]]:
        """Roll out a pool of these servers, and follow it; how it ended, and what was shown."""
        path = self.file("pool", self.pool(*ports))
        done = self.node.avictl("config", "apply", "-f", path, "--rollout", "--batch", "1,2", *options, "--follow")
        self.assertEqual(done.stderr, b"")
        return done.returncode, done.stdout.decode().splitlines()

    def answers(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def in_sync(self, id: str) -> bool:
        engine = self.node.engine(id)
        return bool(engine.get("connected_since") and engine["config"].get("applied") == engine["desired"])

    def servers_of(self, id: str) -> set[str]:
        """The servers that a service engine has in its pool."""
        return {each["server"] for each in self.node.engine(id).get("health", [])}

    def kinds(self) -> list[str]:
        items = self.node.machine.asked("events", "--limit", "500")["items"]
        return [each["kind"] for each in items if each["kind"].startswith("rollout")]


class GoodTests(RolloutCase):
    def test_it_comes_to_all_in_batches_and_no_request_fails(self) -> None:
        code, lines = self.roll(*self.servers, options=("--observe", "2s"))
        self.assertEqual(code, 0, lines)
        for line in (
            "pool: batch 1 of 3: 1 of 3 service engines",
            "pool: batch 2 of 3: 2 of 3 service engines",
            "pool: batch 3 of 3: 3 of 3 service engines",
            "pool: finished: 3 of 3 service engines are well",
        ):
            self.assertIn(line, lines)
        self.until("all have both servers", lambda: all(self.servers_of(id) == {"s0", "s1"} for id in IDS))
        self.traffic.end()
        self.assertEqual(self.traffic.failed, dict.fromkeys(IDS, 0))
        self.assertGreater(min(self.traffic.good.values()), 0)
        self.assertEqual(self.kinds(), ["rollout-started", *["rollout-batch"] * 3, "rollout-finished"])
        shown = self.node.machine.asked("config", "rollout", "show", "pool")
        self.assertEqual((shown["state"], shown["well"], shown["version"]), ("finished", 3, 2))

    def test_the_node_is_killed_in_the_middle_and_goes_on(self) -> None:
        machine = self.node.machine
        path = self.file("pool", self.pool(*self.servers))
        machine.avictl("config", "apply", "-f", path, "--rollout", "--batch", "1,2", "--observe", "5s")
        self.until("the first has it", lambda: machine.asked("config", "rollout", "show", "pool").get("well") == 1)
        self.assertIn("running", machine.avictl("config", "rollout", "list"))
        machine.kill("controller")
        self.node.start_controller()
        self.assertEqual(self.node.avictl("config", "apply", "-f", self.file("p", self.pool(1))).returncode, REFUSED)
        self.assertEqual(self.node.avictl("config", "rollout", "follow", "pool").returncode, 0)
        self.until("all have both servers", lambda: all(self.servers_of(id) == {"s0", "s1"} for id in IDS))
        self.assertEqual(self.kinds(), ["rollout-started", *["rollout-batch"] * 3, "rollout-finished"])
        self.traffic.end()
        self.assertEqual(self.traffic.failed, dict.fromkeys(IDS, 0))


class BadTests(RolloutCase):
    def test_it_is_stopped_after_the_first_batch_and_taken_back(self) -> None:
        before = {id: self.node.engine(id)["config"]["applied"] for id in IDS}
        code, lines = self.roll(self.closed, options=("--observe", "10s"))
        self.assertEqual(code, REMOTE, lines)
        self.assertRegex(
            lines[-1], r"pool: rolled back: se-[123]: (server pool/s0 is down|.* requests to web-se-[123] failed)"
        )
        self.until("all run what they should", lambda: all(map(self.in_sync, IDS)))
        changed = [id for id in IDS if self.node.engine(id)["config"]["applied"] != before[id]]
        self.assertEqual(len(changed), 1)
        for port in self.ports.values():
            self.until("it serves", lambda port=port: self.answers(port))
        self.traffic.end()
        hurt = [id for id in IDS if self.traffic.failed[id]]
        self.assertEqual(hurt, changed, self.traffic.failed)
        self.assertEqual(self.kinds(), ["rollout-started", "rollout-batch", "rollout-stopped", "rollout-rolled-back"])
        history = self.node.machine.asked("config", "history", "pool")["items"]
        self.assertEqual([each["version"] for each in history], [3, 2, 1])
        self.assertEqual(history[0]["document"], history[2]["document"])

    def test_without_rollback_it_waits_for_an_operator_who_takes_it_back(self) -> None:
        machine = self.node.machine
        code, lines = self.roll(self.closed, options=("--observe", "10s", "--no-auto-rollback"))
        self.assertEqual(code, REMOTE, lines)
        self.assertIn("avictl config rollout abort pool takes it back", lines[-1])
        self.assertIn("pool: version 2: stopped", machine.avictl("status"))
        self.assertIn("BAD  roll-out: pool, version 2: stopped", self.node.avictl("doctor").stdout.decode())
        self.assertIn("rolled-back", machine.avictl("config", "rollout", "abort", "pool"))
        self.until("all run what they should", lambda: all(map(self.in_sync, IDS)))
        for port in self.ports.values():
            self.until("it serves", lambda port=port: self.answers(port))


class HAProxyTests(RolloutCase):
    engine = "haproxy"

    @override
    def setUp(self) -> None:
        require("haproxy")
        super().setUp()

    test_it_is_stopped_after_the_first_batch_and_taken_back = (
        BadTests.test_it_is_stopped_after_the_first_batch_and_taken_back
    )
