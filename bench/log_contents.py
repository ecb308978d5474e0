"""What is put into the spool of a service engine beforehand."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb

from avinet.logs.spool.naming import open_name, sealed_name
from avinet.wire.log import VERSION
from avinet.wire.segment import Manifest, manifest_bytes
from bench.records import lines

DIFFERENT = 500_000
SEGMENT_ROWS = 250_000
"""What a spool puts into one segment by default."""
_TIME = slice(5, 18)
"""Where the milliseconds stand in a line."""
ROW_BYTES = 16_384


def open_files(log: Path, count: int, first_ms: int) -> Callable[[Path], None]:
    """Writes `count` records as open files, of as many as a spool makes, and all of them into `log`, too."""

    def write(folder: Path) -> None:
        made = _endless(first_ms)
        for old in folder.iterdir():
            old.unlink()
        with log.open("wb") as whole:
            for first in range(1, count + 1, SEGMENT_ROWS):
                block = b"".join(next(made) for _ in range(min(SEGMENT_ROWS, count + 1 - first)))
                (folder / open_name(first)).write_bytes(block)
                whole.write(block)

    return write


def _endless(first_ms: int) -> Iterator[bytes]:
    """Lines with their ends, whose times go on."""
    some = [bytes(each) + b"\n" for each in lines(DIFFERENT, start_ms=first_ms)]
    lasts_ms = int(some[-1][_TIME]) + 1 - first_ms
    after_ms = 0
    while True:
        for each in some:
            yield each[: _TIME.start] + b"%d" % (int(each[_TIME]) + after_ms) + each[_TIME.stop :]
        after_ms += lasts_ms


def segments(size: int, each_bytes: int, engine: str, first_ms: int) -> Callable[[Path], None]:
    """Writes segments of `each_bytes` until they have `size`: what cannot be made smaller, and is not to be read."""

    def write(folder: Path) -> None:
        for old in folder.iterdir():
            old.unlink()
        rows = each_bytes // ROW_BYTES
        chance = random.Random(1)
        database = duckdb.connect()
        database.execute("CREATE TABLE noise (n BIGINT, path VARCHAR)")
        for row in range(rows):
            database.execute("INSERT INTO noise VALUES (?, ?)", [row, chance.randbytes(ROW_BYTES // 2).hex()])
        first = 1
        while size > sum(path.stat().st_size for path in folder.glob("*.parquet")):
            span = (first, first + rows - 1)
            path = folder / sealed_name(span, ".parquet")
            database.execute(
                f"COPY (SELECT {first} + n AS seq, {first_ms + first} + n AS time, 'web' AS service, path FROM noise)"
                f" TO '{path}' (FORMAT parquet, COMPRESSION uncompressed)"
            )
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            manifest = Manifest(
                schema=VERSION,
                engine=engine,
                generation=1,
                first=span[0],
                last=span[1],
                rows=rows,
                from_ms=first_ms + span[0],
                to_ms=first_ms + span[1],
                services={"web": rows},
                bytes=path.stat().st_size,
                sha256=digest,
            )
            path.with_suffix(".json").write_bytes(manifest_bytes(manifest))
            first += rows

    return write
