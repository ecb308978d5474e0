"""The process that seals open files: `python -m avinet.logs.spool.sealer`, asked by JSON lines, one order at a time.

A segment is a Parquet file, written aside, synced and renamed, and then its manifest, in the same way. Nothing here
removes an open file: whoever asked does that once it knows the answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from avinet.errors import AvinetError, LocalError
from avinet.files import cannot, read_limited, sync_file, sync_folder, write_atomic
from avinet.logs.spool.lines import mended
from avinet.logs.spool.losses import settled
from avinet.logs.spool.naming import LINES, MANIFEST, PARQUET, found, open_name, sealed_name
from avinet.logs.spool.orders import LINE_BYTES, Order, Sealed
from avinet.logs.spool.parquet import Unfit, totals, write
from avinet.wire.log import TEXT_BYTES, VERSION
from avinet.wire.message import decode, encode
from avinet.wire.segment import (
    MANIFEST_LIMIT_BYTES,
    Gap,
    Manifest,
    manifest_bytes,
    merged,
    read_manifest,
    with_limits,
)

NICE = 10
_PR_SET_PDEATHSIG = 1
_BLOCK = 1 << 20


def seal(order: Order) -> Sealed:
    """Do what `order` says; a segment that is there already is the answer, too. Raises `AvinetError`, `OSError`."""
    folder = Path(order.folder)
    with _alone(folder):
        if (there := _sealed_before(folder, order.first)) is not None:
            return Sealed(manifest=there, unfit=order.lines - there.rows)
        for left in folder.glob(".sealing.*.new"):  # by one that was ended in the middle of it
            left.unlink()
        source = folder / open_name(order.first, LINES)
        parquet, scratch = (folder / f".sealing{suffix}.{os.getpid()}.new" for suffix in (PARQUET, LINES))
        try:
            return _sealed(order, folder, source, parquet, scratch)
        finally:
            for path in (parquet, scratch):
                path.unlink(missing_ok=True)


def _sealed(order: Order, folder: Path, source: Path, parquet: Path, scratch: Path) -> Sealed:
    unfit: list[int] = []
    try:
        if _plain(source, order):
            rows = write(source, parquet, order.first)
        else:
            rows = _written(order, source, parquet, scratch, unfit, long_ones=True)
        if rows != order.lines - len(unfit):
            raise Unfit("there are more lines, or fewer")
    except Unfit:
        unfit.clear()
        rows = _written(order, source, parquet, scratch, unfit)
        if rows != order.lines - len(unfit):
            raise LocalError(f"{source} cannot be sealed: it changes while it is read") from None
    losses = settled(order.losses, order.first, unfit)
    if not rows:
        now = _times(losses, source)
        return Sealed(gaps=merged([*losses, *_parse(order.first, unfit, *now)]), unfit=len(unfit))
    counted = totals(parquet)
    last = order.first + rows - 1
    gaps = merged([*losses, *_parse(order.first, unfit, counted.from_ms, counted.to_ms)])
    manifest = Manifest(
        schema=VERSION,
        engine=order.engine,
        generation=order.generation,
        first=order.first,
        last=last,
        rows=rows,
        from_ms=counted.from_ms,
        to_ms=counted.to_ms,
        services=counted.services,
        bytes=parquet.stat().st_size,
        sha256=_sha256(parquet),
        gaps=gaps,
    )
    manifest = with_limits(manifest)
    _publish(folder, parquet, manifest)
    return Sealed(manifest=manifest, unfit=len(unfit))


def _written(
    order: Order, source: Path, parquet: Path, scratch: Path, unfit: list[int], *, long_ones: bool = False
) -> int:
    """Write what is mended of the lines to `parquet`, by way of `scratch`; how many rows these are. See `mended`."""
    with scratch.open("wb") as file:
        file.writelines(mended(_lines(source, order.size), unfit, long_ones=long_ones))
    return write(scratch, parquet, order.first) if scratch.stat().st_size else 0


def _publish(folder: Path, parquet: Path, manifest: Manifest) -> None:
    span = manifest.first, manifest.last
    sync_file(parquet)
    os.rename(parquet, folder / sealed_name(span, PARQUET))
    sync_folder(folder)
    write_atomic(folder / sealed_name(span, MANIFEST), manifest_bytes(manifest))


def _sealed_before(folder: Path, first: int) -> Manifest | None:
    there = found(os.listdir(folder))
    for span in there.manifests & there.parquet:
        if span[0] == first:
            return read_manifest(read_limited(folder / sealed_name(span, MANIFEST), MANIFEST_LIMIT_BYTES))
    return None


def _parse(first: int, unfit: list[int], from_ms: int, to_ms: int) -> list[Gap]:
    """The gaps of the lines at the places `unfit`, of a file of this time."""
    return [
        Gap(after=first - 1 + place - number, records=1, reason="parse", from_ms=from_ms, to_ms=to_ms)
        for number, place in enumerate(unfit)
    ]


def _times(losses: list[Gap], source: Path) -> tuple[int, int]:
    """Of what time a file is in which nothing says so."""
    written = int(source.stat().st_mtime * 1000)
    return min([written, *(gap.from_ms for gap in losses)]), max([written, *(gap.to_ms for gap in losses)])


def _lines(source: Path, size: int) -> Iterator[bytes]:
    """The lines in the first `size` bytes of `source`."""
    with source.open("rb") as file:
        left = size
        while left and (line := file.readline(left)):
            left -= len(line)
            yield line.removesuffix(b"\n")


def _plain(source: Path, order: Order) -> bool:
    """Whether `source` may be read as it is: no line in it may have a text that is to be cut."""
    rest = b""
    if source.stat().st_size != order.size:
        return False
    with source.open("rb") as file:
        while block := file.read(_BLOCK):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            if len(rest) > TEXT_BYTES or (lines and len(max(lines, key=len)) > TEXT_BYTES):
                return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One sealer at a time works in a folder; one whose service engine has just been killed may be about to end."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def answered(order: Order) -> Sealed:
    """What is answered to `order`, also when it fails."""
    try:
        return seal(order)
    except AvinetError as error:
        return Sealed(error=str(error))
    except OSError as error:
        return Sealed(error=str(cannot("write", Path(error.filename or order.folder), error)))


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Answer each line of `orders`, until there are no more."""
    while line := orders.readline(LINE_BYTES):
        answers.write(encode(answered(decode(line, Order, limit_bytes=LINE_BYTES, what="order"))) + b"\n")
        answers.flush()


def main() -> None:
    """Serve on standard input and output, with the rest of the processor, and no longer than the parent lives."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    os.nice(NICE)
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
