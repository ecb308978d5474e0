"""Request logs to be asked, and who asks: python -m bench.asking make|ours|peer FOLDER ...

`make FOLDER PART PARTS SEGMENTS ROWS` writes lines to `lines/`, and seals them into segments of `archive/`; `ours
FOLDER RUNS` asks the process of a node, `peer FOLDER RUNS` DuckDB about the lines. They print JSON.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from avinet.logs.archive.archive import Archive
from avinet.logs.query.client import QueryWorker
from avinet.logs.spool.naming import LINES, PARQUET, open_name, sealed_name
from avinet.logs.spool.orders import Order
from avinet.logs.spool.sealer import seal
from avinet.wire.query import Filter, LogQuery, Measure, Rows, Series, Top
from avinet.wire.segment import manifest_bytes
from bench.records import START_MS, lines

ENGINES = 4
SLICE_MS = 125_000
"""What the lines of one segment take by their times."""
THREADS = 2
LIMIT_S = 300.0
_LAST_MS = START_MS + 100 * SLICE_MS


class Asked(msgspec.Struct, frozen=True):
    """What the answers to a question were each time, and the seconds until they were there."""

    rows: list[list[Any]]
    seconds: list[float]


def make(folder: Path, part: int, parts: int, segments: int, rows: int) -> int:
    """Every `parts`th segment, each of `rows` lines of one of four service engines; how many are sealed."""
    archive, raw = Archive(folder / "archive"), folder / "lines"
    raw.mkdir(exist_ok=True)
    sealed = 0
    for number in range(part, segments, parts):
        slot, first = number // ENGINES, number // ENGINES * rows + 1
        place = folder / f"sealing-{number}"
        place.mkdir()
        source = place / open_name(first, LINES)
        with source.open("wb") as file:
            file.writelines(line + b"\n" for line in lines(rows, number, START_MS + slot * SLICE_MS))
        order = Order(
            folder=str(place),
            first=first,
            lines=rows,
            size=source.stat().st_size,
            engine=f"se-{number % ENGINES + 1}",
            generation=1,
        )
        manifest = seal(order).manifest
        assert manifest is not None
        archive.add(place / sealed_name((first, manifest.last), PARQUET), manifest_bytes(manifest))
        os.rename(source, raw / f"{number}.jsonl")
        sealed += manifest.rows
    return sealed


def client_of(folder: Path) -> str:
    """One of the clients, who has asked everywhere."""
    with (folder / "lines" / "0.jsonl").open("rb") as file:
        client: str = msgspec.json.decode(file.readline())["c"]
        return client


def questions(client: str) -> dict[str, LogQuery]:
    """What is asked."""

    def of(get: Any, *filters: Filter) -> LogQuery:
        return LogQuery(since_ms=START_MS, until_ms=_LAST_MS, filters=list(filters), get=get)

    p99 = Measure(of="percentile", column="total_ms", quantile=0.99)
    return {
        "p99": of(Series(bucket_s=60, measures=[p99])),
        "paths": of(Top(columns=["path"])),
        "clients": of(Top(columns=["client"])),
        "servers": of(Top(columns=["service", "server"])),
        "client": of(
            Rows(columns=["time", "service", "method", "path", "status", "total_ms"]),
            Filter(column="client", op="eq", values=[client]),
        ),
    }


PEER = {
    "p99": (
        "SELECT t // 60000 * 60000, quantile_cont(ta, 0.99) FROM {0} GROUP BY 1 ORDER BY 1",
        {"t": "BIGINT", "ta": "BIGINT"},
    ),
    "paths": ("SELECT u, count(*) FROM {0} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10", {"u": "VARCHAR"}),
    "clients": ("SELECT c, count(*) FROM {0} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10", {"c": "VARCHAR"}),
    "servers": (
        "SELECT s, b, count(*) FROM {0} GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 10",
        {"s": "VARCHAR", "b": "VARCHAR"},
    ),
    "client": (
        "SELECT t, s, m, u, st, ta FROM {0} WHERE c = '{1}' ORDER BY t DESC LIMIT 100",
        {"t": "BIGINT", "s": "VARCHAR", "m": "VARCHAR", "u": "VARCHAR", "st": "BIGINT", "ta": "BIGINT", "c": "VARCHAR"},
    ),
}
"""The same over lines of JSON, of which only the keys that are needed are parsed into columns."""


def peer(folder: Path, runs: int) -> dict[str, Asked]:
    """DuckDB reads the lines each time."""
    client, found = client_of(folder), {}
    with duckdb.connect(":memory:", config={"threads": THREADS}) as database:
        for name, (sql, columns) in PEER.items():
            typed = ", ".join(f"{key}: '{kind}'" for key, kind in columns.items())
            files = f"{folder}/lines/*.jsonl"
            source = f"read_json('{files}', format = 'newline_delimited', columns = {{{typed}}})"
            seconds, rows = [], []
            for _ in range(runs):
                began = time.perf_counter()
                rows = database.execute(sql.format(source, client)).fetchall()
                seconds.append(time.perf_counter() - began)
            found[name] = Asked([list(row) for row in rows], seconds)
    return found


def ours(folder: Path, runs: int, done: Callable[[dict[str, Asked]], None]) -> None:
    """The process of a node is asked, as a node does; once before it counts, as it starts then."""
    from twisted.internet import reactor
    from twisted.internet.defer import ensureDeferred
    from twisted.python.failure import Failure

    async def ask() -> None:
        worker = QueryWorker(reactor, folder / "archive", threads=THREADS)
        found = {}
        try:
            for name, query in questions(client_of(folder)).items():
                answer = await worker.ask(query, LIMIT_S)
                seconds = []
                for _ in range(runs):
                    began = time.perf_counter()
                    answer = await worker.ask(query, LIMIT_S)
                    seconds.append(time.perf_counter() - began)
                found[name] = Asked(answer.rows, seconds)
        finally:
            await worker.stop()
        done(found)

    def failed(failure: Failure) -> None:
        failure.printTraceback(sys.stderr)

    reactor.callWhenRunning(lambda: ensureDeferred(ask()).addErrback(failed).addBoth(lambda _: reactor.stop()))
    reactor.run()


def say(measured: Any) -> None:
    """Print what was measured."""
    sys.stdout.buffer.write(msgspec.json.encode(measured))


if __name__ == "__main__":
    task, where, *numbers = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    if task == "make":
        say(make(where, *numbers))
    elif task == "peer":
        say(peer(where, *numbers))
    else:
        ours(where, numbers[0], say)
