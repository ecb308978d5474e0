"""What is wrong is said in one line, with the exit code that is documented, and changes nothing."""

from __future__ import annotations

import json
import re
import resource
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

from avinet.cli.exits import FAULT, NOT_FOUND, OK, REFUSED, UNREACHABLE
from avinet.taps.process import HOPELESS
from demo.machine import TWISTD, free_ports
from tests.integration.node import NodeCase

DOCUMENT: dict[str, Any] = {
    "name": "web",
    "applies_to": {"kind": "service-engine", "id": "se-1"},
    "virtual_services": [{"name": "web", "address": "127.0.0.1", "port": 1, "pool": "web"}],
    "pools": [{"name": "web", "servers": [{"name": "a", "address": "127.0.0.1", "port": 1}]}],
}


def full_disk(process: int, full: bool) -> None:
    """Let a process write no byte to any file, or let it write again."""
    soft = 0 if full else resource.RLIM_INFINITY
    resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


class BadInputCase(NodeCase):
    def refused(self, code: int, said: str, *arguments: str) -> None:
        """`avictl` ends with `code`, and with one line in which `said` is found."""
        done = self.node.avictl(*arguments)
        line = done.stderr.decode()
        self.assertEqual((done.returncode, done.stdout, line.count("\n")), (code, b"", 1), (arguments, done))
        self.assertIn(said, line)
        self.assertTrue(line.startswith("avictl: "), line)

    def ends(self, said: str, *command: str, code: int = 1) -> None:
        """A service ends at once with `code`; the last thing that it says is a line in which `said` is found."""
        done = self.node.run(*command)
        self.assertEqual(done.returncode, code, done)
        self.assertIn(said, (done.stdout + done.stderr).decode())
        self.assertNotIn(b"Traceback", done.stdout + done.stderr)

    def controller(self, settings: Path) -> tuple[str, ...]:
        return (sys.executable, TWISTD, "--nodaemon", "--pidfile=", "avi-controller", "--config", str(settings))

    def logged(self, name: str, said: str) -> None:
        self.node.machine.until(f"{name} says {said!r}", lambda: said in self.node.machine.log_tail(name, 100))


class OperatorTests(BadInputCase):
    engines = ("se-1",)

    def document(self, port: int) -> str:
        path = self.node.folder / "web.json"
        service = {**DOCUMENT["virtual_services"][0], "port": port}
        path.write_text(json.dumps({**DOCUMENT, "virtual_services": [service]}))
        return str(path)

    def test_documents_that_cannot_be(self) -> None:
        before = self.node.machine.asked("config", "list")
        for number, (name, text, said) in enumerate(
            (
                ("yaml", "a: [1,\n b", "cannot be parsed"),
                ("json", '{"name": }', "line 1 column 10"),
                ("toml", "x = [", "cannot be parsed"),
                ("yaml", "name: x\nnonsense: 1\n", "`nonsense`"),
                ("yaml", "name: x\nvirtual_services: [{name: a, address: 1.2.3.4, port: 70000, pool: p}]", "65535"),
                ("yaml", "name: x\nvirtual_services: [{name: a, address: 1.2.3.4, port: 80, pool: p}]", "pool p"),
                ("yaml", "name: x\n#" + "a" * 10_000_000, "has more than"),
            )
        ):
            path = self.node.folder / f"bad-{number}.{name}"
            path.write_text(text)
            self.refused(REFUSED, said, "config", "apply", "-f", str(path))
        self.refused(FAULT, "No such file", "config", "apply", "-f", str(self.node.folder / "none.yaml"))
        self.refused(NOT_FOUND, "no service engine se-9", "run", "se-9", "ping")
        self.refused(REFUSED, "'se-1;ls' is not an id", "se", "show", "se-1;ls")
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(30)
            link.connect(str(self.node.machine.socket))
            link.sendall(b"PUT /v1/configurations/web HTTP/1.1\r\nhost: node\r\ncontent-length: 10000000\r\n\r\n{")
            self.assertEqual(link.recv(12), b"HTTP/1.1 413")
        self.assertEqual(self.node.machine.asked("config", "list"), before)

    def test_a_port_in_use_is_named_and_the_last_good_version_runs_on(self) -> None:
        (port,) = free_ports(1)
        self.node.machine.avictl("config", "apply", "-f", self.document(port))
        self.node.machine.until("it runs", lambda: self.in_sync())
        good = self.node.engine("se-1")["config"]["applied"]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.node.machine.avictl("config", "apply", "-f", self.document(taken.getsockname()[1]))
            state = self.node.machine.until("it is refused", self.refusal)
            self.assertIn(f"127.0.0.1:{taken.getsockname()[1]}: Address already in use", state["reason"])
            self.assertEqual(state["applied"], good)
            socket.create_connection(("127.0.0.1", port)).close()
        (other,) = free_ports(1)
        self.node.machine.avictl("config", "apply", "-f", self.document(other))
        self.node.machine.until("the next version runs", lambda: self.in_sync())

    def in_sync(self) -> bool:
        engine = self.node.engine("se-1")
        return bool(engine["config"].get("applied") == engine["desired"])

    def refusal(self) -> dict[str, Any] | None:
        engine = self.node.engine("se-1")
        state: dict[str, Any] = engine["config"]
        return state if state.get("refused") == engine["desired"] else None

    def test_full_disks(self) -> None:
        """(E11)"""
        controller, engine = self.node.machine.process("controller"), self.node.machine.process("se-1")
        before = self.node.machine.asked("se", "list")["items"]
        full_disk(controller, True)
        self.refused(UNREACHABLE, "cannot be written", "se", "create", "se-9", "--driver", "none")
        self.assertEqual([each["id"] for each in self.node.machine.asked("se", "list")["items"]], ["se-1"], before)
        self.assertIn("pong", self.node.machine.avictl("run", "se-1", "ping"))
        full_disk(controller, False)
        self.node.machine.avictl("se", "create", "se-9", "--driver", "none")
        full_disk(engine, True)
        self.refused(UNREACHABLE, "service engine se-1: cannot write", "run", "se-1", "ping")
        (port,) = free_ports(1)
        self.node.machine.avictl("config", "apply", "-f", self.document(port))
        self.node.machine.until(
            "an operator sees why", lambda: "cannot write" in self.node.engine("se-1").get("problem", "")
        )
        self.assertFalse(self.in_sync())
        full_disk(engine, False)
        self.node.machine.until("it is tried again", self.in_sync)
        self.assertNotIn("problem", self.node.engine("se-1"))

    def test_sigterm_in_the_middle_of_things_ends_with_0(self) -> None:
        machine = self.node.machine
        for name, again in (
            ("controller", self.node.start_controller),
            ("se-1", lambda: self.node.start_engine("se-1")),
        ):
            machine.start("pipe", *self.node_avictl("connect", "se-1", "ssh"))
            self.logged("pipe", "SSH-2.0")
            self.assertEqual(machine.end(name), OK)
            machine.until("the pipe ends", lambda: machine.ended("pipe"))
            again()
            machine.until("the tunnel is back", lambda: self.node.connected("se-1"))
        self.node.expect("se-2")
        self.node.start_engine("se-2")
        self.logged("se-2", "enrolled as se-2")
        self.assertEqual(machine.end("se-2"), OK)
        self.node.start_engine("se-2")
        machine.until("se-2 is connected", lambda: self.node.connected("se-2"))
        receipts = [each for each in machine.asked("events")["items"] if each.get("outcome") == "enrolled"]
        self.assertEqual([each["id"] for each in receipts], ["se-1", "se-2"])

    def node_avictl(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "avinet.cli", *arguments)


class EnrolmentTests(BadInputCase):
    def test_a_wrong_claim_a_wrong_root_and_a_retired_image(self) -> None:
        self.node.expect("se-1", "se-2", "se-3")
        data = self.node.place("se-1") / "user-data.json"
        data.write_text(json.dumps({**json.loads(data.read_text()), "claim": "x" * 32}))
        self.ends("the claim or the image key is not the one that it expects", *self.node.boot("se-1"), code=HOPELESS)
        self.logged("controller", "the claim for se-1 is not the one that was issued")

        other = self.node.folder / "other"
        other.mkdir()
        text = self.node.settings.read_text()
        (other / "controller.toml").write_text(text)
        self.node.machine.avictl("init", "--config", str(other / "controller.toml"))
        root = next(path for path in other.rglob("*.pem") if "root" in path.name)
        (self.node.place("se-2") / "image" / "roots.pem").write_bytes(root.read_bytes())
        self.node.start_engine("se-2")
        self.logged("se-2", "is not trusted: its certificate is not signed by the root CA")

        self.node.machine.avictl("image", "retire", self.node.machine.asked("image", "list")["items"][0]["id"])
        self.ends("is retired or has expired", *self.node.boot("se-3"), code=HOPELESS)
        self.refused(REFUSED, "no image is active", "se", "create", "se-4")
        self.refused(REFUSED, "no image is active", "image", "build", "--out", str(self.node.folder / "i"))
        self.assertFalse((self.node.folder / "i").exists())
        states = {each["id"]: each["state"] for each in self.node.machine.asked("se", "list")["items"]}
        self.assertEqual(states, {"se-1": "expected", "se-2": "expected", "se-3": "expected"})


class FolderTests(BadInputCase):
    engines = ("se-1",)

    def test_folders_ports_and_settings(self) -> None:
        folder, settings = self.node.folder, self.node.settings
        root = (folder / "controller" / "trust").stat().st_mtime_ns
        self.refused(REFUSED, "there is a domain of trust", "init", "--config", str(settings))
        self.assertEqual((folder / "controller" / "trust").stat().st_mtime_ns, root)
        self.ends("is in use by process", *self.controller(settings))
        self.ends("is in use by process", *self.node.boot("se-1"))

        other = folder / "other" / "controller.toml"
        other.parent.mkdir()
        text = settings.read_text()
        other.write_text(text)
        self.ends("make one with avictl init", *self.controller(other))
        self.node.machine.avictl("init", "--config", str(other))
        self.ends("Address already in use; free the port", *self.controller(other))
        free = re.sub(r"port = \d+", "port = 0", text).replace('"controller.sock"', f'"{self.node.machine.socket}"')
        other.write_text(free)
        self.ends("another process does; stop that one", *self.controller(other))
        other.write_text(text + "\nnonsense = 1\n")
        self.ends("`nonsense`", *self.controller(other))
        other.write_text("x = [")
        self.ends("is no TOML", *self.controller(other))
        self.assertTrue(self.node.connected("se-1"))

    def test_state_of_a_newer_version_is_left_as_it_is(self) -> None:
        machine = self.node.machine
        self.assertEqual((machine.end("se-1"), machine.end("controller")), (OK, OK))
        (self.node.place("se-1") / "state" / "format").write_text("99")
        self.ends("has format 99, and this version of avinet knows", *self.node.boot("se-1"))
        store = sqlite3.connect(self.node.folder / "controller" / "store.sqlite")
        self.addCleanup(store.close)
        store.execute("PRAGMA user_version = 99")
        store.commit()
        self.ends("has format 99, and this version of avinet knows", *self.controller(self.node.settings))
        self.assertEqual(store.execute("PRAGMA user_version").fetchone(), (99,))
