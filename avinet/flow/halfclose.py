"""How a channel ends (RFC 4254 §5.3): each direction by itself, then the whole.

A direction ends in order by EOF. CLOSE follows when both have ended, or at once when an end gives up; the channel is
over when CLOSE has gone both ways.
"""

from __future__ import annotations

import enum


class Half(enum.IntEnum):
    """How far one direction has come."""

    OPEN = 0
    ENDED = 1
    CLOSED = 2


class Send(enum.Enum):
    """A message that has to go out."""

    EOF = enum.auto()
    CLOSE = enum.auto()


class HalfClose:
    """The two directions of an open channel: `out` is ours, `into` the peer's.

    Each event returns the messages to send because of it. Events that come too late change nothing.
    """

    __slots__ = ("into", "out")

    def __init__(self) -> None:
        self.out = Half.OPEN
        self.into = Half.OPEN

    @property
    def over(self) -> bool:
        """Whether both ends are done with the channel: its number is free again."""
        return self.out is Half.CLOSED and self.into is Half.CLOSED

    def finish(self) -> tuple[Send, ...]:
        """Nothing more will be sent."""
        if self.out is not Half.OPEN:
            return ()
        if self.into is Half.OPEN:
            self.out = Half.ENDED
            return (Send.EOF,)
        self.out = Half.CLOSED
        return (Send.EOF, Send.CLOSE) if self.into is Half.ENDED else (Send.CLOSE,)

    def drop(self) -> tuple[Send, ...]:
        """Nothing more will be sent, and nothing more is wanted of the peer."""
        return self.finish() + self.abort()

    def abort(self) -> tuple[Send, ...]:
        """Give up, whatever is still on its way."""
        if self.out is Half.CLOSED:
            return ()
        self.out = Half.CLOSED
        return (Send.CLOSE,)

    def eof(self) -> tuple[Send, ...]:
        """The peer will send nothing more."""
        if self.into is not Half.OPEN:
            return ()
        self.into = Half.ENDED
        return self.abort() if self.out is Half.ENDED else ()

    def close(self) -> tuple[Send, ...]:
        """The peer is done with the channel."""
        self.into = Half.CLOSED
        return self.abort()
