"""Pulls of request logs, as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from avinet.cli.exits import REMOTE
from avinet.cli.shown import escaped, moment, one_line, table
from avinet.units import format_bytes, format_seconds
from avinet.wire.log_pulls import LogPull, LogPullList, LogPullSeen, PulledEngine


def failure(pull: LogPull) -> int:
    """How `avictl` ends that has shown a pull."""
    return REMOTE if pull.failed else 0


def pulls_table(found: LogPullList) -> None:
    """Pulls, one a line."""
    rows = [
        (
            each.id,
            moment(each.created),
            each.operator,
            each.state,
            f"{each.ended} of {each.targets}",
            each.failed or "",
            f"{each.here} of {each.segments}",
            format_bytes(each.size),
        )
        for each in found.items
    ]
    table(["PULL", "TIME", "OPERATOR", "STATE", "ENDED", "FAILED", "SEGMENTS", "SIZE"], rows)
    if found.next:
        print(f"more: avictl logs pulls --before {one_line(escaped(found.next))}")


def show_pull(seen: LogPullSeen) -> None:
    """A pull, and its service engines."""
    print(one_line(escaped(f"{summary(seen.pull)}, by {seen.pull.operator}, {moment(seen.pull.created)}")))
    rows = [
        (each.id, each.state, f"{each.here} of {each.segments}", format_bytes(each.size), format_bytes(each.bytes), why)
        for each in seen.engines
        for why in [", ".join(notes(each))]
    ]
    table(["ID", "STATE", "SEGMENTS", "SIZE", "FETCHED", "WHY"], rows)


def summary(pull: LogPull) -> str:
    """A pull in a line."""
    took_s = (pull.finished or pull.created) - pull.created
    text = (
        f"pull {pull.id} {pull.state}: {pull.here} of {pull.segments} segments in the archive,"
        f" {format_bytes(pull.bytes)} fetched"
    )
    if pull.finished is not None:
        rate = f", {format_bytes(pull.bytes / took_s)}/s" if took_s > 0 and pull.bytes else ""
        text += f" in {format_seconds(took_s)}{rate}"
    if pull.removed:
        text += f"; {pull.removed} segments were here before and were removed: too old, or too many"
    return text + (f"; {pull.failed} of {pull.targets} service engines not done" if pull.failed else "")


def notes(each: PulledEngine) -> Iterator[str]:
    """What is to be said of a service engine beside numbers."""
    if each.why:
        yield each.why
    if each.refused:
        yield f"refused segments: {each.refused}"
    if each.missing_records:
        spans = ", ".join(f"{span.first}-{span.last}" for span in each.missing)
        yield f"missing records that no gap tells of: {each.missing_records} ({spans})"


def lines(engines: Iterable[PulledEngine]) -> Iterator[str]:
    """A line for each of those that something is to be said of."""
    for each in engines:
        said = ", ".join(notes(each))
        if said or (each.ended and each.state != "done"):
            yield one_line(escaped(f"{each.id}: {each.state}" + (f": {said}" if said else "")))
