"""The whole story, as `bin/demo --once` tells it: it is seen to work, and each step that is broken is seen to fail."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.master import installed
from demo.machine import ROOT, Machine, end_instances
from demo.story import ENGINES, STEPS, STEPS_ON_ETCD, Story, tell
from tests.peers import missing, require

PATIENCE_S = 3.0
"""How long the story waits in a step that is broken."""


class DemoTests(SynchronousTestCase):
    def once(self, *options: str, steps: int = len(STEPS)) -> None:
        require("ssh")
        done = subprocess.run(
            [sys.executable, "-m", "demo", "--once", *options],
            cwd=ROOT,
            capture_output=True,
            timeout=180,
            check=False,
        )
        said = done.stdout.decode()
        self.assertEqual(done.returncode, 0, said + done.stderr.decode())
        self.assertIn(f"all {steps} steps were seen to work", said)

    def test_it_works_with_the_built_in_proxy(self) -> None:
        self.once("--dataplane", "builtin")

    def test_it_works_with_haproxy(self) -> None:
        if installed() is None:
            missing("HAProxy 2.6 or newer is not installed")
        self.once("--dataplane", "haproxy")

    def test_it_works_with_its_state_on_etcd_a_member_of_which_is_killed(self) -> None:
        require("etcd")
        self.once("--dataplane", "builtin", "--store", "etcd", steps=len(STEPS_ON_ETCD))


def taken(port: int) -> socket.socket:
    """Somebody else has this port, and says nothing."""
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", port))
    other.listen()
    return other


def kill_engines(story: Story) -> None:
    """The service engines are gone, as by a power cut: the first processes of their instances too."""
    end_instances(story.machine.folder)


def kill_backends(story: Story) -> None:
    for name in story.backend_ports:
        story.machine.kill(name)


SABOTAGE: dict[str, Callable[[Story], object]] = {
    "domain": lambda story: (story.machine.folder / "controller" / "trust").mkdir(parents=True),
    "controller": lambda story: taken(story.ssh_port),
    "image": lambda story: next(story.machine.folder.glob("controller/trust/images/*.key")).unlink(),
    "backends": lambda story: taken(next(iter(story.backend_ports.values()))),
    "engines": lambda story: story.machine.avictl(
        "image", "retire", story.machine.asked("image", "list")["items"][0]["id"]
    ),
    "image-key": lambda story: (story.machine.folder / "image.tar.gz").write_bytes(b"no image"),
    "configuration": lambda story: taken(story.service_ports[ENGINES[0]]),
    "traffic": kill_backends,
    "health": kill_engines,
    "command": kill_engines,
    "ssh": kill_engines,
    "logs": kill_engines,
    "restart": lambda story: (story.machine.folder / "controller.toml").unlink(),
    "delete": lambda story: story.machine.kill("controller"),
}


class BrokenDemoTests(SynchronousTestCase):
    """One step after the other is broken for real, just before it is taken; the story ends there, and says so."""

    def broken(self, name: str) -> None:
        require("ssh")
        machine = Machine()
        kept: list[object] = []
        try:
            story = Story(machine, "builtin")

            def before(step: str) -> None:
                if step == name:
                    machine.patience_s = PATIENCE_S
                    kept.append(SABOTAGE[name](story))

            failed = tell(story, STEPS, before=before, say=lambda line: None)
        finally:
            machine.close()
            for each in kept:
                if isinstance(each, socket.socket):
                    each.close()
        self.assertEqual(failed, name)

    def test_every_step_can_be_broken(self) -> None:
        self.assertEqual(set(SABOTAGE), {step.name for step in STEPS})


def _add(name: str) -> None:
    def test(self: BrokenDemoTests) -> None:
        self.broken(name)

    test.__doc__ = f"The step {name} is seen to fail."
    setattr(BrokenDemoTests, f"test_{name.replace('-', '_')}", test)


for _step in STEPS:
    _add(_step.name)
