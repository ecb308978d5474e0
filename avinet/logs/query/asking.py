"""What goes between a node and the process that answers its queries: lines of JSON, one a question, one an answer.

A line with nothing in it takes the last question back: it is answered at once, be it with nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.errors import AvinetError, Damaged, Invalid, LocalError, TimedOut, TooLarge, Unavailable
from avinet.wire.answer import ANSWER_LIMIT_BYTES, LogAnswer
from avinet.wire.message import Id, Message
from avinet.wire.query import ENGINES, QUERY_LIMIT_BYTES, LogQuery

ASKED_BYTES = 2 * QUERY_LIMIT_BYTES + 1024
WITHDRAWAL = b"\n"
ANSWERED_BYTES = ANSWER_LIMIT_BYTES + 1024
_ERRORS: dict[str, type[AvinetError]] = {
    "invalid": Invalid,
    "too-large": TooLarge,
    "timed-out": TimedOut,
    "damaged": Damaged,
    "unavailable": Unavailable,
    "local": LocalError,
}


class Asked(Message, frozen=True, kw_only=True):
    """A query, to be answered within `limit_s`; service engines that are `known` are asked of when it names none."""

    number: int
    query: LogQuery
    known: Annotated[list[Id], Meta(max_length=ENGINES)] = []
    limit_s: Annotated[float, Meta(gt=0, le=3600)]


class Failed(Message, frozen=True, kw_only=True):
    """Why there is no answer."""

    kind: Literal["invalid", "too-large", "timed-out", "damaged", "unavailable", "local"]
    what: Annotated[str, Meta(max_length=2048)]
    hint: Annotated[str, Meta(max_length=2048)] = ""


class Answered(Message, frozen=True, kw_only=True):
    """The answer to the question of this `number`, or why there is none."""

    number: int
    answer: LogAnswer | None = None
    failed: Failed | None = None


def failed(error: AvinetError) -> Failed:
    """`error` for the way to the node."""
    kind = next((kind for kind, of in _ERRORS.items() if type(error) is of), "local")
    return Failed(kind=kind, what=error.what[:2048], hint=error.hint[:2048])  # type: ignore[arg-type]


def raised(failure: Failed) -> AvinetError:
    """The error that `failed` has packed."""
    return _ERRORS[failure.kind](failure.what, hint=failure.hint)
