"""Floor 0: what can go wrong, as the operator reads it. An error is one line: what, where, why, and what to try.

Codes of HTTP, SSH and the command line are attached at the edge, in one table each; nothing here knows them.
"""

from __future__ import annotations

from typing_extensions import override


class AvinetError(Exception):
    """What went wrong, in one line; `hint` says what to try."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    @override
    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


class PeerError(AvinetError):
    """The other side broke the protocol: close, count, log one warning line, no traceback."""


class LocalError(AvinetError):
    """Something on this machine stands in the way: a port, a file, a setting, a full disk."""


class Damaged(LocalError):
    """A file was read, and is not what it should be: to read it again does not help."""


class Invalid(AvinetError):
    """The request is well formed, and asks for what cannot be; nothing was changed."""


class NotFound(AvinetError):
    """There is no such thing here."""


class Conflict(AvinetError):
    """It contradicts what is there already; nothing was changed."""


class Gone(AvinetError):
    """It was valid once: expired, used or replaced."""


class Unauthenticated(AvinetError):
    """The signature, key or token proves nothing. The peer is told no more than that."""


class Forbidden(AvinetError):
    """Who asks is known, and may not do this."""


class TooLarge(AvinetError):
    """More bytes or more items than the limit allows."""


class Precondition(AvinetError):
    """The resource has changed since it was read (If-Match)."""


class Unavailable(AvinetError):
    """Not now: the peer may try again after `retry_after_s`."""

    def __init__(self, what: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(what, hint=hint)
        self.retry_after_s = retry_after_s


class TooMany(Unavailable):
    """The peer asks more often than it may; it may try again after `retry_after_s`."""


class TimedOut(Unavailable):
    """No answer within the deadline; what was asked for may or may not have happened."""
