"""Jobs: a command on many service engines, what became of it on each, and who ran what when."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.command import LONGEST_S, JobId, Signal, Stream
from avinet.wire.message import Count, Id, Line, Message, Seconds, UnixTime

KEPT_OUTPUT_BYTES = 128 * 1024
"""What the output of a command on one service engine may take that is kept, and as much its errors, as JSON."""

LINE_BYTES = 1024 * 1024
"""The longest line of a streamed answer."""

JobState = Literal["running", "done", "stopped", "cancelled", "interrupted"]
JobOutcome = Literal["done", "refused", "unreachable", "unknown", "skipped"]


class JobOrder(Message, frozen=True, kw_only=True):
    """Run `command` on the service engines `ids`, or on all whose labels match `selector` and that are enrolled.

    At most `at_once` run it at a time. With a `batch` that many must have ended before the next ones begin. Once more
    than `failures` did not end with 0, no more begin. Each is ended after `timeout_s`; without it the service engine
    knows how long its commands may take.
    """

    command: Id
    arguments: Annotated[list[Line], Meta(max_length=32)] = []
    ids: Annotated[list[Id], Meta(max_length=10_000)] = []
    selector: Annotated[str, Meta(max_length=1024)] = ""
    at_once: Annotated[int, Meta(ge=1, le=500)] = 20
    batch: Annotated[int, Meta(ge=0, le=10_000)] = 0
    failures: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=LONGEST_S)] | None = None


class Job(Message, frozen=True, kw_only=True):
    """A job: of `targets` service engines `ended` have a result, and `failed` of these did not end with 0.

    `interrupted`: the node ended before the job did; what has no result then is not known.
    """

    id: JobId
    command: Id
    arguments: list[Line] = []
    operator: Line = ""
    state: JobState = "running"
    created: UnixTime
    finished: UnixTime | None = None
    targets: Count = 0
    ended: Count = 0
    failed: Count = 0


class JobResult(Message, frozen=True, kw_only=True):
    """What became of a job on one service engine.

    `done`: it ran, and ended with `exit_status`; `refused`: it was not taken; `unreachable`: it was never sent;
    `unknown`: it was sent, and it is not known how it ended; `skipped`: it was not sent, as the job had stopped. A
    `signal` has ended it, as `TERM`. Of what it printed `left_out` bytes are not kept: a mark stands for them.
    """

    number: Count
    id: Id
    outcome: JobOutcome
    exit_status: Annotated[int, Meta(ge=0, le=255)] | None = None
    signal: Signal = ""
    left_out: Count = 0
    output: str = ""
    error: str = ""
    took_s: Seconds = 0.0


class JobList(Message, frozen=True, kw_only=True):
    """Jobs, the latest first; `next` asks for those before."""

    items: list[Job]
    next: Annotated[str, Meta(max_length=256)] = ""


class JobResults(Message, frozen=True, kw_only=True):
    """A job as it is, and those of its results whose number is above the one that was asked for, in their order."""

    job: Job
    items: list[JobResult] = []


class JobSeen(Message, frozen=True, kw_only=True, tag_field="event", tag="job"):
    """The job as it is: the first that is told, and, once it has ended, the last."""

    job: Job


class JobStarted(Message, frozen=True, kw_only=True, tag_field="event", tag="started"):
    """It was sent to this service engine."""

    id: Id


class JobOutput(Message, frozen=True, kw_only=True, tag_field="event", tag="output"):
    """More was printed there."""

    id: Id
    stream: Stream = "out"
    text: str


class JobLeftOut(Message, frozen=True, kw_only=True, tag_field="event", tag="left_out"):
    """So many bytes were printed there that nobody waited for, or that were not kept."""

    id: Id
    bytes: Count


class JobEnded(Message, frozen=True, kw_only=True, tag_field="event", tag="ended"):
    """What became of it there; see `JobResult`. `error` says why it is not known, or was not done."""

    number: Count
    id: Id
    outcome: JobOutcome
    exit_status: Annotated[int, Meta(ge=0, le=255)] | None = None
    signal: Signal = ""
    error: str = ""
    took_s: Seconds = 0.0


JobEvent = JobSeen | JobStarted | JobOutput | JobLeftOut | JobEnded
"""What is told of a job while it runs, one a line."""
