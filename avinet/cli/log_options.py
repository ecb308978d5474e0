"""The options of `avictl logs query`, with the names that complete them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from avinet.cli.log_question import PLAIN
from avinet.wire.query import KINDS, MEASURED


def _complete(known: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes the last of several names, which commas separate."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{each}" for each in known if each.startswith(last)]

    return complete


_NAMES = _complete(list(KINDS))
_MEASURES = _complete([*PLAIN, *(f"{what}_{each}" for each in MEASURED for what in ("mean", "p50", "p99"))])
OPTIONS = (
    click.option("--since", help="From when on: 2h (ago), 2026-11-29, 2026-11-29T18:30:00Z (default: 1h)."),
    click.option("--until", help="Until when, in the same form (default: now)."),
    click.option("--se", "engines", multiple=True, metavar="ID[,ID...]", help="Of these service engines alone."),
    click.option("--label", "-l", "selector", help="Of those that match, such as site=paris,room!=2."),
    click.option("--service", "services", multiple=True, metavar="NAME[,NAME...]", help="Of these virtual services."),
    click.option(
        "--where",
        "-w",
        multiple=True,
        metavar="COLUMN=VALUE",
        shell_complete=_NAMES,
        help="Records alone of which this holds: = != < <= > >= ^= (begins with) *= (contains). All of several must; "
        "of several values that one column may equal (=) each will do.",
    ),
    click.option(
        "--by", metavar="COLUMN[,COLUMN]", shell_complete=_NAMES, help="The groups that have most of a measure."
    ),
    click.option("--top", type=click.IntRange(1, 100), help="How many groups (default: 10)."),
    click.option(
        "--measure",
        "measures",
        multiple=True,
        metavar="NAME[,NAME...]",
        shell_complete=_MEASURES,
        help="requests, errors, bytes_in, bytes_out, mean_COLUMN, p99_COLUMN.",
    ),
    click.option(
        "--percentile", "percentiles", multiple=True, metavar="N[,N...]", help="Exact percentiles of --of: 50,99,99.9."
    ),
    click.option(
        "--of",
        type=click.Choice(MEASURED),
        metavar="COLUMN",
        default="total_ms",
        show_default=True,
        help="What percentiles are of.",
    ),
    click.option("--every", metavar="DURATION", help="A time series, in steps of so much: 1m."),
    click.option("--rows", is_flag=True, help="The records themselves, the newest first."),
    click.option("--columns", metavar="COLUMN[,COLUMN]", shell_complete=_NAMES, help="Which of their columns; or all."),
    click.option("--oldest", is_flag=True, help="The oldest records first."),
    click.option("--limit", type=click.IntRange(1, 1_000_000), help="How many records, or gaps (default: 100)."),
    click.option("--after", help="Records behind those that the last call has printed."),
    click.option("--gaps", is_flag=True, help="What is known to be missing, instead of what is there."),
)


def asking(verb: Callable[..., Any]) -> Any:
    """`verb` with all options that make a query, in this order."""
    for option in reversed(OPTIONS):
        verb = option(verb)
    return verb
