"""Roll-outs: a new version of a document that comes to its service engines batch by batch."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.config import Document
from avinet.wire.message import Count, Id, Line, Message, UnixTime, spelled

FAILURES_SHOWN = 20
BatchSize = Annotated[
    str,
    spelled(
        r"^(?:[1-9][0-9]{0,5}|(?:[1-9][0-9]?|100)%)$(?!\n)", "a number of service engines, or a percentage such as 10%"
    ),
]
RolloutState = Literal["running", "paused", "stopped", "finished", "rolled-back", "superseded"]
RolloutPhase = Literal["opening", "applying", "observing", "passed", ""]


class RolloutPlan(Message, frozen=True, kw_only=True):
    """In which batches a version comes to its service engines, and what stops it.

    `batches` says how many have it in all after each batch, as a number or as a percentage; the last batch takes all
    that are left. With a `batch_size` each batch is that many instead. With `pause` the roll-out pauses after each.

    The next batch is opened when all that have it are well, and have been for `observe_s`. More than `max_failed` that
    are not well stop it, and with `auto_rollback` take it back. Not well is who refuses the version, is connected and
    has not acknowledged it within `deadline_s`, has lost its tunnel for longer than `lost_s` or again and again, has
    servers down that were not down before, or fails more than `errors_percent` of the requests to a virtual service
    beyond what it did before (5xx, and TCP connections that no server takes), of at least `least_requests`.
    """

    batches: Annotated[tuple[BatchSize, ...], Meta(min_length=1, max_length=32)] = ("1", "10%", "50%", "100%")
    batch_size: Annotated[int, Meta(ge=0, le=100_000)] = 0
    pause: bool = False
    observe_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    deadline_s: Annotated[float, Meta(ge=1, le=86400)] = 120.0
    lost_s: Annotated[float, Meta(ge=1, le=86400)] = 30.0
    max_failed: Annotated[int, Meta(ge=0, le=100_000)] = 0
    errors_percent: Annotated[float, Meta(gt=0, le=100)] = 5.0
    least_requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    auto_rollback: bool = True


class RolloutOrder(Message, frozen=True, kw_only=True):
    """Roll out `document`; with `force` also where another version of it is being rolled out, which is taken back."""

    document: Document
    plan: RolloutPlan = RolloutPlan()
    force: bool = False


class Promotion(Message, frozen=True, kw_only=True):
    """Open the next batch now, or with `all` open all that are left, whatever is known of those that have it."""

    all: bool = False


class RolloutFailure(Message, frozen=True, kw_only=True):
    """A service engine that is not well with the new version."""

    id: Id
    why: Line


class Rollout(Message, frozen=True, kw_only=True):
    """A roll-out of `version` of document `name`, where `former` was before (0: nothing was).

    Of `targets` service engines `opened` are in the `batch` batches that were opened so far; of these `well` have
    acknowledged it and are well, `pending` have not yet, `waiting` are away and get it when they come, `failed` are not
    well. What is counted is counted while the roll-out is under way, and stays as it was at its end.

    `tag` names this very state: who asks with it is answered when there is another one.
    """

    name: Id
    version: Count
    former: Count = 0
    state: RolloutState
    phase: RolloutPhase = ""
    why: str = ""
    author: Line = ""
    by: Line = ""
    started: UnixTime
    changed: UnixTime = 0.0
    ended: UnixTime | None = None
    batch: Count = 0
    batches: Count = 0
    targets: Count = 0
    opened: Count = 0
    well: Count = 0
    pending: Count = 0
    waiting: Count = 0
    failed: Count = 0
    failures: list[RolloutFailure] = []
    plan: RolloutPlan = RolloutPlan()
    tag: Annotated[str, Meta(max_length=64)] = ""


class RolloutList(Message, frozen=True, kw_only=True):
    """The last roll-out of each document, those under way first."""

    items: list[Rollout]
