"""Commands that a node runs on a service engine, over the tunnel's `control` service and over SSH alike."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.message import Count, Id, Line, Message, PublicKey, UnixTime, spelled

COMMAND_LIMIT_BYTES = 64 * 1024
OUTPUT_LIMIT_BYTES = 1024 * 1024
LONGEST_S = 86_400
"""How long a command may take at most."""

JobId = Annotated[str, Meta(pattern=r"^[a-z0-9-]{8,64}$(?!\n)")]
Stream = Literal["out", "err"]
Signal = Annotated[str, spelled(r"^[A-Z0-9+-]{0,16}$(?!\n)", "the name of a signal, without SIG")]


class CommandRequest(Message, frozen=True, kw_only=True):
    """Run `command` with `arguments` as job `job`, for `timeout_s` at most; the same job is never started twice."""

    job: JobId
    command: Id
    arguments: Annotated[list[Line], Meta(max_length=32)] = []
    operator: Line = ""
    timeout_s: Annotated[float, Meta(gt=0, le=LONGEST_S)] | None = None


class OutputRequest(Message, frozen=True, kw_only=True):
    """Tell what a job prints behind the place `after`, a number of bytes, and how it ends."""

    after: Count = 0


class CommandStarted(Message, frozen=True, kw_only=True, tag_field="event", tag="started"):
    """The job is durable, and under way or over: what it prints follows."""


class CommandOutput(Message, frozen=True, kw_only=True, tag_field="event", tag="output"):
    """More was printed; as UTF-8 it is as many bytes as the place moves on."""

    stream: Stream = "out"
    text: Annotated[str, Meta(max_length=OUTPUT_LIMIT_BYTES)]


class CommandLeftOut(Message, frozen=True, kw_only=True, tag_field="event", tag="left_out"):
    """So many bytes were printed here that were not kept."""

    bytes: Count


class CommandResult(Message, frozen=True, kw_only=True):
    """How a command ended: its exit status (0 is success) and its output."""

    job: str
    exit_status: Annotated[int, Meta(ge=0, le=255)]
    output: Annotated[str, Meta(max_length=OUTPUT_LIMIT_BYTES)] = ""
    error: Annotated[str, Meta(max_length=OUTPUT_LIMIT_BYTES)] = ""


class Ended(Message, frozen=True, kw_only=True, tag_field="event", tag="ended"):
    """How a command ended: its exit status (0 is success; 128 and more for a signal), and the signal, as `TERM`."""

    exit_status: Annotated[int, Meta(ge=0, le=255)]
    signal: Signal = ""


CommandEvent = CommandStarted | CommandOutput | CommandLeftOut | Ended
"""What is told of a job, one a line."""


class OperatorKey(Message, frozen=True, kw_only=True):
    """An operator's own key, admitted by a service engine as `avictlruser` until `expires` (5 minutes)."""

    public_key: PublicKey
    operator: Line
    expires: UnixTime
