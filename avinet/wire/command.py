"""Commands that a node runs on a service engine, over the tunnel's `control` service and over SSH alike."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from avinet.wire.message import Id, Line, Message, PublicKey, UnixTime, spelled

COMMAND_LIMIT_BYTES = 64 * 1024
OUTPUT_LIMIT_BYTES = 1024 * 1024
LONGEST_S = 86_400
"""How long a command may take at most."""


class CommandRequest(Message, frozen=True, kw_only=True):
    """Run `command` with `arguments` as job `job`; the same job is never started twice."""

    job: Annotated[str, Meta(pattern=r"^[a-z0-9-]{8,64}$(?!\n)")]
    command: Id
    arguments: Annotated[list[Line], Meta(max_length=32)] = []
    operator: Line = ""


class CommandResult(Message, frozen=True, kw_only=True):
    """How a command ended: its exit status (0 is success) and its output."""

    job: str
    exit_status: Annotated[int, Meta(ge=0, le=255)]
    output: Annotated[str, Meta(max_length=OUTPUT_LIMIT_BYTES)] = ""
    error: Annotated[str, Meta(max_length=OUTPUT_LIMIT_BYTES)] = ""


class Ended(Message, frozen=True, kw_only=True, tag_field="event", tag="ended"):
    """How a command ended: its exit status (0 is success; 128 and more for a signal), and the signal, as `TERM`."""

    exit_status: Annotated[int, Meta(ge=0, le=255)]
    signal: Annotated[str, spelled(r"^[A-Z0-9+-]{0,16}$(?!\n)", "the name of a signal, without SIG")] = ""


class OperatorKey(Message, frozen=True, kw_only=True):
    """An operator's own key, admitted by a service engine as `avictlruser` until `expires` (5 minutes)."""

    public_key: PublicKey
    operator: Line
    expires: UnixTime
