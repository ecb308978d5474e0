"""A pull of request logs is followed: a bar with bytes, rate and time left on a terminal, the outcome anywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from avinet.cli.log_shown import failure, lines, summary
from avinet.cli.node import Node
from avinet.cli.shown import Output, emit_line, escaped, one_line
from avinet.errors import AvinetError, NotFound, PeerError, TimedOut, Unavailable
from avinet.units import format_bytes, format_seconds
from avinet.wire.log_pulls import LogPull, LogPullSeen, PulledEngine

AWAY_S = 120.0
"""How long a node may be away that is being started again."""
LOOK_S = 1.0


class _Shown(Protocol):
    """Where how far it is is shown."""

    def update(self, pull: LogPull) -> None: ...


class _Nowhere:
    def update(self, pull: LogPull) -> None:
        """Nobody looks."""


class _Bar:
    """A line at the foot of a terminal."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, said="")

    def update(self, pull: LogPull) -> None:
        """See `_Shown`."""
        said = f"{format_bytes(pull.there_bytes)} of {format_bytes(pull.size)}"
        if pull.state == "running" and pull.bytes_per_s >= 1:
            said += f", {format_bytes(pull.bytes_per_s)}/s"
            if pull.left_s is not None:
                said += f", {format_seconds(max(1.0, pull.left_s))} left"
        self._progress.update(
            self._task,
            description=f"{pull.ended} of {pull.targets} service engines",
            total=pull.size or None,
            completed=min(pull.there_bytes, pull.size),
            said=said,
        )


@contextmanager
def _shown(output: Output) -> Iterator[_Shown]:
    if output != "table" or not sys.stderr.isatty():
        yield _Nowhere()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress)


def follow(node: Node, output: Output, id: str) -> int:
    """Show a pull until it has ended, and then what became of it. Ctrl-C leaves it running, and says how to look.

    A node that goes away meanwhile is waited for: the pull goes on when it is back. Raises what asking raises.
    """
    engines: dict[str, PulledEngine] = {}
    last: LogPull | None = None
    try:
        with _shown(output) as shown:
            for seen in _seen(node, id):
                last = seen.pull
                engines |= {each.id: each for each in seen.engines}
                shown.update(seen.pull)
                if output != "table":
                    emit_line(seen, output)
    except KeyboardInterrupt:
        print(
            f"left running: avictl logs pulls {id} --follow shows how far it is, and --cancel ends it", file=sys.stderr
        )
        raise
    assert last is not None
    if output == "table":
        for line in lines(engines.values()):
            print(line, file=sys.stderr)
        print(one_line(escaped(summary(last))))
    return failure(last)


def _seen(node: Node, id: str) -> Iterator[LogPullSeen]:
    """What is told of a pull, until its end; through an end of the node."""
    away_since: float | None = None
    while True:
        state = "running"
        try:
            for seen in node.stream("GET", f"/v1/log-pulls/{id}/progress", LogPullSeen):
                away_since = None
                state = seen.pull.state
                yield seen
            if state != "running":
                return
        except NotFound:
            raise
        except (Unavailable, TimedOut, PeerError) as error:
            now = time.monotonic()
            if away_since is None:
                away_since = now
                print(f"avictl: {one_line(escaped(str(error)))}; waiting for the node", file=sys.stderr)
            if now - away_since > AWAY_S:
                raise _left(id, error) from error
        time.sleep(LOOK_S)


def _left(id: str, error: AvinetError) -> Unavailable:
    return Unavailable(error.what, hint=f"the pull goes on when the node is back: avictl logs pulls {id}")
