"""bin/demo: runs the story, prints each step with its time; waits for Ctrl-C, or with --once ends by itself."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from demo.machine import Machine
from demo.story import KEPT, STEPS, Story, check_machine, hints, tell


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
        failed = tell(story, STEPS[:KEPT], say=say)
        if not failed and not options.once:
            wait(story)
        failed = failed or tell(story, STEPS[KEPT:], first=KEPT + 1, say=say)
        if not failed:
            say(f"\nall {len(STEPS)} steps were seen to work, in {time.monotonic() - begun:.1f} s")
        return 1 if failed else 0
    except KeyboardInterrupt:
        say("\nended")
        return 130
    finally:
        machine.close()


def say(line: str) -> None:
    print(line, flush=True)


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
