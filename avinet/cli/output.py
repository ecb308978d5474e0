"""What a job prints, while it runs: on one service engine as it is, on several in whole lines, each with its id."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from avinet.cli.exits import REMOTE
from avinet.cli.node import Node
from avinet.cli.shown import Output, emit_line, escaped, one_line, safe, write
from avinet.errors import AvinetError, Conflict, PeerError, Unavailable
from avinet.transcript import mark
from avinet.units import format_seconds
from avinet.wire.jobs import Job, JobEnded, JobEvent, JobLeftOut, JobOutput, JobSeen, JobStarted

LONGEST_LINE = 64 * 1024
"""What waits for the end of its line at most."""
NAMED = 10
"""How many are named in the summary that ended in one way."""
ROOM_S = 0.5
"""How long a line from a signal handler waits for room at most."""


class Printer:
    """Prints the output of a job; those of several have their ids before each line, unless they are to have none."""

    def __init__(self, prefix: bool) -> None:
        self._prefix = prefix
        self._width = 0
        self._begun: dict[tuple[str, str], str] = {}

    def started(self, id: str) -> None:
        """One more will print."""
        self._width = max(self._width, len(id))

    def printed(self, id: str, stream: str, text: str) -> None:
        """More was printed there."""
        to = sys.stderr if stream == "err" else sys.stdout
        if not self._prefix:
            write(text, to)
            to.flush()
            return
        *lines, rest = (self._begun.pop((id, stream), "") + text).split("\n")
        for line in lines:
            self._line(id, to, line)
        if len(rest) > LONGEST_LINE:
            self._line(id, to, rest)
        elif rest:
            self._begun[id, stream] = rest
        to.flush()

    def ended(self, id: str) -> None:
        """There will be no more of it."""
        for stream, to in (("out", sys.stdout), ("err", sys.stderr)):
            rest = self._begun.pop((id, stream), "")
            if rest:
                self._line(id, to, rest)
                to.flush()

    def _line(self, id: str, to: TextIO, line: str) -> None:
        before = f"{id:<{self._width}} {'!' if to is sys.stderr else '|'} " if to.isatty() else f"{id}: "
        to.write(f"{before}{safe(line, to)}\n")


class Watch:
    """Shows what is told of a job, as it comes. `prefix` None: where there are several."""

    def __init__(self, output: Output, prefix: bool | None) -> None:
        self.job: Job | None = None
        self._output = output
        self._prefix = prefix
        self._printer = Printer(bool(prefix))
        self._ends: dict[str, list[str]] = {}
        self._last: JobEnded | None = None

    def see(self, events: Iterator[JobEvent]) -> None:
        """Show them all. Raises `PeerError` when the last of them is missing."""
        over = False
        for event in events:
            if isinstance(event, JobSeen):
                over = self.job is not None
                if self.job is None and self._prefix is None:
                    self._printer = Printer(event.job.targets > 1)
                self.job = event.job
            elif isinstance(event, JobEnded):
                self._ends.setdefault(_how(event), []).append(event.id)
                self._last = event
            if self._output != "table":
                emit_line(event, self._output)
            else:
                self._show(event)
        if not over:
            raise PeerError("the node did not say how the job ended")

    def _show(self, event: JobEvent) -> None:
        match event:
            case JobStarted(id=id):
                self._printer.started(id)
            case JobOutput(id=id, stream=stream, text=text):
                self._printer.printed(id, stream, text)
            case JobLeftOut(id=id, bytes=count):
                self._printer.printed(id, "err", mark(count).lstrip())
            case JobEnded(id=id):
                self._printer.ended(id)
                if self.job is not None and self.job.targets > 1 and event.outcome not in ("done", "skipped"):
                    print(one_line(escaped(f"{id}: {event.outcome}: {event.error}")), file=sys.stderr)

    def end(self) -> int:
        """Sum it up, and say how `avictl` ends. Raises why the only one of a job has no outcome."""
        job, last = self.job, self._last
        assert job is not None
        if job.targets == 1 and last is not None:
            return self._end_of_one(last)
        if self._output == "table":
            took = format_seconds((job.finished or job.created) - job.created)
            well = len(self._ends.get("ok", ()))
            print(f"job {job.id} {job.state}: {well} of {job.targets} ended well, in {took}", file=sys.stderr)
            for how, ids in sorted(self._ends.items()):
                named = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
                print(f"  {how}: {len(ids)}: {named}", file=sys.stderr)
        return 0 if job.state == "done" and not job.failed else REMOTE

    def _end_of_one(self, last: JobEnded) -> int:
        if last.outcome == "refused":
            raise Conflict(last.error)
        if last.outcome in ("unreachable", "unknown"):
            raise Unavailable(last.error)
        if last.signal and self._output == "table":
            print(f"ended by signal {last.signal}", file=sys.stderr)
        return REMOTE if last.exit_status else 0


def _how(event: JobEnded) -> str:
    if event.outcome != "done":
        return event.outcome
    if event.signal:
        return f"signal {event.signal}"
    return f"exit {event.exit_status}" if event.exit_status else "ok"


def _mention(line: str) -> None:
    """Print a line from a signal handler: past the buffer of the `print` that it may interrupt, if there is room.

    A terminal that echoes the ^C has none for a moment; a pipe that nobody reads has none for ever.
    """
    with suppress(OSError, ValueError):
        if select.select([], [2], [], ROOM_S)[1]:
            os.write(2, f"{line}\n".encode(errors="backslashreplace")[: select.PIPE_BUF])


def _cancel(node: Node, job: Job) -> None:
    """Have a job ended. Raises `Conflict` when it has."""
    node.request("POST", f"/v1/jobs/{job.id}/cancellation", timeout_s=10)


@contextmanager
def interruptible(node: Node, job: Callable[[], Job | None]) -> Iterator[None]:
    """Ctrl-C has the job ended, and what follows is shown; a second one leaves it running, and says how to look."""
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> Any:
        nonlocal interrupted
        seen = job()
        if interrupted or seen is None:
            where = f"avictl jobs show {seen.id} --follow" if seen is not None else "avictl jobs"
            _mention(f"left as it is; look with: {where}")
            raise KeyboardInterrupt
        interrupted = True
        try:
            _cancel(node, seen)
        except Conflict:
            """It has ended."""
        except AvinetError as error:
            _mention(one_line(escaped(f"it could not be ended: {error}")))
        else:
            _mention(f"ending job {seen.id}; Ctrl-C again leaves it as it is")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def follow(node: Node, output: Output, events: Iterator[JobEvent], *, prefix: bool | None, ours: bool = False) -> int:
    """Show a job until its end. Raises what the node says, or why the only one of a job has no outcome.

    `ours` is one that runs for who reads this: it ends when nobody does any more, as it would at the end of a pipe.
    """
    watch = Watch(output, prefix)
    with interruptible(node, lambda: watch.job):
        try:
            watch.see(events)
        except (PeerError, Unavailable) as error:
            if watch.job is not None:
                error.hint = f"look with: avictl jobs show {watch.job.id} --follow"
            raise
        except BrokenPipeError:
            if ours and watch.job is not None:
                with suppress(Conflict):
                    _cancel(node, watch.job)
            raise
    return watch.end()
