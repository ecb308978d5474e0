"""Request logs of a service engine: kept where they can be, from the data plane's hands into the spool."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.dataplane.builtin import BuiltIn
from avinet.errors import LocalError
from avinet.logs.spool.settings import SpoolSettings
from avinet.logs.spool.spool import Spool
from avinet.se.records import FOLDER, losses_of, request_logs
from tests.logs.spooling import START_S, at_once, lines


class RequestLogTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.clock: Any = Clock()
        self.dataplane = BuiltIn(self.clock)
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)

    def kept(self, keep: Any) -> Spool | None:
        return request_logs(
            self.clock,
            self.state,
            SpoolSettings(keep=keep),
            self.dataplane,
            at_once,
            lambda: START_S,
            lambda: START_S,
            self.tasks,
        )

    def test_what_the_data_plane_says_is_in_the_spool(self) -> None:
        spool = self.kept("auto")
        assert spool is not None
        self.dataplane.lines(lines([1, 2]))
        self.dataplane.missed("dropped", 3)
        spool.start("se-1", 1)
        self.assertEqual((spool.written, spool.buffered, spool.lost["dropped"]), (2, 0, 3))
        self.assertEqual(len(list((self.state / FOLDER).glob("open-*"))), 2)
        self.stopped(spool)

    def test_what_the_spool_has_lost_is_told_once_and_not_what_others_told_it_of(self) -> None:
        spool = self.kept("auto")
        assert spool is not None
        more = losses_of(spool)
        self.dataplane.missed("dropped", 3)
        self.dataplane.lines([b"x" * 1024 * 1024] * 33)
        self.assertEqual((more(), more()), (2, 0))
        self.assertEqual(dict(spool.lost), {"dropped": 3, "full": 2})
        self.assertEqual(losses_of(None)(), 0)

    def stopped(self, spool: Spool) -> None:
        done: list[object] = []
        self.tasks.spawn(spool.stop(), "stopping").addBoth(done.append)
        self.assertEqual(done, [None])

    def test_none_are_kept_where_they_are_not_wanted(self) -> None:
        self.assertIsNone(self.kept("never"))
        self.dataplane.lines(lines([1]))
        self.assertFalse((self.state / FOLDER).exists())

    def test_without_duckdb_none_are_kept_unless_they_have_to_be(self) -> None:
        with mock.patch("importlib.util.find_spec", return_value=None):
            self.assertIsNone(self.kept("auto"))
            self.assertIn("avinet[analytics]", str(self.assertRaises(LocalError, self.kept, "always")))
