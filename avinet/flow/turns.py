"""Whose turn it is to send: strict classes, and within a class one after the other."""

from __future__ import annotations

import enum
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Priority(enum.IntEnum):
    """What goes first through a tunnel; signs of life and flow control go before all of it, without a turn."""

    COMMANDS = 1
    CONFIGURATION = 2
    REPORTS = 3
    LOGS = 4

    @property
    def waited_for(self) -> bool:
        """Whether somebody may wait for little things of this class: nobody does where logs are fetched."""
        return self is not Priority.LOGS


class Turns(Generic[T]):
    """Those that wait for their turn; a queue that nobody waits in holds no memory."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, item: T, priority: Priority) -> None:
        """`item` comes after all of its priority that wait already."""
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
        queue.append(item)

    def next(self) -> T:
        """Whose turn it is; somebody has to wait."""
        priority = min(self._queues)
        queue = self._queues[priority]
        item = queue.popleft()
        if not queue:
            del self._queues[priority]
        return item

    def clear(self) -> None:
        """Nobody waits any more."""
        self._queues.clear()
