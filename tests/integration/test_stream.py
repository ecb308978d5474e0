"""`avictl run` for real: what a program prints is there while it runs, and everything of it ends when it has to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from typing_extensions import override

from avinet.cli.exits import OK, REMOTE, UNREACHABLE
from demo.machine import AVICTL
from tests.integration.node import PATIENCE_S, NodeCase

FLOOD_BYTES = 256 << 20
RSS_BYTES = 160 << 20
"""What a process may have at most that all of it has gone through."""
FOLLOW = """
import os, sys, time
print("begun", flush=True)
print("careful", file=sys.stderr, flush=True)
while not os.path.exists({go!r}): time.sleep(0.02)
print("ended")
sys.exit(3)
"""
TREE = """
import os, signal, subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
near, far = subprocess.Popen(sleeper), subprocess.Popen(sleeper, start_new_session=True)
print(os.getpid(), near.pid, far.pid, flush=True)
time.sleep(600)
"""
FLOOD = f"""
import os
line, left = b"x" * 1023 + b"\\n", {FLOOD_BYTES}
while left: left -= os.write(1, (line * 64)[:left])
"""
SLOW = """
import os, sys, time
for number in range(20000): print(f"{{number:06}}")
sys.stdout.flush()
while not os.path.exists({go!r}): time.sleep(0.02)
for number in range(20000, 20100): print(f"{{number:06}}")
"""


def runs(process: int) -> bool:
    """Whether it runs, and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class StreamCase(NodeCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.go = self.node.folder / "go"
        self.node.expect("se-1", "se-2")
        for id in ("se-1", "se-2"):
            settings = self.node.place(id) / "se.toml"
            texts = [settings.read_text()]
            for name, code in {"follow": FOLLOW, "tree": TREE, "flood": FLOOD, "slow": SLOW}.items():
                script = self.node.folder / f"{name}.py"
                script.write_text(code.format(go=str(self.go)) if "{go!r}" in code else code)
                argv = json.dumps([sys.executable, "-u", str(script)])
                texts.append(f'[[commands]]\nname = "{name}"\nargv = {argv}\ntimeout_s = 600.0\n')
            settings.write_text("\n".join(texts))
            self.node.start_engine(id)
        for id in ("se-1", "se-2"):
            self.node.machine.until(f"{id} is connected", lambda id=id: self.node.connected(id))  # type: ignore[misc]

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`avictl`, which runs on."""
        process = subprocess.Popen(
            [*AVICTL, *arguments],
            cwd=self.node.folder,
            env=self.node.machine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(self.kill, process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it, and an ssh that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def line(self, process: subprocess.Popen[bytes]) -> bytes:
        """The next line that it prints."""
        assert process.stdout is not None
        late = threading.Timer(PATIENCE_S, process.kill)
        late.start()
        try:
            return process.stdout.readline()
        finally:
            late.cancel()

    def latest(self) -> str:
        """The id of the last job."""
        return str(self.node.machine.asked("jobs", "list")["items"][0]["id"])

    def gone(self, *processes: int) -> None:
        for each in processes:
            self.node.machine.until(f"{each} has ended", lambda each=each: not runs(each))  # type: ignore[misc]


class StreamTests(StreamCase):
    def test_it_is_seen_while_it_runs_by_who_began_it_and_by_who_follows(self) -> None:
        running = self.begin("run", "se-1", "follow")
        self.assertEqual(self.line(running), b"begun\n")
        following = self.begin("jobs", "show", self.latest(), "--follow")
        self.assertEqual(self.line(following), b"begun\n")
        self.assertIsNone(running.poll())
        self.go.touch()
        for each in (running, following):
            out, errors = each.communicate(timeout=PATIENCE_S)
            self.assertEqual((each.returncode, out, errors), (REMOTE, b"ended\n", b"careful\n"))
        kept = self.node.avictl("jobs", "show", self.latest(), "--output-of", "se-1")
        self.assertEqual((kept.stdout, kept.stderr), (b"begun\nended\n", b"careful\n"))

    def test_several_are_told_apart(self) -> None:
        self.go.touch()
        done = self.node.avictl("run", "-l", "site=test", "follow")
        lines = sorted(done.stdout.decode().splitlines())
        self.assertEqual(lines, ["se-1: begun", "se-1: ended", "se-2: begun", "se-2: ended"])
        self.assertIn("  exit 3: 2: se-", done.stderr.decode())

    def test_ctrl_c_ends_all_that_it_has_started(self) -> None:
        running = self.begin("run", "se-1", "tree")
        processes = [int(each) for each in self.line(running).split()]
        self.assertEqual([runs(each) for each in processes], [True] * 3)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=PATIENCE_S)
        self.assertEqual(running.returncode, REMOTE, errors)
        self.assertIn(b"ended by signal TERM", errors)
        self.gone(*processes)
        self.assertEqual(self.node.machine.asked("jobs", "show", self.latest())["job"]["state"], "cancelled")

    def test_avictl_may_be_killed_and_the_job_goes_on(self) -> None:
        running = self.begin("run", "se-1", "follow")
        self.line(running)
        running.kill()
        self.go.touch()
        following = self.node.avictl("jobs", "show", self.latest(), "--follow")
        self.assertEqual((following.returncode, following.stdout), (REMOTE, b"begun\nended\n"))

    def test_with_the_service_engine_its_programs_end(self) -> None:
        running = self.begin("run", "se-1", "tree")
        processes = [int(each) for each in self.line(running).split()]
        self.node.machine.kill("se-1")
        self.gone(*processes)
        left = self.node.place("se-1") / "state" / ".receipt.json.1.new"
        left.write_bytes(b"half of one")
        self.node.start_engine("se-1")
        _, errors = running.communicate(timeout=PATIENCE_S)
        self.assertEqual(running.returncode, UNREACHABLE, errors)
        self.assertIn(b"its outcome is unknown", errors)
        self.assertFalse(left.exists(), "what the process that was killed has left aside is gone")

    def test_over_ssh_it_is_the_same(self) -> None:
        running = self.begin("ssh", "se-1", "--", "follow")
        self.assertEqual(self.line(running), b"begun\n")
        self.go.touch()
        out, errors = running.communicate(timeout=PATIENCE_S)
        self.assertEqual((running.returncode, out), (3, b"ended\n"))
        self.assertIn(b"careful\n", errors)
        self.go.unlink()
        tree = self.begin("ssh", "se-1", "--", "tree")
        processes = [int(each) for each in self.line(tree).split()]
        self.kill(tree)
        self.gone(*processes)


class LostTunnelTests(StreamCase):
    def test_the_result_is_whole_when_the_tunnel_was_cut_in_the_middle(self) -> None:
        """The SE's process is stopped until the node has given its tunnel up; then it comes back with the rest."""
        running = self.begin("run", "se-1", "slow")
        for number in range(100):
            self.assertEqual(self.line(running), b"%06d\n" % number)
        printed = running.stdout
        assert printed is not None
        rest: list[bytes] = []
        reader = threading.Thread(target=lambda: rest.append(printed.read()))
        reader.start()
        self.node.machine.until("all is there", lambda: self.node.engine("se-1").get("connected_since"))
        engine = self.node.machine.process("se-1")
        os.kill(engine, signal.SIGSTOP)
        self.node.machine.until("it is lost", lambda: self.node.engine("se-1").get("connected_since") is None)
        self.go.touch()
        os.kill(engine, signal.SIGCONT)
        late = threading.Timer(2 * PATIENCE_S, running.kill)
        late.start()
        reader.join()
        late.cancel()
        self.assertEqual(running.wait(), OK)
        self.assertEqual(rest[0], b"".join(b"%06d\n" % number for number in range(100, 20100)))


class FloodTests(StreamCase):
    def high(self, process: int) -> int:
        """The most memory that a process has had, in bytes."""
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def test_a_flood_goes_through_or_is_left_out_and_fills_nobody(self) -> None:
        machine = self.node.machine
        asleep = self.begin("run", "se-2", "flood")
        self.line(asleep)
        asleep.send_signal(signal.SIGSTOP)
        done = subprocess.Popen(
            [*AVICTL, "run", "se-1", "flood", "--timeout", "600"],
            cwd=self.node.folder,
            env=machine.environment,
            stdout=subprocess.PIPE,
        )
        assert done.stdout is not None
        total = most = 0
        while piece := done.stdout.read(1 << 20):
            total += len(piece)
            if total < FLOOD_BYTES:  # `wait4` would count what this process had when it was forked
                most = self.high(done.pid)
        self.assertEqual((done.wait(), total), (OK, FLOOD_BYTES))
        self.assertLess(most, RSS_BYTES)
        for name in ("controller", "se-1", "se-2"):
            self.assertLess(self.high(machine.process(name)), RSS_BYTES, name)
        machine.until(
            "the one that nobody reads has ended too",
            lambda: all(each.get("state") == "done" for each in machine.asked("jobs", "list")["items"][:2]),
        )
        items = machine.asked("jobs", "list")["items"]
        asleep_job = next(each["id"] for each in items if each["command"] == "flood" and each["id"] != self.latest())
        [result] = machine.asked("jobs", "show", asleep_job)["items"]
        self.assertEqual((result["id"], result["exit_status"]), ("se-2", 0))
        self.assertGreater(result["left_out"], FLOOD_BYTES - (1 << 20))
