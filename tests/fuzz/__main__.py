"""bin/fuzz [TARGET...] [--seconds N] [--seed N] [--keep], or TARGET --replay FILE; exit 0 only without a finding."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom

from twisted.logger import globalLogPublisher, textFileLogObserver

from tests.fuzz import corpus, steps
from tests.fuzz.session import ROOT, Outcome, fuzz, merged
from tests.fuzz.targets import PLANTED, TARGETS, Target, named

CLEAN, FOUND, FAILED = 0, 1, 3
"""Exit codes: nothing was found; something was; it could not be run. A wrong command line is 2, by argparse."""
FINDINGS = ROOT / ".fuzz"
KEPT_BYTES = 24 * 1024
"""What is kept for one target at most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bin/fuzz",
        description="Coverage-guided fuzzing of all that a peer can say: each target in turn, in a process of its own.",
        epilog="\n".join(f"{each.name}: {each.what}" for each in (*TARGETS.values(), PLANTED)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*TARGETS, PLANTED.name]
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", choices=[*names, []], help="see below; all but the last"
    )
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="how long in all (60)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the fuzzer's choices; any, when it is not given")
    parser.add_argument("--keep", action="store_true", help="add what covers more to tests/fuzz/corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input, and show what it does")
    options = parser.parse_args(arguments)
    targets = [named(name) for name in dict.fromkeys(options.targets or TARGETS)]
    if options.replay:
        if len(targets) != 1:
            parser.error("--replay wants one TARGET")
        return replay(targets[0], options.replay.read_bytes())
    if find_spec("atheris") is None:
        print("bin/fuzz needs the Python package atheris, which this Python has not", file=sys.stderr)
        return FAILED
    seed = options.seed or SystemRandom().randrange(1, 1 << 31)
    print(f"seed {seed}, {options.seconds} s in all", flush=True)
    outcomes = []
    for target in targets:
        seconds = max(1, options.seconds * target.share // sum(each.share for each in targets))
        outcomes.append(fuzz(target, seed, seconds=seconds))
        print(line(outcomes[-1]), flush=True)
        if not outcomes[-1].clean:
            print(told(outcomes[-1]), flush=True)
        elif options.keep:
            print(f"{'':12}{keep(target, outcomes[-1].new)} inputs are kept", flush=True)
    bad = sum(not each.clean for each in outcomes)
    print(f"{sum(each.runs for each in outcomes)} runs, {bad} findings")
    return FOUND if bad else CLEAN


def line(outcome: Outcome) -> str:
    """What came of one target, in a line."""
    before, after = outcome.descriptors
    return (
        f"{outcome.target:12}{outcome.runs:8} runs {outcome.edges:6} edges {outcome.features:6} features "
        f"{outcome.inputs:5} inputs   descriptors {before} → {after}   {'ok' if outcome.clean else 'FOUND'}"
    )


def told(outcome: Outcome) -> str:
    """Why it is not clean, and how to see it again."""
    if outcome.finding is None:
        return outcome.why
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{outcome.target}-{sha256(outcome.finding).hexdigest()[:12]}"
    path.write_bytes(outcome.finding)
    return f"{outcome.why}\nto see it again: bin/fuzz {outcome.target} --replay {path.relative_to(ROOT)}"


def keep(target: Target, new: list[bytes]) -> int:
    """Keep what covers something beside the seeds, as much as may be; returns how many inputs that are."""
    _, seeds = target.load()
    chosen, left = [], KEPT_BYTES
    for data in sorted(set(merged(target, [*seeds, *corpus.kept(target.name), *new])) - set(seeds), key=len):
        left -= len(data)
        if left >= 0:
            chosen.append(data)
    return corpus.keep(target.name, chosen)


def replay(target: Target, data: bytes) -> int:
    """Run one input, with what it consists of, what is logged meanwhile, and how it ends."""
    run, _ = target.load()
    shown = textFileLogObserver(sys.stdout)
    globalLogPublisher.addObserver(shown)
    for each in steps.steps(data) if target.programs else [data]:
        print(f"  {each.hex(' ')}")
    try:
        run(data)
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return FOUND
    finally:
        globalLogPublisher.removeObserver(shown)
    print("nothing was found")
    return CLEAN


if __name__ == "__main__":
    sys.exit(main())
