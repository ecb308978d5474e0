"""Which records are significant, by the configuration of their virtual services: a pure rule, made to be fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from avinet.dataplane.records import Record
from avinet.wire.config import Config, Significant
from avinet.wire.significant import Why

NEVER_MS = 2**63
_ENDED_WELL = "--"
_REFUSING = frozenset("SsDKRI")
"""Of the first letter of how it ended (HAProxy's manual, section 8.5): the server refused, broke off or did not answer,
was down, was shut, or there was no room; P, the proxy, counts unless the request was at fault.
"""


@dataclass(frozen=True)
class Rule:
    """What is significant of one virtual service."""

    statuses: frozenset[int]
    slow_ms: int
    refused: bool
    server_changes: bool

    def why(self, record: Record) -> list[Why]:
        """Why a record is significant; empty when it is not."""
        found: list[Why] = []
        if record.status in self.statuses:
            found.append("status")
        if answered_ms(record) > self.slow_ms:
            found.append("slow")
        if self.refused and is_refused(record):
            found.append("refused")
        if self.server_changes and record.retries > 0:
            found.append("server-change")
        return found


def answered_ms(record: Record) -> int:
    """How long a client waited: for the head of the answer, and where none came, all the time; TCP: for a server."""
    if record.connect_ms < 0 or (record.status < 0 and record.response_ms < 0):
        return record.total_ms
    return max(0, record.queue_ms) + record.connect_ms + max(0, record.response_ms)


def is_refused(record: Record) -> bool:
    """Whether it was not served, or not to its end, and that was not for its client."""
    by = record.termination[:1]
    return by in _REFUSING or (by == "P" and not 400 <= record.status < 500)


def rule_of(significant: Significant) -> Rule | None:
    """The rule in a configuration; None where nothing may come."""
    if not significant.per_second:
        return None
    statuses: set[int] = set()
    for each in significant.statuses:
        first = int(each[0]) * 100
        statuses |= set(range(first, first + 100)) if each.endswith("xx") else {int(each)}
    slow = significant.slower_s
    return Rule(
        frozenset(statuses),
        NEVER_MS if slow is None else int(slow * 1000),
        significant.refused,
        significant.server_changes,
    )


class Rules:
    """The rules of all virtual services of a configuration."""

    def __init__(self, config: Config) -> None:
        rules = {each.name: rule_of(each.significant) for each in config.virtual_services}
        self._rules = {name: rule for name, rule in rules.items() if rule is not None}
        self._statuses = frozenset[int]().union(*(each.statuses for each in self._rules.values()))
        self._slow_ms = min((each.slow_ms for each in self._rules.values()), default=NEVER_MS)

    def chosen(
        self, records: Sequence[Record], lines: Sequence[bytes]
    ) -> Iterator[tuple[Record, bytes, Sequence[Why]]]:
        """The significant ones of `records`, with their lines. Each of the others costs a fraction of a microsecond."""
        statuses, slow_ms = self._statuses, self._slow_ms
        for number, record in enumerate(records):
            if (
                record.status not in statuses
                and record.termination == _ENDED_WELL
                and record.total_ms <= slow_ms
                and not record.retries
            ):
                continue
            rule = self._rules.get(record.service)
            why = rule.why(record) if rule is not None else ()
            if why:
                yield record, lines[number], why
