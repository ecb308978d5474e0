"""Whom a query of request logs is about: its label expression is told by the node, and the process is given ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.controller import log_queries
from avinet.controller.log_queries import LogQueries
from avinet.enrolment.records import EngineRecord
from avinet.errors import Invalid, NotFound, TooLarge
from avinet.wire.answer import LogAnswer
from avinet.wire.query import LogQuery, Measure, Totals

LIMIT_S = 9.0
QUERY = LogQuery(since_ms=0, until_ms=1000, get=Totals(measures=[Measure(of="requests")]))


def engine(id: str, state: Any = "enrolled", **labels: str) -> EngineRecord:
    return EngineRecord(id=id, state=state, generation=1, created=0.0, labels=labels)


class Worker:
    """Says nothing, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[LogQuery, float, list[str]]] = []
        self.stopped = False

    async def ask(self, query: LogQuery, limit_s: float, known: Iterable[str] = ()) -> LogAnswer:
        self.asked.append((query, limit_s, sorted(known)))
        return LogAnswer(columns=[])

    def stop(self) -> Deferred[None]:
        self.stopped = True
        return succeed(None)


class LogQueriesTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.worker = Worker()
        self.engines = [
            engine("se-3", site="rome"),
            engine("se-1", site="paris", room="2"),
            engine("se-2", "revoked", site="paris"),
            engine("se-4", "expected"),
        ]
        self.queries = LogQueries(self.worker, lambda: self.engines, LIMIT_S)

    def test_the_process_is_started_before_anybody_asks(self) -> None:
        self.successResultOf(as_deferred(self.queries.get_ready()))
        [(query, limit_s, _)] = self.worker.asked
        self.assertEqual((query.until_ms, limit_s), (1, LIMIT_S))

    def test_that_it_does_not_start_is_told_to_whoever_asks(self) -> None:
        async def fail(query: LogQuery, limit_s: float, known: Iterable[str] = ()) -> LogAnswer:
            raise Invalid("no")

        self.worker.ask = fail  # type: ignore[method-assign]
        self.successResultOf(as_deferred(self.queries.get_ready()))
        self.failureResultOf(as_deferred(self.queries.ask(QUERY)), Invalid)

    def ask(self, **fields: Any) -> LogQuery:
        """What the process is asked then."""
        asked = msgspec.structs.replace(QUERY, **fields)
        self.successResultOf(as_deferred(self.queries.ask(asked)))
        return self.worker.asked[-1][0]

    def test_a_label_expression_becomes_ids_of_revoked_ones_too(self) -> None:
        for selector, ids in (
            ("site=paris", ["se-1", "se-2"]),
            ("site=paris,!room", ["se-2"]),
            ("!site", ["se-4"]),
            (" , ", []),
            ("", []),
        ):
            asked = self.ask(selector=selector)
            self.assertEqual((sorted(asked.engines), asked.selector), (ids, ""), selector)

    def test_without_any_those_that_have_enrolled_are_asked_of_too(self) -> None:
        self.ask()
        self.assertEqual(self.worker.asked, [(QUERY, LIMIT_S, ["se-1", "se-3"])])

    def test_ids_stay_as_they_are_also_of_those_that_are_not_known(self) -> None:
        self.assertEqual(self.ask(engines=["se-9"]).engines, ["se-9"])

    def test_one_that_matches_nothing_is_one_line(self) -> None:
        for selector, error, said in (
            ("site=oslo", NotFound, "no service engine matches site=oslo; see avictl se list"),
            ("site==x", Invalid, "'site==x' is no label expression"),
        ):
            failed = self.failureResultOf(
                as_deferred(self.queries.ask(msgspec.structs.replace(QUERY, selector=selector))), error
            )
            self.assertIn(said, str(failed.value))
        self.assertEqual(self.worker.asked, [])

    def test_one_that_matches_too_many_is_refused(self) -> None:
        self.patch(log_queries, "ENGINES", 1)
        asked = msgspec.structs.replace(QUERY, selector="site=paris")
        failed = self.failureResultOf(as_deferred(self.queries.ask(asked)), TooLarge)
        self.assertIn("2 service engines match site=paris", str(failed.value))

    def test_the_process_ends_with_the_node(self) -> None:
        self.successResultOf(as_deferred(self.queries.stop()))
        self.assertTrue(self.worker.stopped)
