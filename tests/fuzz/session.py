"""A run of one target in a process of its own, and what came of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz import corpus
from tests.fuzz.targets import Target

ROOT = Path(__file__).resolve().parents[2]
INPUT_S = 20
"""An input that takes longer is a finding."""
MEMORY_MB = 1024
_STATUS = re.compile(r"^#\d+\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)


@dataclass
class Outcome:
    """What came of fuzzing one target; `finding` is the input that shows a fault, `said` what the process said of it."""

    target: str
    status: int
    said: str
    runs: int = 0
    edges: int = 0
    features: int = 0
    inputs: int = 0
    descriptors: Sequence[int] = (0, 0)
    finding: bytes | None = None
    new: list[bytes] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether it ended by itself, without a finding, with as many descriptors as it began with."""
        before, after = self.descriptors
        return self.status == 0 and self.finding is None and 0 < before == after

    @property
    def why(self) -> str:
        """What is wrong, as the process said it."""
        at = max(self.said.find("Traceback (most"), self.said.find("ERROR: libFuzzer"), 0)
        return self.said[at:] if at else "\n".join(self.said.splitlines()[-20:])


def fuzz(target: Target, seed: int, *, seconds: int = 0, runs: int = -1) -> Outcome:
    """Fuzz `target` from its seeds and what is kept for it, for a time in whole seconds or a number of runs."""
    with TemporaryDirectory(prefix="avinet-fuzz-") as name:
        folder = Path(name)
        found, start, finding = folder / "found", folder / "start", folder / "finding"
        found.mkdir()
        _, seeds = target.load()
        corpus.spread([*seeds, *corpus.kept(target.name)], start)
        flags = [f"-seed={seed}", f"-max_total_time={seconds}", f"-runs={runs}", f"-exact_artifact_path={finding}"]
        done = _engine(target, folder, [*flags, str(found), str(start)])
        outcome = Outcome(target.name, done.returncode, done.stdout)
        if status := _STATUS.findall(done.stdout):
            outcome.edges, outcome.features, outcome.inputs = map(int, status[-1])
        if len(counts := (folder / "ledger").read_text("ascii").split()) == 3:
            outcome.runs, *outcome.descriptors = map(int, counts)
        outcome.finding = finding.read_bytes() if finding.exists() else None
        outcome.new = corpus.gathered(found)
        return outcome


def merged(target: Target, inputs: list[bytes]) -> list[bytes]:
    """The few of `inputs` that together cover what all of them do."""
    with TemporaryDirectory(prefix="avinet-fuzz-") as name:
        folder = Path(name)
        everything, few = folder / "everything", folder / "few"
        few.mkdir()
        corpus.spread(inputs, everything)
        done = _engine(target, folder, ["-merge=1", str(few), str(everything)])
        found = corpus.gathered(few)
        if done.returncode or not found:
            raise RuntimeError(done.stdout)
        return found


def _engine(target: Target, folder: Path, flags: list[str]) -> subprocess.CompletedProcess[str]:
    limits = [f"-max_len={target.most_bytes}", f"-timeout={INPUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.engine", target.name, str(folder), *limits, *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
