"""What is said of enrolments in a test: requests, replies, records, and the lives of service engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Said:
    """A request: what it says, when its nonce was made, and what is wrong with its signatures, if anything is."""

    id: str
    key: str
    claim: str | None
    generation: int
    image: str
    made: float
    flaw: str = ""


@dataclass(frozen=True)
class Reply:
    """What came back: an HTTP status and a body."""

    status: int
    body: bytes = b""


class Audited(NamedTuple):
    """A record of the audit log; `id` is that of a service engine, or of an image."""

    kind: str
    id: str
    generation: int
    fingerprint: str
    outcome: str


@dataclass(frozen=True)
class Answer:
    """How something is answered: with this receipt, if it is known yet; what is recorded, and which alarms."""

    status: int
    records: tuple[Audited, ...] = ()
    alarms: tuple[Audited, ...] = ()
    receipt: bytes | None = field(default=None, repr=False)

    def fits(self, reply: Reply | None) -> bool:
        """Whether this was the reply; None is one that was lost."""
        return reply is None or (reply.status == self.status and (self.receipt is None or reply.body == self.receipt))


@dataclass(frozen=True)
class Life:
    """A service engine, from the day that it was expected until it is forgotten. Keys are fingerprints."""

    state: str
    generation: int
    claim: str | None = None
    expires: float = 0.0
    approved: str = ""
    key: str = ""
    former: tuple[str, ...] = ()
    receipt: bytes | None = field(default=None, repr=False)


class Turned(NamedTuple):
    """The ratchet of a key: what it has shown last, and what it was given for that."""

    key: str
    shown: str
    given: tuple[str, ...]


@dataclass(frozen=True)
class Waiting:
    """A request that waits for an operator."""

    generation: int
    image: str
    since: float
    refused: float = 0.0
