"""The slot of now: what service engines have reported since it began, packed, in memory."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from avinet.telemetry.rollups.sums import FINE_S, Engine, kept, one_after_the_other, pack, unpack_services
from avinet.wire.report import Report

SLOT_BYTES = 64 * 1024 * 1024
"""What all reports of a slot take in memory; more are left out, and counted."""
_OVERHEAD_BYTES = 300


def slot_at(now: float) -> int:
    """When the slot of a time begins, in seconds since 1970."""
    return int(now // FINE_S) * FINE_S


class _Said:
    __slots__ = ("boot", "packed", "seq")

    def __init__(self) -> None:
        self.boot, self.seq = "", 0
        self.packed: list[bytes] = []


class Slot:
    """What was reported in the 10 s from `at` on: the node's time decides, and no clock of a service engine."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.left_out = 0
        """Reports for which there was no room."""
        self._said: dict[str, _Said] = {}
        self._left_bytes = SLOT_BYTES

    def __bool__(self) -> bool:
        return bool(self._said)

    def take(self, id: str, report: Report) -> None:
        """One more report, that was not counted before."""
        packed = kept(report.traffic)
        self._left_bytes -= len(packed) + len(report.boot) + _OVERHEAD_BYTES
        if self._left_bytes < 0:
            self.left_out += 1
            return
        said = self._said.get(id)
        if said is None:
            said = self._said[id] = _Said()
        said.boot, said.seq = report.boot, report.seq
        said.packed.append(packed)

    def engines(self) -> Mapping[str, Engine]:
        """What each has reported, added up."""
        return {id: _engine(said) for id, said in self._said.items()}


def _engine(said: _Said) -> Engine:
    packed = said.packed[0]
    if len(said.packed) > 1:
        packed = pack(one_after_the_other(unpack_services(each) for each in said.packed))
    return Engine(len(said.packed), 1, said.boot, said.seq, msgspec.Raw(packed))
