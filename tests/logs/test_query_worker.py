"""The process that answers queries, for real: what it answers, and what becomes of one that dies, hangs or wants too much."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from avinet.errors import AvinetError, Damaged, Invalid, LocalError, TimedOut, TooLarge, TooMany, Unavailable
from avinet.logs import lineprocess
from avinet.logs.archive import hours
from avinet.logs.archive.archive import Archive
from avinet.logs.query import querying as querying_module
from avinet.logs.query import worker as query_worker
from avinet.logs.query.asking import WITHDRAWAL, Answered, Asked
from avinet.logs.query.client import QueryWorker
from avinet.logs.query.patience import Patience
from avinet.logs.query.querying import Querying, opened
from avinet.logs.query.worker import serve
from avinet.wire.answer import LogAnswer
from avinet.wire.log import COLUMNS
from avinet.wire.message import decode, encode
from avinet.wire.query import Filter, Gaps, LogQuery, Measure, Percentiles, Rows, Series, Shape, Top, Totals
from avinet.wire.segment import Gap, Manifest, manifest_bytes
from tests.logs.naive import record, write_segment
from tests.logs.segments import HOUR_MS, manifest_of, put

COUNT = Totals(measures=[Measure(of="requests")])
LONG_S = 60.0
MANY = 1_500_000
PATIENT = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line) if line != "\\n" else asked
    if line == "\\n" or "engines" in asked["query"]:
        print(json.dumps({"number": asked["number"], "answer": {"columns": [], "rows": [["b"]]}}), flush=True)
"""
"""A process that answers at once what names a service engine, and all else when it is taken back."""


def asked(get: Shape = COUNT, *filters: Filter, engines: list[str] | None = None) -> LogQuery:
    return LogQuery(since_ms=0, until_ms=10_000_000, engines=engines or [], filters=list(filters), get=get)


def put_many(archive: Archive, rows: int, engine: str = "se-1") -> Path:
    """A segment of `rows` records, each with a path of its own."""
    aside = archive.folder.parent / "aside.parquet"
    fields = {"seq": "i + 1", "time": "1000 + i % 1000", "path": "'/' || i", "total_ms": "i % 977", "service": "'web'"}
    empty = {"text": "''", "int": "0", "time": "0"}
    wanted = ", ".join(f'({fields.get(each.name, empty[each.kind])}) AS "{each.name}"' for each in COLUMNS)
    with duckdb.connect(":memory:") as database:
        database.execute(f"COPY (SELECT {wanted} FROM range({rows}) r(i)) TO '{aside}' (FORMAT parquet)")
    data = aside.read_bytes()
    manifest = Manifest(
        schema=1,
        engine=engine,
        generation=1,
        first=1,
        last=rows,
        rows=rows,
        from_ms=1000,
        to_ms=1999,
        services={"web": rows},
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return archive.add(aside, manifest_bytes(manifest))


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute() / "archive"
        self.folder.mkdir(parents=True)
        self.archive = Archive(self.folder)


class QueryingTests(Base):
    def querying(self, memory_bytes: int = 1 << 28) -> Querying:
        return Querying(self.archive, memory_bytes, 1)

    def test_an_answer_says_what_is_missing_in_it(self) -> None:
        gaps = [
            Gap(after=1, records=7, reason="full", from_ms=100, to_ms=200),
            Gap(after=2, reason="crash", from_ms=300, to_ms=5000),
        ]
        put(self.archive, [record(seq=n, time=n * 1000, service="web") for n in (1, 2)], gaps)
        put(self.archive, [record(seq=1, time=99_000_000, engine="se-2", service="web")])
        broken = put(self.archive, [record(seq=3, time=3000, service="web")])
        broken.unlink()
        found = self.querying().answer(asked(), Patience(LONG_S))
        self.assertEqual((found.rows, found.segments), ([[2]], 1))
        there = found.complete.gaps
        self.assertEqual((there.gaps, there.records, there.unknown, there.from_ms, there.to_ms), (2, 7, 1, 100, 5000))
        self.assertEqual((found.complete.nothing_of, found.complete.without), (["se-2"], 1))
        self.assertEqual((found.complete.damaged, found.complete.more), (1, False))

    def test_gaps_are_listed_up_to_the_limit(self) -> None:
        gaps = [Gap(after=n, records=n, reason="parse", from_ms=n, to_ms=n + 1) for n in range(1, 4)]
        put(self.archive, [record(seq=1, time=1000, service="web")], gaps)
        found = self.querying().answer(asked(Gaps(limit=2)), Patience(LONG_S))
        self.assertEqual(found.rows, [["se-1", 1, 1, 1, "parse", 1, 2], ["se-1", 1, 2, 2, "parse", 2, 3]])
        self.assertTrue(found.complete.more)

    def test_a_service_engine_that_was_imaged_anew_is_another_source_of_records_and_of_gaps(self) -> None:
        """Though its clock, and so all that it says of them, is the same."""
        for generation in (10, 9):
            found = [record(seq=n, time=1000, path=f"/{generation}/{n}", service="web") for n in (3, 4)]
            put(self.archive, found, generation=generation)
        for order, wanted in (("oldest", ["/9/3", "/9/4", "/10/3", "/10/4"]), ("newest", None)):
            shape, paths = Rows(columns=["path"], limit=1, order=order), []  # type: ignore[arg-type]
            while True:
                answer = self.querying().answer(asked(shape), Patience(LONG_S))
                paths += [each[0] for each in answer.rows]
                if not answer.next:
                    break
                shape = msgspec.structs.replace(shape, after=answer.next)
            self.assertEqual(paths, wanted or ["/10/4", "/10/3", "/9/4", "/9/3"])
        gaps = self.querying().answer(asked(Gaps()), Patience(LONG_S)).rows
        self.assertEqual([each[:4] for each in gaps], [["se-1", 9, 0, 2], ["se-1", 10, 0, 2]])

    def test_a_query_that_takes_too_long_is_ended(self) -> None:
        put_many(self.archive, MANY)
        querying = self.querying(1 << 30)
        error = self.assertRaises(
            TimedOut, querying.answer, asked(Top(columns=["path", "seq", "time"])), Patience(0.05)
        )
        self.assertIn("0.05 s", str(error))
        self.assertEqual(querying.answer(asked(), Patience(LONG_S)).rows, [[MANY]])

    def test_a_query_that_nobody_waits_for_any_more_is_ended(self) -> None:
        put_many(self.archive, MANY)
        querying, gone, read = self.querying(1 << 30), threading.Event(), querying_module._read

        def read_alone(*given: Any) -> Any:
            gone.set()
            return read(*given)

        self.patch(querying_module, "_read", read_alone)
        query = asked(Top(columns=["path", "seq", "time"]))
        error = self.assertRaises(TimedOut, querying.answer, query, Patience(LONG_S, gone))
        self.assertIn("nobody waits", str(error))
        self.assertEqual(querying.answer(asked(), Patience(LONG_S)).rows, [[MANY]])

    def test_to_read_an_archive_is_part_of_what_is_waited_for_and_gone_on_with_by_the_next(self) -> None:
        for hour in range(3):
            put(self.archive, [record(seq=hour + 1, time=hour * HOUR_MS, service="web")])
        self.archive = Archive(self.folder, lambda: time.time_ns() + 10**12)
        reads: list[Path] = []
        read = hours.read_limited

        def noted(path: Path, limit_bytes: int) -> bytes:
            reads.append(path)
            gone.set()
            return read(path, limit_bytes)

        self.patch(hours, "read_limited", noted)
        querying = self.querying()
        for begun in (1, 2):
            gone = threading.Event()
            self.assertRaises(TimedOut, querying.answer, asked(), Patience(LONG_S, gone))
            self.assertEqual(len(reads), begun)
        self.assertEqual(querying.answer(asked(), Patience(LONG_S)).rows, [[3]])
        self.assertEqual(len(reads), 3)

    def test_a_query_that_wants_too_much_memory_is_refused(self) -> None:
        put_many(self.archive, MANY)
        querying = self.querying(64 << 20)
        for get in (Top(columns=["path", "seq", "time"]), Top(columns=["seq"])):
            error = self.assertRaises(TooLarge, querying.answer, asked(get), Patience(LONG_S))
            self.assertIn("64 MiB", str(error))
        self.assertEqual(querying.answer(asked(), Patience(LONG_S)).rows, [[MANY]])

    def test_a_file_that_is_none_costs_one_line_that_names_it(self) -> None:
        """(H3)"""
        path = put(self.archive, [record(seq=1, time=1000, service="web")])
        path.write_bytes(b"P" * path.stat().st_size)
        error = self.assertRaises(Damaged, self.querying().answer, asked(Rows(columns=["path"])), Patience(LONG_S))
        self.assertIn(path.name, str(error))
        self.assertNotIn("\n", str(error))

    def test_records_without_a_number_or_a_time_keep_nobody_from_the_others(self) -> None:
        """(H3) What a service engine has sealed may have neither, whatever its manifest says."""
        put(self.archive, [record(seq=n, time=1000, engine="se-2", service="web") for n in (1, 2)])
        for engine, lie in (("se-1", {"seq": None}), ("se-3", {"time": None})):
            told = [record(seq=n, time=1000, engine=engine, service="web") for n in range(1, 6)]
            aside = self.folder.parent / "aside.parquet"
            write_segment(aside, [{**each, **lie} for each in told])  # type: ignore[dict-item]
            self.archive.add(aside, manifest_bytes(manifest_of(aside, told)))
        shape, rows = Rows(columns=["engine", "seq"], limit=1), []
        while True:
            found = self.querying().answer(asked(shape), Patience(LONG_S))
            rows += found.rows
            if not found.next:
                break
            shape = Rows(columns=["engine", "seq"], limit=1, after=found.next)
        self.assertEqual(rows, [["se-2", 2], ["se-2", 1]])
        series = self.querying().answer(asked(Series(bucket_s=10, measures=COUNT.measures)), Patience(LONG_S))
        self.assertEqual(series.rows, [[0, 7]])

    def test_what_is_remembered_of_files_is_bounded_and_forgotten_after_a_fault(self) -> None:
        self.patch(querying_module, "_REMEMBERED", 2)
        opens: list[Path] = []

        def noted(folder: Path, *limits: int) -> duckdb.DuckDBPyConnection:
            opens.append(folder)
            return opened(folder, *limits)

        self.patch(querying_module, "opened", noted)
        querying = self.querying()
        put(self.archive, [record(seq=1, time=1000, service="web")])
        for rows in (1, 1):
            self.assertEqual(querying.answer(asked(), Patience(LONG_S)).rows, [[rows]])
        self.assertEqual(len(opens), 1)
        _, broken = (put(self.archive, [record(seq=seq, time=1000, service="web")]) for seq in (2, 3))
        self.assertEqual([querying.answer(asked(), Patience(LONG_S)).rows for _ in range(2)], [[[3]], [[3]]])
        self.assertEqual(len(opens), 2)
        broken.write_bytes(b"P" * broken.stat().st_size)
        self.assertRaises(Damaged, querying.answer, asked(Rows(columns=["path"])), Patience(LONG_S))
        broken.unlink()
        broken.with_suffix(".json").unlink()
        self.assertEqual(querying.answer(asked(), Patience(LONG_S)).rows, [[2]])

    def test_a_file_that_goes_meanwhile_is_left_out(self) -> None:
        put(self.archive, [record(seq=1, time=1000, service="web")])
        gone = put(self.archive, [record(seq=2, time=1000, service="web")])
        choose, archive = self.archive.choose, self.archive

        def choose_and_lose(*given: Any) -> Any:
            chosen = choose(*given)
            for each in (gone.with_suffix(".json"), gone):
                each.unlink(missing_ok=True)
            return chosen

        self.patch(archive, "choose", choose_and_lose)
        self.assertEqual(self.querying().answer(asked(), Patience(LONG_S)).rows, [[1]])

    def test_the_database_reads_its_archive_alone(self) -> None:
        """(H3)"""
        mine = put(self.archive, [record(seq=1, time=1000, service="web")])
        other = self.folder.with_name("archive-of-another") / "x.parquet"
        other.parent.mkdir()
        other.write_bytes(mine.read_bytes())
        database = opened(self.folder, 1 << 27, 1)
        self.addCleanup(database.close)
        self.assertEqual(database.execute("SELECT count(*) FROM read_parquet($1)", [[str(mine)]]).fetchall(), [(1,)])
        for sql in (
            f"SELECT * FROM read_parquet('{other}')",
            f"SELECT * FROM '{other.parent}/*.parquet'",
            f"SELECT * FROM read_parquet('{self.folder}/../{other.parent.name}/{other.name}')",
            "SELECT * FROM read_text('/etc/hostname')",
            "SELECT * FROM glob('/etc/*')",
            f"COPY (SELECT 1) TO '{other}'",
            f"ATTACH '{self.folder.parent}/x.db'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET allowed_directories = ['/']",
            "SET memory_limit = '10GB'",
            "SET temp_directory = '/tmp'",
        ):
            self.assertRaises(duckdb.Error, database.execute, sql)


class ServeTests(Base):
    def served(self, *questions: Asked) -> list[Answered]:
        return self.answered(b"".join(encode(each) + b"\n" for each in questions))

    def answered(self, lines: bytes) -> list[Answered]:
        answers = io.BytesIO()
        serve(io.BytesIO(lines), answers, self.folder, 1 << 28, 1)
        return [decode(line, Answered, limit_bytes=1 << 20) for line in answers.getvalue().splitlines()]

    def test_questions_are_answered_in_turn_by_their_numbers(self) -> None:
        put(self.archive, [record(seq=1, time=1000, service="web")])
        found = self.served(*(Asked(number=n, query=asked(), limit_s=9) for n in (4, 5)))
        self.assertEqual([(each.number, each.answer and each.answer.rows) for each in found], [(4, [[1]]), (5, [[1]])])

    def test_a_fault_of_ours_costs_one_query(self) -> None:
        put(self.archive, [record(seq=1, time=1000, service="web")])
        self.patch(querying_module, "shaped", lambda *_: 1 // 0)
        self.patch(sys, "stderr", io.StringIO())
        found = self.served(*(Asked(number=n, query=asked(), limit_s=9) for n in (1, 2)))
        self.assertEqual([each.failed and each.failed.kind for each in found], ["local", "local"])
        self.assertIn("ZeroDivisionError", str(found[0].failed))

    def test_a_question_that_is_taken_back_is_answered_with_nothing(self) -> None:
        """And another one is as good as before."""
        put(self.archive, [record(seq=1, time=1000, service="web")])
        one, two = (encode(Asked(number=n, query=asked(), limit_s=9)) + b"\n" for n in (1, 2))
        self.patch(query_worker, "Patience", self.late)
        found = self.answered(WITHDRAWAL + one + WITHDRAWAL + WITHDRAWAL + two)
        self.assertEqual([each.number for each in found], [1, 2])
        self.assertIn("nobody waits", str(found[0].failed))
        self.assertEqual(found[1].answer and found[1].answer.rows, [[1]])

    def late(self, limit_s: float, gone: threading.Event) -> Patience:
        """That of the first question begins when it is taken back, as it is at some time."""
        self.patch(query_worker, "Patience", Patience)
        gone.wait()
        return Patience(limit_s, gone)

    def test_without_duckdb_every_question_is_told_so(self) -> None:
        for name in ("duckdb", "avinet.logs.query.querying"):
            self.addCleanup(sys.modules.__setitem__, name, sys.modules.pop(name))
        sys.modules["duckdb"] = None  # type: ignore[assignment]
        found = self.served(*(Asked(number=n, query=asked(), limit_s=9) for n in (1, 2)))
        self.assertEqual(len(found), 2)
        for each in found:
            assert each.failed is not None
            self.assertEqual((each.failed.kind, each.failed.hint), ("unavailable", "pip install 'avinet[analytics]'"))


class WorkerTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute() / "archive"
        self.folder.mkdir(parents=True)
        self.archive = Archive(self.folder)
        put(self.archive, [record(seq=n, time=n * 1000, path=f"/{n}", service="web") for n in (1, 2, 3)])

    def worker(self, **settings: Any) -> QueryWorker:
        worker = QueryWorker(reactor, self.folder, **{"memory_bytes": 64 << 20, "threads": 1, **settings})
        self.addCleanup(worker.stop)
        return worker

    def ask(self, worker: QueryWorker, query: LogQuery | None = None, limit_s: float = LONG_S) -> Deferred[LogAnswer]:
        return ensureDeferred(worker.ask(query or asked(), limit_s))

    async def fails(self, asking: Deferred[LogAnswer], kind: type[AvinetError], *words: str) -> None:
        error = await self.assertFailure(asking, kind)
        self.assertNotIn("\n", str(error))
        for word in words:
            self.assertIn(word, str(error))

    async def stopped(self, worker: QueryWorker) -> int:
        """Have its process started, and stopped by a signal; its id."""
        await self.ask(worker)
        pid = worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        return pid

    async def works(self, worker: QueryWorker) -> None:
        self.assertEqual((await self.ask(worker)).rows, [[3]])

    async def test_one_process_answers_one_query_after_the_other(self) -> None:
        worker = self.worker()
        self.assertIs(worker.pid, None)
        asking = [self.ask(worker, asked(Rows(columns=["path"], limit=n))) for n in (1, 2, 3)]
        self.assertEqual([len((await each).rows) for each in asking], [1, 2, 3])
        pid = worker.pid
        await self.works(worker)
        self.assertEqual(worker.pid, pid)

    async def test_what_is_archived_meanwhile_is_in_the_next_answer(self) -> None:
        worker = self.worker()
        await self.works(worker)
        put(self.archive, [record(seq=4, time=4000, service="web")])
        self.assertEqual((await self.ask(worker)).rows, [[4]])

    async def test_killed_in_the_middle_it_costs_that_query_one_line_and_the_next_starts_another(self) -> None:
        worker = self.worker()
        pid = await self.stopped(worker)
        asking, behind = self.ask(worker), self.ask(worker)
        os.kill(pid, signal.SIGKILL)
        await self.fails(asking, Unavailable, "died", "signal 9")
        self.assertEqual((await behind).rows, [[3]])
        self.assertNotEqual(worker.pid, pid)

    async def test_killed_while_nothing_is_asked_it_is_started_anew(self) -> None:
        worker = self.worker()
        os.kill(await self.stopped(worker), signal.SIGKILL)
        while worker.pid is not None:
            await self.turn()
        await self.works(worker)

    async def turn(self) -> None:
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)  # type: ignore[attr-defined]
        await turn

    async def test_one_that_hangs_is_killed_when_time_is_up(self) -> None:
        worker = self.worker(grace_s=0.05)
        pid = await self.stopped(worker)
        asking, behind = self.ask(worker, limit_s=0.1), self.ask(worker)
        await self.fails(asking, TimedOut, "0.1 s")
        self.assertEqual((await behind).rows, [[3]])
        self.assertNotEqual(worker.pid, pid)

    async def test_one_that_waits_too_long_is_told_so_and_disturbs_nobody(self) -> None:
        worker = self.worker()
        pid = await self.stopped(worker)
        first, second = self.ask(worker), self.ask(worker, limit_s=0.1)
        await self.fails(second, TimedOut, "behind others")
        os.kill(pid, signal.SIGCONT)
        self.assertEqual((await first).rows, [[3]])
        self.assertEqual(worker.pid, pid)

    async def test_the_line_is_bounded(self) -> None:
        worker = self.worker(waiting=2)
        pid = await self.stopped(worker)
        asking = [self.ask(worker) for _ in range(3)]
        await self.fails(self.ask(worker), TooMany, "2 queries wait")
        os.kill(pid, signal.SIGCONT)
        for each in asking:
            self.assertEqual((await each).rows, [[3]])

    async def test_who_goes_makes_room(self) -> None:
        """A process that takes no notice is killed."""
        self.patch(lineprocess, "WITHDRAWN_S", 0.05)
        worker = self.worker()
        pid = await self.stopped(worker)
        first, second, third = (self.ask(worker) for _ in range(3))
        for each in (second, first):
            each.cancel()
            await self.assertFailure(each, CancelledError)
        self.assertEqual((await third).rows, [[3]])
        self.assertNotEqual(worker.pid, pid)

    async def test_who_goes_leaves_the_process_as_it_is(self) -> None:
        worker = self.worker(command=(sys.executable, "-c", PATIENT))
        first, second = self.ask(worker), self.ask(worker, asked(engines=["se-1"]))
        pid = worker.pid
        first.cancel()
        await self.assertFailure(first, CancelledError)
        self.assertEqual((await second).rows, [["b"]])
        self.assertEqual(worker.pid, pid)

    async def test_an_answer_that_has_begun_when_it_is_taken_back_is_not_that_of_the_next(self) -> None:
        worker = self.worker()
        for _ in range(20):
            first, second = self.ask(worker, asked(engines=["se-2"])), self.ask(worker)
            await self.turn()
            first.cancel()
            await self.assertFailure(first, CancelledError)
            self.assertEqual((await second).rows, [[3]])

    async def test_a_node_that_stops_waits_for_nobody_who_has_gone(self) -> None:
        worker = self.worker()
        pid = await self.stopped(worker)
        asking = self.ask(worker)
        asking.cancel()
        await worker.stop()
        await self.assertFailure(asking, CancelledError)
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    async def test_a_query_that_takes_too_long_ends_without_its_process(self) -> None:
        put_many(self.archive, MANY, "se-2")
        worker = self.worker(memory_bytes=1 << 30, grace_s=LONG_S)
        await self.ask(worker)
        pid = worker.pid
        query = asked(Top(columns=["path", "seq", "time"]), engines=["se-2"])
        await self.fails(self.ask(worker, query, limit_s=0.1), TimedOut, "s; ask for a shorter time")
        self.assertEqual((await self.ask(worker, asked(engines=["se-1"]))).rows, [[3]])
        self.assertEqual(worker.pid, pid)

    async def test_a_query_that_wants_too_much_memory_is_refused_and_the_next_is_answered(self) -> None:
        put_many(self.archive, MANY, "se-2")
        worker = self.worker()
        await self.fails(self.ask(worker, asked(Top(columns=["path", "seq", "time"]))), TooLarge, "64 MiB")
        self.assertEqual((await self.ask(worker, asked(Percentiles(column="total_ms"), engines=["se-1"]))).segments, 1)

    async def test_it_is_confined(self) -> None:
        """(H3)"""
        worker = self.worker()
        await self.ask(worker)
        proc = Path(f"/proc/{worker.pid}")
        limits = {line[:25].strip(): line[25:].split()[:2] for line in (proc / "limits").read_text().splitlines()}
        self.assertEqual((limits["Max file size"], limits["Max core file size"]), (["0", "0"], ["0", "0"]))
        self.assertEqual(limits["Max data size"], [str((64 << 20) + (1 << 30))] * 2)
        self.assertEqual((proc / "oom_score_adj").read_text().strip(), "800")

    async def test_stopped_it_is_gone_and_answers_nothing(self) -> None:
        worker = self.worker()
        pid = await self.stopped(worker)
        asking = [self.ask(worker) for _ in range(2)]
        gone = worker.stop()
        for each in [*asking, self.ask(worker)]:
            await self.fails(each, Unavailable, "stopping")
        await gone
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    async def test_a_query_that_cannot_be_is_not_passed_on(self) -> None:
        worker = self.worker()
        query = msgspec.structs.replace(asked(), engines=["../x"])
        await self.fails(self.ask(worker, query), Invalid, "engines")
        self.assertIs(worker.pid, None)

    async def test_one_that_says_what_it_should_not_is_killed(self) -> None:
        for says in (
            "print('nonsense', flush=True)",
            "print('{\"number\": 1}', flush=True)",
            'print(\'{"number": 7, "failed": {"kind": "local", "what": ""}}\', flush=True)',
            "sys.stdout.write('x' * (17 << 20))",
        ):
            code = f"import sys, time\nsys.stdin.readline()\n{says}\ntime.sleep(600)"
            worker = self.worker(command=(sys.executable, "-c", code))
            await self.fails(self.ask(worker), Unavailable, "out of step")
            self.assertIs(worker.pid, None)

    async def test_one_that_does_not_start_says_why(self) -> None:
        worker = self.worker(command=(sys.executable, "-c", "raise SystemExit('no such thing')"))
        await self.fails(self.ask(worker), Unavailable, "exit status 1", "no such thing")
        self.folder.rename(self.folder.with_name("[x]"))
        worker = QueryWorker(reactor, self.folder.with_name("[x]"))
        self.addCleanup(worker.stop)
        await self.fails(self.ask(worker), LocalError, "archive")
