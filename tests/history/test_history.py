"""A short run of `bin/history`: what it judges is a real cluster to which things happen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from tests.history.run import Race, members
from tests.peers import require
from tests.running import asynchronous
from tests.store.network import Network


class HistoryTests(TestCase):
    timeout = 300

    async def clean(self, network: Callable[[tuple[str, ...]], Network | None], seed: int, seconds: float) -> None:
        require("etcd")
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        cluster, made = members(folder, 3, network)
        self.addCleanup(shutil.rmtree, folder)
        if made is not None:
            self.addCleanup(made.close)
        self.addCleanup(cluster.stop)
        said: list[str] = []
        verdict = await Race(reactor, cluster, made, seed, said.append, calm_s=1, trouble_s=2).run(seconds)
        self.assertEqual(verdict.faults, [], f"seed {seed}: {said}")
        self.assertGreater(verdict.acknowledged, 20)
        self.assertGreater(verdict.reads, 20)
        self.assertGreater(sum(verdict.happened.values()), 1)

    @asynchronous
    async def test_members_that_are_killed_and_fall_asleep(self) -> None:
        await self.clean(lambda names: None, 1, 8)

    @asynchronous
    async def test_members_that_are_cut_off_too(self) -> None:
        await self.clean(Network, 2, 12)
