"""What both processes do to themselves at their start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import avinet

ROUNDS, PIECES, PIECE_BYTES = 100, 8, 200_000
CHILD = f"""
import resource, sys
from avinet.taps.process import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def hold():
    return [bytearray({PIECE_BYTES}) for _ in range({PIECES})]
hold()
before = faults()
for _ in range({ROUNDS}):
    hold()
print(faults() - before)
"""


class MemoryTests(SynchronousTestCase):
    def faults(self, how: str) -> int:
        """The page faults of a process that takes and frees memory for `ROUNDS` times."""
        home = str(Path(avinet.__file__).parent.parent)
        done = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, check=True, timeout=60, cwd=home)
        return int(done.stdout)

    def test_what_is_freed_is_there_for_the_next_time(self) -> None:
        if self.faults("leave") < ROUNDS * PIECES:
            raise SkipTest("this C library keeps what is freed by itself")
        self.assertLess(self.faults("keep"), ROUNDS)
