"""Tunnels that are half-dead, for real: a stopped process, a route that swallows everything, an address that changed.

Both ends notice within `dead_after_s`, and the tunnel comes back by itself (S34).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests.integration.node import Node
from tests.peers import missing, require

SILENT = "it gives no sign of life"
SLACK_S = 5.0
"""For a machine that is busy, and for looking. TCP alone would take minutes."""


class Network:
    """A network of its own for a service engine, behind a router: `inside` is its address, `outside` the node's."""

    def __init__(self) -> None:
        self._ip = require("ip")
        if os.geteuid() != 0:
            missing("only root can make networks")
        number = os.getpid() % 250
        self.engine, self._router = f"avinet-e{number}", f"avinet-r{number}"
        net = f"10.231.{number}"
        self.outside, self.inside, self._other = f"{net}.1", f"{net}.10", f"{net}.11"
        self._link = f"av{number}"
        try:
            self._make(net)
        except subprocess.CalledProcessError as error:
            self.close()
            missing(f"this machine makes no networks: {error.stderr.decode(errors='replace').strip()}")

    def ip(self, line: str) -> None:
        subprocess.run([self._ip, *line.split()], check=True, capture_output=True, timeout=20)

    def _make(self, net: str) -> None:
        for name in (self.engine, self._router):
            self.ip(f"netns add {name}")
        self.ip(f"link add {self._link} type veth peer name near netns {self._router}")
        self.ip(f"-n {self._router} link add far type veth peer name eth0 netns {self.engine}")
        self.ip(f"addr add {self.outside}/30 dev {self._link}")
        self.ip(f"link set {self._link} up")
        self.ip(f"-n {self._router} addr add {net}.2/30 dev near")
        self.ip(f"-n {self._router} addr add {net}.9/29 dev far")
        self.ip(f"-n {self.engine} addr add {self.inside}/29 dev eth0")
        for name, link in ((self._router, "near"), (self._router, "far"), (self.engine, "eth0"), (self.engine, "lo")):
            self.ip(f"-n {name} link set {link} up")
        self.ip(f"-n {self.engine} route add default via {net}.9")
        self.ip(f"route add {net}.8/29 via {net}.2")
        self.ip(f"netns exec {self._router} sysctl -qw net.ipv4.ip_forward=1")

    def swallow(self, on: bool) -> None:
        """Have the router drop everything between the two in silence, or no longer."""
        for address in (self.outside, self.inside):
            self.ip(f"-n {self._router} route {'add' if on else 'del'} blackhole {address}/32")

    def renumber(self) -> None:
        """The service engine has another address from now on: nobody answers for its connections any more."""
        self.ip(f"-n {self.engine} addr del {self.inside}/29 dev eth0")
        self.ip(f"-n {self.engine} addr add {self._other}/29 dev eth0")
        self.ip(f"-n {self.engine} route add default via {self.outside.rpartition('.')[0]}.9")

    @property
    def within(self) -> tuple[str, ...]:
        """The command that starts a process inside."""
        return (self._ip, "netns", "exec", self.engine)

    def close(self) -> None:
        for line in (f"netns del {self.engine}", f"netns del {self._router}", f"link del {self._link}"):
            subprocess.run([self._ip, *line.split()], check=False, capture_output=True, timeout=20)


class HalfDeadCase(SynchronousTestCase):
    """`se-1` runs beside the controller, `se-2` behind a network of its own."""

    dead_after_s = 15.0

    @override
    def setUp(self) -> None:
        self.network = Network()
        self.addCleanup(self.network.close)
        self.node = Node(f"dead_after_s = {self.dead_after_s}\n", self.network.outside)
        self.addCleanup(self.node.machine.close)
        self.node.init()
        self.node.expect("se-1", "se-2")
        for id, within in (("se-1", ()), ("se-2", self.network.within)):
            settings = self.node.place(id) / "se.toml"
            settings.write_text(f"{settings.read_text()}\n[tunnel]\ndead_after_s = {self.dead_after_s}\n")
            self.node.start_engine(id, *within)
        for id in ("se-1", "se-2"):
            self.back(id)

    def back(self, id: str) -> None:
        self.node.machine.until(f"{id} is connected", lambda: self.node.connected(id))

    def said(self, name: str, line: str) -> int:
        """How often a process has written `line`."""
        return (self.node.machine.folder / f"{name}.log").read_text(errors="replace").count(line)

    def noticed(self, *lines: tuple[str, str]) -> None:
        """Each process writes its line once more, in time, from now on."""
        before = {each: self.said(*each) for each in lines}
        began = time.monotonic()
        for each in lines:
            self.node.machine.until(f"{each[0]} notices", self.more(each, before[each]))
            self.assertLess(time.monotonic() - began, self.dead_after_s + SLACK_S, each)

    def more(self, each: tuple[str, str], before: int) -> Callable[[], bool]:
        return lambda: self.said(*each) > before


class DefaultTests(HalfDeadCase):
    def test_a_stopped_process_and_a_black_hole_are_noticed_within_15_seconds(self) -> None:
        stopped = self.node.machine.process("se-1")
        os.kill(stopped, signal.SIGSTOP)
        try:
            self.network.swallow(True)
            self.noticed(
                ("controller", f"se-1 has lost its tunnel: {SILENT}"),
                ("controller", f"se-2 has lost its tunnel: {SILENT}"),
                ("se-2", SILENT),
            )
        finally:
            os.kill(stopped, signal.SIGCONT)
        self.network.swallow(False)
        for id in ("se-1", "se-2"):
            self.back(id)


class SettingTests(HalfDeadCase):
    dead_after_s = 3.0

    def test_a_controller_that_is_stopped_is_noticed_as_soon_as_the_setting_says(self) -> None:
        stopped = self.node.machine.process("controller")
        os.kill(stopped, signal.SIGSTOP)
        try:
            self.noticed(("se-1", SILENT), ("se-2", SILENT))
        finally:
            os.kill(stopped, signal.SIGCONT)
        for id in ("se-1", "se-2"):
            self.back(id)

    def test_a_connection_that_nobody_answers_for_any_more_is_replaced(self) -> None:
        self.network.renumber()
        self.noticed(("se-2", SILENT))
        self.back("se-2")
        self.assertEqual([each for each in self.node.machine.asked("events")["items"] if each.get("alarm")], [])
