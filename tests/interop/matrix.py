"""Test cases whose tests are generated: one for each combination of algorithms that a peer and we both have."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.trial.unittest import FailTest, SkipTest, TestCase

from tests.interop.algorithms import Combination
from tests.interop.peers import Peer
from tests.peers import require

C = TypeVar("C", bound=type[TestCase])


def is_there(peer: Peer) -> bool:
    """Whether the peer is installed."""
    try:
        require(peer.program)
    except (SkipTest, FailTest):
        return False
    return True


def combinations(peer: Peer) -> list[Combination]:
    """What `peer` is to be tested with; nothing where it is not there."""
    return peer.combine(peer.offers()) if is_there(peer) else []


def for_each_combination(case: C) -> C:
    """Give `case` a test for each combination that its `peer` can do, which is what its `moves_data` does with it."""
    for each in combinations(case.peer):  # type: ignore[attr-defined]
        setattr(case, f"test_{each.identifier}", _test(each))
    return case


def _test(combination: Combination) -> Callable[[Any], Coroutine[Any, Any, None]]:
    async def test(self: Any) -> None:
        await self.moves_data(combination)

    return test
