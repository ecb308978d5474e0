"""The local driver: instances are processes that outlive it, and are ended with all that they started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase

from avinet.cloud.driver import Instance, Order
from avinet.cloud.local import LocalCloud
from avinet.errors import Invalid, NotFound
from avinet.taps.process import HOPELESS
from tests.running import asynchronous, eventually

# A service that starts another process, which leaves its session and ignores SIGTERM.
PROGRAM = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(f"running-{os.getpid()}", "w").close()
signal.pause()
"""


def boot(order: Order, folder: Path) -> Sequence[str]:
    (folder / "claim").write_text(order.claim)
    return [sys.executable, "-c", PROGRAM]


class LocalCloudTests(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.cloud = self.another()
        self.addCleanup(lambda: ensureDeferred(self.cloud.delete("se-1")))

    def another(self) -> LocalCloud:
        """The driver of a controller that has just started."""
        return LocalCloud(reactor, self.folder, boot, end_s=0.5)

    def order(self, generation: int = 1) -> Order:
        return Order("se-1", generation, b"", "secret")

    @asynchronous
    async def test_an_instance_runs_until_it_is_deleted(self) -> None:
        created = await self.cloud.create(self.order())
        self.assertEqual(created, Instance("se-1", 1, running=True))
        self.assertEqual(list(await self.another().instances()), [created])
        await self.cloud.delete("se-1")
        self.assertEqual(list(await self.cloud.instances()), [])
        self.assertFalse((self.folder / "se-1").exists())

    @asynchronous
    async def test_a_service_that_was_killed_comes_back_as_on_a_machine(self) -> None:
        await self.cloud.create(self.order())
        place = self.folder / "se-1"
        await eventually("both run", lambda: len(list(place.glob("running-*"))) == 2)
        before = {int(path.name.partition("-")[2]) for path in place.glob("running-*")}
        for process in before:
            os.kill(process, signal.SIGKILL)
        await eventually("both run again", lambda: len(list(place.glob("running-*"))) == 4)

    @asynchronous
    async def test_a_service_that_says_it_is_hopeless_stays_ended(self) -> None:
        def boot(order: Order, folder: Path) -> Sequence[str]:
            return [sys.executable, "-c", f"import os; open(f'ran-{{os.getpid()}}', 'w').close(); os._exit({HOPELESS})"]

        self.cloud = LocalCloud(reactor, self.folder, boot, end_s=0.5)
        await self.cloud.create(self.order())

        async def ended() -> bool:
            return not any(each.running for each in await self.cloud.instances())

        await eventually("the instance has ended", ended)
        self.assertEqual(len(list((self.folder / "se-1").glob("ran-*"))), 1)

    @asynchronous
    async def test_creating_it_again_changes_nothing(self) -> None:
        await self.cloud.create(self.order())
        before = (self.folder / "se-1" / "instance.json").read_bytes()
        await self.another().create(self.order())
        self.assertEqual((self.folder / "se-1" / "instance.json").read_bytes(), before)

    @asynchronous
    async def test_a_new_generation_replaces_the_old_one(self) -> None:
        await self.cloud.create(self.order())
        before = (self.folder / "se-1" / "instance.json").read_bytes()
        await self.cloud.create(self.order(2))
        self.assertNotEqual((self.folder / "se-1" / "instance.json").read_bytes(), before)
        self.assertEqual(list(await self.cloud.instances()), [Instance("se-1", 2, running=True)])

    @asynchronous
    async def test_the_folder_is_private(self) -> None:
        await self.cloud.create(self.order())
        self.assertEqual((self.folder / "se-1").stat().st_mode & 0o777, 0o700)

    @asynchronous
    async def test_what_is_not_there(self) -> None:
        await self.cloud.delete("se-9")
        await self.assertFailure(ensureDeferred(self.cloud.power_on("se-9")), NotFound)
        await self.assertFailure(ensureDeferred(self.cloud.delete("../x")), Invalid)
