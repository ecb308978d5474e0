"""bin/demo: runs the story, prints each step with its time; waits for Ctrl-C, or with --once ends by itself."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from demo.machine import Machine
from demo.story import Story, check_machine, hints, tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end by itself: 0 only if every step was seen to work")
    parser.add_argument("--dataplane", choices=("auto", "haproxy", "builtin"), default="auto")
    parser.add_argument("--store", choices=("sqlite", "etcd"), default="sqlite", help="where the node keeps its state")
    options = parser.parse_args()
    check_machine(options.store)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = Machine()
    story = Story(machine, options.dataplane, options.store)
    try:
        *kept, last = story.steps
        begun = time.monotonic()
        failed = tell(story, kept, say=say)
        if not failed and not options.once:
            wait(story)
        failed = failed or tell(story, [last], first=len(kept) + 1, say=say)
        if not failed:
            say(f"\nall {len(story.steps)} steps were seen to work, in {time.monotonic() - begun:.1f} s")
        return 1 if failed else 0
    except KeyboardInterrupt:
        say("\nended")
        return 130
    finally:
        machine.close()
        story.close()


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
