"""Whole answers: what is here is counted as Python would, and all that is not here is told of, whatever was lost how."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.archive.archive import KEPT_BYTES, Archive
from avinet.logs.query.patience import Patience
from avinet.logs.query.querying import Querying
from avinet.logs.spool.naming import LINES, PARQUET, open_name, sealed_name
from avinet.logs.spool.orders import Order
from avinet.logs.spool.sealer import seal
from avinet.wire.answer import LogAnswer
from avinet.wire.log import COLUMNS
from avinet.wire.query import Gaps, LogQuery, Measure, Percentiles, Rows, Series, Shape, Top, Totals
from avinet.wire.segment import Gap, manifest_bytes, read_manifest
from bench.records import START_MS, lines
from tests.logs.naive import Record, answer, record
from tests.logs.segments import put

LONG_S = 60.0
STEP_MS = 1000
P50, P99 = (Measure(of="percentile", column="total_ms", quantile=each) for each in (0.5, 0.99))
SHAPES: tuple[Shape, ...] = (
    Totals(measures=[Measure(of="requests"), Measure(of="errors"), Measure(of="mean", column="total_ms"), P99]),
    Series(bucket_s=5, measures=[P50, P99, Measure(of="requests"), Measure(of="bytes_out")]),
    Top(columns=["service"], measure=P50),
    Percentiles(column="total_ms", quantiles=(0.0, 0.5, 0.99, 1.0)),
    Rows(columns=["engine", "seq", "time", "total_ms"], limit=1000),
)


@dataclass(frozen=True)
class Piece:
    """So many records of a service engine, one a second, and what became of their segment."""

    values: list[int]
    fate: str
    reason: str
    lost: int | None


PIECES = st.lists(
    st.builds(
        Piece,
        st.lists(st.sampled_from([-1, 0, 1, 7, 7, 2000]), min_size=1, max_size=4),
        st.sampled_from(["here", "here", "gone", "removed", "cut", "mute"]),
        st.sampled_from(["", "", "full", "crash", "dropped"]),
        st.none() | st.integers(0, 5),
    ),
    max_size=5,
)


class Laid:
    """Pieces in an archive: `here` are the records that can be read; `told` counts what is missing by its reason."""

    def __init__(self, archive: Archive, engines: Sequence[Sequence[Piece]]) -> None:
        self.here: list[Record] = []
        self.told: Counter[str] = Counter()
        self.unknown = 0
        self.damaged = 0
        self.nothing_of: list[str] = []
        for number, pieces in enumerate(engines, start=1):
            self.lay(archive, f"se-{number}", pieces)

    def lay(self, archive: Archive, engine: str, pieces: Sequence[Piece]) -> None:
        seq, away, known = 1, 0, False
        for piece in pieces:
            found = [
                record(
                    engine=engine,
                    seq=seq + n,
                    time=(seq + n) * STEP_MS,
                    service="web",
                    total_ms=value,
                    status=500 if value == 7 else 200,
                    bytes_out=value + 1,
                )
                for n, value in enumerate(piece.values)
            ]
            time = found[0]["time"]
            gap = Gap(after=seq - 1, records=piece.lost, reason=piece.reason, from_ms=time, to_ms=time)  # type: ignore[arg-type]
            path = put(archive, found, [gap] if piece.reason else [])
            seq += len(found)
            if piece.fate == "removed":  # and the gaps that it told of are not known any more
                archive.removals.note(engine, [read_manifest(path.with_suffix(".json").read_bytes())])
                archive._remove(path)
                self.told["removed"] += len(found)
                self.told["not-here"], away = self.told["not-here"] + away, 0
                continue
            if piece.fate in ("gone", "mute"):  # a manifest that cannot be read tells of nothing
                path.with_suffix(".json").write_bytes(b"{}")
                if piece.fate == "gone":
                    path.with_suffix(".json").unlink()
                    path.unlink()
                else:
                    self.damaged += 1
                away += len(found)
                continue
            known, self.told["not-here"], away = True, self.told["not-here"] + away, 0
            if piece.reason:
                self.told[piece.reason] += piece.lost or 0
                self.unknown += piece.lost is None
            if piece.fate == "cut":
                path.write_bytes(path.read_bytes()[:-1])
                self.damaged += 1
            else:
                self.here += found
        if not known:
            self.nothing_of.append(engine)


class WholeAnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def archive(self, kept_bytes: int = KEPT_BYTES) -> Archive:
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "archive"
        folder.mkdir()
        return Archive(folder, kept_bytes=kept_bytes)

    def asked(self, archive: Archive, get: Shape, until_ms: int = 10**6, known: Sequence[str] = ()) -> LogAnswer:
        querying = Querying(archive, 1 << 28, 1)
        try:
            return querying.answer(LogQuery(since_ms=0, until_ms=until_ms, get=get), Patience(LONG_S), known)
        finally:
            querying.close()

    def same(self, got: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> None:
        shown = [
            [[round(each, 6) if isinstance(each, float) else each for each in row] for row in rows]
            for rows in (got, wanted)
        ]
        self.assertEqual(*shown)

    def test_what_is_here_is_counted_and_what_is_not_is_told(self) -> None:
        @settings(max_examples=20, deadline=None)
        @given(st.lists(PIECES, min_size=1, max_size=2), st.sampled_from([0, 4000, 10_000, KEPT_BYTES]))
        def check(engines: list[list[Piece]], kept_bytes: int) -> None:
            archive = self.archive(kept_bytes)
            laid = Laid(archive, engines)
            for get in SHAPES:
                query = LogQuery(since_ms=0, until_ms=10**6, get=get)
                found = self.asked(archive, get, known=["se-1", "se-2"][: len(engines)])
                self.same(found.rows, answer(query, laid.here))
                complete = found.complete
                told = {each.reason: each.records for each in complete.gaps.reasons if each.records}
                self.assertEqual(told, {reason: records for reason, records in laid.told.items() if records})
                self.assertEqual(complete.gaps.unknown, laid.unknown)
                self.assertEqual((complete.damaged, complete.nothing_of), (laid.damaged, laid.nothing_of))
            gaps = self.asked(archive, Gaps(limit=1000)).rows
            listed: Counter[Any] = Counter()
            for row in gaps:
                listed[row[4]] += row[3] or 0  # type: ignore[operator]
            self.assertEqual(+listed, +laid.told)

        check()

    def test_percentiles_of_what_was_sealed_are_exact(self) -> None:
        """Far within the 1 % that buckets would have."""
        archive, rows = self.archive(), 4000
        said = list(lines(rows))
        place = self.folder / "sealing"
        place.mkdir()
        source = place / open_name(1, LINES)
        source.write_bytes(b"".join(line + b"\n" for line in said))
        manifest = seal(
            Order(folder=str(place), first=1, lines=rows, size=source.stat().st_size, engine="se-1", generation=1)
        ).manifest
        assert manifest is not None
        archive.add(place / sealed_name((1, rows), PARQUET), manifest_bytes(manifest))
        names = {column.key: column.name for column in COLUMNS if column.key}
        held = [
            {"engine": "se-1", "seq": n, **{names[key]: value for key, value in json.loads(line).items()}}
            for n, line in enumerate(said, start=1)
        ]
        for get in (
            Series(bucket_s=1, measures=[P50, P99, msgspec.structs.replace(P99, column="bytes_out")]),
            Series(bucket_s=1, measures=[P50, P99, Measure(of="mean", column="bytes_out"), Measure(of="errors")]),
            Percentiles(column="response_ms"),
            Percentiles(column="bytes_out"),
        ):
            query = LogQuery(since_ms=START_MS, until_ms=START_MS + 10**6, get=get)
            found = Querying(archive, 1 << 28, 2).answer(query, Patience(LONG_S))
            self.same(found.rows, answer(query, held))
