"""One target in this process, under libFuzzer: `python -m tests.fuzz.engine TARGET FOLDER FLAGS…`, its own flags last.

It is started by `tests.fuzz.session`. In FOLDER it writes `ledger` (how many inputs were run, how many descriptors were
open before, and after the last one), as libFuzzer leaves without letting Python say anything, and the input that shows
a fault into `finding`.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris
from twisted.logger import globalLogBeginner

from tests.fuzz import marks, steps
from tests.fuzz.targets import named
from tests.fuzz.watch import check, descriptors

FOUND = 77
"""The exit status after a finding, as libFuzzer's own."""


def _heard() -> Callable[[int], None]:
    """Takes marks: each is a function that the fuzzer watches."""
    watched = [atheris.instrument_func(lambda: None) for _ in range(marks.MARKS)]
    return lambda number: watched[number]()


def main(name: str, folder: Path, flags: list[str]) -> None:
    """Fuzz a target until libFuzzer ends the process."""
    globalLogBeginner.beginLoggingTo([lambda event: None], discardBuffer=True, redirectStandardIO=False)
    target = named(name)
    with atheris.instrument_imports(include=["avinet", *target.also, *([target.module] if target.module else [])]):
        run, seeds = target.load()
    marks.listen(_heard())
    run(seeds[0])  # what is opened once and for all is open now
    ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    runs = before = 0

    def once(data: bytes) -> None:
        nonlocal runs, before
        before = before or descriptors()
        runs += 1
        try:
            run(data)
            after = descriptors()
            os.pwrite(ledger, b"%10d %5d %5d" % (runs, before, after), 0)
            check(after == before, f"of {before} descriptors there are {after} now")
        except BaseException:
            (folder / "finding").write_bytes(data)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(FOUND)

    words = [step for seed in seeds for step in steps.steps(seed)]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        return steps.mutated(data, most, seed, atheris.Mutate, words)

    with_steps = {"custom_mutator": mutate, "custom_crossover": steps.crossed} if target.programs else {}
    # To merge, libFuzzer starts itself again in a shell, under this name.
    itself = shlex.join([sys.executable, "-m", "tests.fuzz.engine", name, str(folder)])
    atheris.Setup([itself, *flags], once, **with_steps)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
