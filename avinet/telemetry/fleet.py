"""The node's side: the latest state of each service engine, from its reports; bounded, and gone with a restart."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from avinet.telemetry.reports import add_up
from avinet.wire.config import ConfigState
from avinet.wire.report import Report, ServerHealth, ServiceTraffic

WINDOW_S = 60.0
"""How far back the traffic goes that is shown."""
KEPT = 32


@dataclass
class Latest:
    """What one service engine has reported: its latest state, and the traffic of the last minute."""

    reported: float = 0.0
    health: Sequence[ServerHealth] = ()
    config: ConfigState = field(default_factory=ConfigState)
    lost_records: int = 0
    recent: deque[tuple[float, Sequence[ServiceTraffic]]] = field(default_factory=lambda: deque(maxlen=KEPT))

    def traffic(self, now: float) -> list[ServiceTraffic]:
        """The traffic that was reported in the last minute."""
        total: list[ServiceTraffic] = []
        for at, traffic in self.recent:
            if now - at <= WINDOW_S:
                total = add_up(total, traffic)
        return total

    def count(self, state: str) -> int:
        """How many servers are in `state`."""
        return sum(each.state == state for each in self.health)


class Fleet:
    """The latest reports by service engine. The id is the session's, never one that the report could say."""

    def __init__(self) -> None:
        self._latest: dict[str, Latest] = {}

    def take(self, id: str, report: Report, now: float) -> None:
        """One more report of service engine `id`; what it leaves out has not changed."""
        latest = self._latest.setdefault(id, Latest())
        latest.reported = now
        if report.health is not None:
            latest.health = report.health
        if report.config is not None:
            latest.config = report.config
        latest.lost_records += report.lost_records
        if report.traffic:
            latest.recent.append((now, report.traffic))

    def get(self, id: str) -> Latest:
        """What service engine `id` has reported; nothing yet is an empty state."""
        return self._latest.get(id) or Latest()

    def forget(self, id: str) -> None:
        """Service engine `id` is no more."""
        self._latest.pop(id, None)

    def servers(self) -> tuple[int, int]:
        """How many servers are up and down, over the whole fleet."""
        return sum(each.count("up") for each in self._latest.values()), sum(
            each.count("down") for each in self._latest.values()
        )
