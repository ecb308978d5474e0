"""A controller and service engines as processes, in a folder of the test's own; everything ends with the test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.cloud.bundle import LocalBoot
from avinet.cloud.driver import Order
from avinet.wire.enrolment import RECEIPT_LIMIT_BYTES, Receipt
from avinet.wire.message import decode
from demo.machine import AVICTL, TWISTD, Machine

PATIENCE_S = 60.0


class Node:
    """The process `controller` on `machine`, and those of service engines, each named by its id.

    `ssh_settings` are lines of the controller's settings for its door for tunnels, `store_settings` those for its
    store, `address` is where service engines reach it, `engine` is the data plane of those that the local driver
    starts.
    """

    def __init__(
        self,
        ssh_settings: str = "",
        address: str = "127.0.0.1",
        engine: str = "builtin",
        store_settings: str = "",
    ) -> None:
        self._engine = engine
        self._ssh_settings = ssh_settings
        self._store_settings = store_settings
        self._address = address
        self.machine = Machine(PATIENCE_S)
        self.folder: Path = self.machine.folder
        self.settings = self.folder / "controller.toml"
        self._boots: dict[str, list[str]] = {}
        self._write_settings(0, 0)

    def _write_settings(self, ssh: int, https: int) -> None:
        self.settings.write_text(
            f'node = "node-1"\nstate = "controller"\nsocket = "controller.sock"\n'
            f'addresses = ["{self._address}"]\n\n'
            f'[ssh]\nlisten = ["{self._address}"]\nport = {ssh}\n{self._ssh_settings}\n'
            f'[https]\nlisten = ["{self._address}"]\nport = {https}\n\n'
            f'[cloud]\nfolder = "instances"\nengine = "{self._engine}"\n\n[store]\n{self._store_settings}\n'
        )

    def init(self) -> None:
        """Make the domain of trust, start the controller, and keep the ports that it was given."""
        self.machine.avictl("init", "--config", str(self.settings))
        self.start_controller()
        self._write_settings(self.ssh_port, self.https_port)

    def command(self) -> list[str]:
        """The command that starts the controller."""
        return [sys.executable, TWISTD, "--nodaemon", "--pidfile=", "avi-controller", "--config", str(self.settings)]

    def start_controller(self, *within: str) -> None:
        """Start the controller, `within` another command, and wait until it answers."""
        self.machine.start("controller", *within, *self.command())
        status = self.machine.until("the controller answers", lambda: self.machine.asked("status"))
        self.ssh_port, self.https_port = (int(status[door][0].rpartition(":")[2]) for door in ("ssh", "https"))

    def expect(self, *ids: str, label: str = "site=test") -> None:
        """Have the controller expect service engines, and lay out what each one boots from."""
        for each in self.machine.asked("se", "create", *ids, "--driver", "none", "--label", label)["items"]:
            self._lay_out(each["id"], each["generation"], each["claim"])

    def _lay_out(self, id: str, generation: int, claim: str) -> Path:
        bundle = self.folder / "image.tar.gz"
        if not bundle.exists():
            self.machine.avictl("image", "build", "--out", str(bundle))
        place = self.place(id)
        place.mkdir()
        self._boots[id] = list(LocalBoot("builtin")(Order(id, generation, bundle.read_bytes(), claim), place))
        return place

    def boot_anew(self, id: str, generation: int, claim: str) -> None:
        """End the process of a service engine, forget its disk, and boot it from the image."""
        self.machine.kill(id)
        shutil.rmtree(self.place(id))
        self._lay_out(id, generation, claim)
        self.start_engine(id)

    def boot_unasked(self, id: str, proposal: str = "") -> None:
        """Start a service engine that nobody expects, from the image alone; it proposes `proposal`, or `id`."""
        place = self._lay_out(id, 1, "")
        (place / "user-data.json").unlink()
        settings = place / "se.toml"
        settings.write_text(f'id = "{proposal or id}"\n' + settings.read_text())
        self.start_engine(id)

    def start_engine(self, id: str, *within: str) -> None:
        """Start the process of a service engine that is expected, or was ended, `within` another command."""
        self.machine.start(id, *within, *self._boots[id])

    def boot(self, id: str) -> list[str]:
        """The command that starts a service engine."""
        return self._boots[id]

    def create(self, *ids: str) -> None:
        """Service engines that have enrolled, and hold their tunnels."""
        self.expect(*ids)
        for id in ids:
            self.start_engine(id)
        for id in ids:
            self.machine.until(f"{id} is connected", lambda id=id: self.connected(id))  # type: ignore[misc]

    def connected(self, id: str) -> bool:
        """Whether it has a tunnel, and answers through it."""
        return self.engine(id).get("connected_since") is not None and "pong" in self.machine.avictl("run", id, "ping")

    def engine(self, id: str) -> dict[str, Any]:
        """What the controller says of a service engine."""
        found: dict[str, Any] = self.machine.asked("se", "show", id)
        return found

    def place(self, id: str) -> Path:
        """The folder of a service engine: its settings, its `state`, its `logs`."""
        return self.folder / id

    def receipt(self, id: str) -> Receipt:
        """What a service engine was told when it enrolled: the keys of the controller among it."""
        data = (self.place(id) / "state" / "receipt.json").read_bytes()
        return decode(data, Receipt, limit_bytes=RECEIPT_LIMIT_BYTES, what="receipt")

    def avictl(self, *arguments: str, stdin: int | None = subprocess.DEVNULL) -> subprocess.CompletedProcess[bytes]:
        """`avictl` with these arguments, as it ended."""
        return self.run(*AVICTL, *arguments, stdin=stdin)

    def run(self, *command: str, stdin: int | None = subprocess.DEVNULL) -> subprocess.CompletedProcess[bytes]:
        """A program that ends by itself, in the test's folder."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.machine.environment,
            stdin=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )


class NodeCase(SynchronousTestCase):
    """Each test has a controller of its own; `engines` are connected when it begins."""

    engines: tuple[str, ...] = ()
    ssh_settings = ""
    engine = "builtin"

    def store_settings(self) -> str:
        """Lines of the settings for the store of the node."""
        return ""

    @override
    def setUp(self) -> None:
        self.node = Node(self.ssh_settings, engine=self.engine, store_settings=self.store_settings())
        self.addCleanup(self.node.machine.close)
        self.node.init()
        if self.engines:
            self.node.create(*self.engines)
