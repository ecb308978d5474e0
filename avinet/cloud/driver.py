"""The interface of a cloud: make an instance from an image, list, delete. Idempotent by the service engine's id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Order:
    """What an instance is made from: its id and generation, the image bundle, and its one-time claim.

    The claim reaches the instance as user data, in a file that only it can read; never in an argument list.
    """

    id: str
    generation: int
    image: bytes
    claim: str


@dataclass(frozen=True)
class Instance:
    """An instance that a driver has made; `running` is what the cloud says, not what the service engine reports."""

    id: str
    generation: int
    running: bool


class CloudDriver(Protocol):
    """A cloud. Raises `LocalError` or `Unavailable` with what the cloud said."""

    name: str

    async def create(self, order: Order) -> Instance:
        """Make the instance and start it; an instance of the same id and generation that exists is left alone."""

    async def instances(self) -> Sequence[Instance]:
        """All instances that this driver has made."""

    async def power_on(self, id: str) -> None:
        """Start an instance that has ended. Raises `NotFound`."""

    async def delete(self, id: str) -> None:
        """End the instance and all that runs on it, and its disk; none of that id is no error."""
