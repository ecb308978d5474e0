"""bin/demo: runs the story, prints each step with its time; waits for Ctrl-C, or with --once ends by itself."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from demo.machine import Machine, StepFailed
from demo.story import KEPT, STEPS, Step, Story, check_machine, hints


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end by itself: 0 only if every step was seen to work")
    parser.add_argument("--dataplane", choices=("auto", "haproxy", "builtin"), default="auto")
    options = parser.parse_args()
    check_machine()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = Machine()
    try:
        story = Story(machine, options.dataplane)
        begun = time.monotonic()
        for number, step in enumerate(STEPS, 1):
            if number > KEPT and not options.once:
                wait(story)
            if not play(story, number, step):
                return 1
        print(f"\nall {len(STEPS)} steps were seen to work, in {time.monotonic() - begun:.1f} s")
        return 0
    except KeyboardInterrupt:
        print("\nended")
        return 130
    finally:
        machine.close()


def play(story: Story, number: int, step: Step) -> bool:
    print(f"{number:2}  {step.title:<36}", end="", flush=True)
    begun = time.monotonic()
    try:
        seen = step.run(story)
    except StepFailed as failure:
        print(f"FAILED after {time.monotonic() - begun:.1f} s\n    {failure}")
        for name in ("controller",):
            if tail := story.machine.log_tail(name, 8):
                print(f"    the end of {name}.log:\n      " + tail.replace("\n", "\n      "))
        return False
    print(f"{time.monotonic() - begun:6.2f} s  {seen}")
    return True


def wait(story: Story) -> None:
    print("\neverything runs. Try:\n")
    for line in hints(story):
        print(f"  {line}")
    print("\nCtrl-C ends it and cleans up.", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nending ...")


if __name__ == "__main__":
    sys.exit(main())
