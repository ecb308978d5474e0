"""Who fetches when: so many at once, in the order in which they came, and nobody for long while others wait."""

from __future__ import annotations

from collections.abc import Callable

from avinet.aio import Slots

TURN_S = 60.0
"""After so long whoever fetches lets the next one in, if one waits: a service engine may be as slow as it likes."""


class Turns:
    """`count` may fetch at once. `seconds` is a clock's."""

    def __init__(self, count: int, seconds: Callable[[], float]) -> None:
        self._slots = Slots(count)
        self._seconds = seconds

    def one(self) -> Turn:
        """One of them, to be entered (`async with`)."""
        return Turn(self._slots, self._seconds)


class Turn:
    """A turn of somebody who fetches."""

    def __init__(self, slots: Slots, seconds: Callable[[], float]) -> None:
        self._slots = slots
        self._seconds = seconds
        self._since: float | None = None
        """When it has begun; None while it waits."""

    async def __aenter__(self) -> Turn:
        await self._slots.__aenter__()
        self._since = self._seconds()
        return self

    async def __aexit__(self, *raised: object) -> None:
        if self._since is not None:
            self._since = None
            await self._slots.__aexit__(*raised)

    @property
    def over(self) -> bool:
        """Whether it was long, and others wait."""
        return self._since is not None and self._slots.wanted and self._seconds() - self._since >= TURN_S

    async def anew(self) -> None:
        """Let the others in, and wait for another."""
        await self.__aexit__()
        await self.__aenter__()
