"""The node's side: which reports were counted, so that one that is sent again, or comes late, counts once."""

from __future__ import annotations

from msgspec.structs import replace

from avinet.wire.report import Report

BOOTS = 2
"""So many starts of a service engine are told apart: a report of one may come after the first of the next."""


class Counted:
    """The number of the last report of each boot, by service engine."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[tuple[str, int], ...]] = {}

    def is_new(self, id: str, boot: str, seq: int) -> bool:
        """Whether this one is to be counted; from then on it was."""
        last = self._last.get(id, ())
        for known, number in last:
            if known == boot and seq <= number:
                return False
        others = tuple(each for each in last if each[0] != boot)
        self._last[id] = ((boot, seq), *others[: BOOTS - 1])
        return True

    def forget(self, id: str) -> None:
        """Service engine `id` is no more."""
        self._last.pop(id, None)


def uncounted(report: Report) -> Report:
    """The state that a report tells, without what counts once."""
    return replace(report, traffic=[], lost_records=0)
