"""bin/bench NAME... [--quick] [--full] [--json FILE]: runs benchmarks, prints a table; exit 0 only if all are met."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measure import Bench, BenchError, Case, Effort, Figures, PeerFigures

BENCHES = {
    "lifecycle": "from start to acknowledgement, from crash to recovery; memory and idle traffic",
    "throughput": "a gibibyte through a channel, both ways, against OpenSSH and a relay without SSH",
    "thin-link": "a control round trip while a pull runs over 20 Mbit/s, against OpenSSH and stock Conch",
    "long-link": "a pull and a push over 1 Gbit/s with 60 ms, against OpenSSH and TCP itself",
    "fleet": "what 10,000 tunnels and 10,000 service engines that report cost a controller, against sshd",
    "enrolment": "how many service engines a node enrols in a second",
    "storm": "a fleet that comes back after its controller was killed",
    "latency": "a byte there and back, alone and beside a transfer, against OpenSSH",
    "handshake": "what a login costs the server, against OpenSSH and asyncssh",
    "channels": "connections a second through one tunnel, against OpenSSH",
    "store": "SQLite and etcd side by side, etcd beside etcdctl, and a leader that is killed",
    "logs-intake": "lines of request logs out of HAProxy's ring into sealed segments",
    "logs-seal": "what sealing request logs costs, and what a sealed record takes",
    "rollups": "what it costs a node to keep what 2,000 service engines report",
    "logs-pull": "from a log on a service engine to an answer, against ssh and DuckDB's reader of JSON",
    "logs-crash": "kills while request logs come in and are pulled: what is missing, and what is there twice",
    "logs-query": "questions to five million records of request logs, beside DuckDB over the lines themselves",
    "slow": "a thousand readers that do not read: memory, CPU, and the logins of others",
}
"""What can be run, each in the module of its name, as `run`."""
MET, MISSED, FAILED = 0, 1, 3
"""Exit codes: all figures are met; one is not; a benchmark could not be run. A wrong command line is 2, by argparse."""


def find(name: str) -> Bench:
    """The benchmark of this name."""
    found: Bench = import_module(f"bench.{name.replace('-', '_')}").run
    return found


def main(
    arguments: Sequence[str] | None = None,
    *,
    benches: Mapping[str, str] = BENCHES,
    find: Callable[[str], Bench] = find,
    console: Console | None = None,
) -> int:
    """Run what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bin/bench",
        description="Benchmarks, ours and its peer in turn in one run.",
        epilog="\n".join(f"{name}: {what}" for name, what in benches.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", choices=[*benches, "all"], help="see below; or all")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    effort.add_argument("--full", action="store_true", help="more and longer runs")
    parser.add_argument("--stock-client", action="store_true", help="throughput: with OpenSSH's client and our server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(arguments)
    out = console or Console(width=None if sys.stdout.isatty() else 200)
    err = Console(stderr=True, soft_wrap=True) if console is None else console
    names = list(benches) if "all" in options.names else list(dict.fromkeys(options.names))
    found: list[Case] = []
    failed = False

    def say(text: str) -> None:
        err.print(Text(f"  {text}", style="dim"))

    for name in names:
        try:
            for each in find(name)(Effort(options.quick, options.full, options.stock_client), say):
                found.append(each)
                err.print(line(each))
        except BenchError as error:
            failed = True
            err.print(Text(f"bench {name}: {error}", style="red"))
    if found:
        out.print(table(found))
        out.print(Text(found[0].machine, style="dim"))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    return FAILED if failed else MET if found and all(each.met for each in found) else MISSED


def line(case: Case) -> Text:
    """A case as soon as it is known."""
    verdict = "met" if case.met else "MISSED"
    return Text(f"{case.case}: {spread(case.ours)} {case.unit}, asked for {case.must}: {verdict}")


def spread(figures: Figures | PeerFigures) -> str:
    """Median, and the range from minimum to maximum."""
    return f"{number(figures.median)} ({number(figures.min)}–{number(figures.max)})"


def number(value: float) -> str:
    """Three significant digits, and all of those before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(cases: Sequence[Case]) -> Table:
    """The cases, one a row: medians and ranges, the peer, the ratio, and what was asked for."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("BENCH", "CASE", "OURS", "UNIT", "PEER", "RATIO", "MUST", "MET", "RUNS"):
        shown.add_column(heading, overflow="fold")
    for each in cases:
        shown.add_row(
            each.bench,
            each.case,
            spread(each.ours),
            each.unit,
            f"{each.peer.name}: {spread(each.peer)}" if each.peer else "-",
            f"{number(each.ratio)} ×" if each.ratio is not None else "-",
            each.must,
            Text("yes", style="green") if each.met else Text("NO", style="bold red"),
            str(each.runs),
        )
    return shown


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # what was started is ended, as after Ctrl-C
    sys.exit(main())
