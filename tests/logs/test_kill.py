"""The spool's process is killed at random points, again and again: nothing that was durable is lost, or there twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.logs.spool_child import RUBBISH, line_of
from tests.logs.spooling import Spooling

RUNS = 24


class KilledTests(SynchronousTestCase):
    def run_and_kill(self, folder: Path, run: int, seconds: float) -> int:
        """How many lines it said to be durable before it was killed after `seconds`."""
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.logs.spool_child", str(folder), str(run)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
        )
        try:
            child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
        out, _ = child.communicate()
        self.assertEqual(child.returncode, -9, "it ended by itself")
        said = out.decode().rpartition("\n")[0].splitlines()
        return int(said[-1]) if said else 0

    def test_what_was_durable_is_sealed_once_and_the_rest_is_told_of(self) -> None:
        folder = Path(self.mktemp()).absolute()
        chance = random.Random(20)
        durable, sealed = [], {}
        for run in range(RUNS):
            durable.append(self.run_and_kill(folder, run, chance.uniform(0.3, 2.2)))
            now = {path.name: path.read_bytes() for path in folder.glob("*-*.json") if path.name[0].isdigit()}
            self.assertEqual({name: now.get(name) for name in sealed}, sealed, "a sealed segment is gone")
            sealed = now
        at = Spooling(folder)
        at.later()
        self.successResultOf(at.seal_now())
        rows = at.rows("seq", "query")
        at.stop()
        self.assertEqual([seq for seq, _ in rows], list(range(1, len(rows) + 1)))
        there = Counter(query for _, query in rows)
        self.assertEqual([query for query, count in there.items() if count > 1], [])
        rubbish = 0
        for run, count in enumerate(durable):
            fit = [number for number in range(count) if line_of(run, number) != RUBBISH]
            missing = [number for number in fit if f"{run}.{number}" not in there]
            self.assertEqual(missing, [], f"of run {run}")
            rubbish += count - len(fit)
        self.assertGreaterEqual(sum(gap.records or 0 for gap in at.gaps if gap.reason == "parse"), rubbish)
        self.assertGreater(sum(durable), 1000, "it was killed too early to show anything")
        self.assertTrue(any(gap.reason == "crash" for gap in at.gaps))
