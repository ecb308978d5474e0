"""The sealer's process: a contract that the one of the tests keeps too, deadlines, and what becomes of its death."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.errors import Invalid, LocalError, PeerError, TimedOut
from avinet.files import private_folder
from avinet.logs.spool.naming import MANIFEST, PARQUET, open_name, sealed_name
from avinet.logs.spool.orders import Order, Sealed
from avinet.logs.spool.sealer_client import Sealer, SealerProcess
from avinet.wire.message import encode
from tests.logs.spooling import Here, T, lines
from tests.running import eventually

REACTOR: Any = the_reactor


def order(folder: Path, count: int = 3, first: int = 5) -> Order:
    """An order to seal `count` records, which are there."""
    data = b"".join(each + b"\n" for each in lines(range(count)))
    (private_folder(folder) / open_name(first)).write_bytes(data)
    return Order(folder=str(folder), first=first, lines=count, size=len(data), engine="se-1", generation=2)


def gone(pid: int) -> bool:
    """Whether there is no such process, and nobody has to look after it any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Contract:
    """What every sealer does."""

    sealer: Sealer
    folder: Path

    def seal(self, order: Order) -> Deferred[Sealed]:
        return as_deferred(self.sealer.seal(order))

    async def test_a_file_becomes_a_segment_and_stays(self: Any) -> None:
        answer = await self.seal(order(self.folder))
        manifest = answer.manifest
        self.assertEqual((manifest.first, manifest.last, manifest.rows, manifest.from_ms), (5, 7, 3, T))
        for name in (open_name(5), sealed_name((5, 7), PARQUET), sealed_name((5, 7), MANIFEST)):
            self.assertTrue((self.folder / name).exists(), name)
        self.assertEqual(len(list(self.folder.iterdir())), 3)

    async def test_asked_again_it_answers_the_same_and_does_it_once(self: Any) -> None:
        given = order(self.folder)
        one = await self.seal(given)
        before = (self.folder / sealed_name((5, 7), PARQUET)).stat()
        self.assertEqual(await self.seal(given), one)
        self.assertEqual((self.folder / sealed_name((5, 7), PARQUET)).stat(), before)

    async def test_what_it_cannot_do_is_one_line_and_the_next_order_is_done(self: Any) -> None:
        given = order(self.folder)
        (self.folder / open_name(5)).unlink()
        error = await self.assertFailure(self.seal(given), LocalError)
        self.assertIn(open_name(5), str(error))
        self.assertNotIn("\n", str(error))
        self.assertIsNotNone((await self.seal(order(self.folder))).manifest)

    async def test_orders_are_done_one_after_the_other(self: Any) -> None:
        given = [order(self.folder, first=first) for first in (1, 11, 21)]
        answers = [await each for each in [self.seal(each) for each in given]]
        self.assertEqual([each.manifest.first for each in answers], [1, 11, 21])

    async def test_a_folder_may_have_any_name(self: Any) -> None:
        folder = self.folder / "it's [a] * {b}?"
        self.folder.mkdir()
        self.assertEqual((await self.seal(order(folder))).manifest.rows, 3)


class HereTests(Contract, TestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.sealer = Here()


class ProcessTests(Contract, TestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.sealer = self.process = SealerProcess(REACTOR, 60)
        self.addCleanup(lambda: as_deferred(self.process.stop()))

    def another(self, **settings: Any) -> SealerProcess:
        """A sealer that is of its own kind."""
        process = SealerProcess(REACTOR, **{"deadline_s": 60, **settings})
        self.addCleanup(lambda: as_deferred(process.stop()))
        self.sealer = process
        return process

    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    async def test_one_that_was_killed_is_started_again(self) -> None:
        await self.seal(order(self.folder))
        first = self.pid()
        os.kill(first, signal.SIGSTOP)
        asked = self.seal(order(self.folder, first=11))
        os.kill(first, signal.SIGKILL)
        await self.assertFailure(asked, LocalError)
        self.assertIsNotNone((await self.seal(order(self.folder, first=11))).manifest)
        self.assertNotEqual(self.pid(), first)

    async def test_one_that_is_late_is_ended(self) -> None:
        await self.seal(order(self.folder))
        late = self.pid()
        self.process._deadline_s = 0.05
        os.kill(late, signal.SIGSTOP)
        await self.assertFailure(self.seal(order(self.folder, first=11)), TimedOut)
        self.assertRaises(ProcessLookupError, os.kill, late, 0)
        self.process._deadline_s = 60
        self.assertIsNotNone((await self.seal(order(self.folder, first=11))).manifest)

    async def test_one_that_was_late_gets_twice_as_long_up_to_eight_times(self) -> None:
        """A file of long lines, on a machine that is slow and busy, would never be sealed."""
        process = self.another(deadline_s=0.02, command=("/bin/sh", "-c", "exec sleep 600"))
        for seconds in ("0.02", "0.04", "0.08", "0.16", "0.16"):
            error = await self.assertFailure(self.seal(order(self.folder)), TimedOut)
            self.assertIn(f"within {seconds} s", str(error))
        answer = encode(Sealed()).decode()
        process._process._command = ["/bin/sh", "-c", f"read line; echo '{answer}'; exec sleep 600"]
        process._deadline_s = 60
        await self.seal(order(self.folder))
        process._deadline_s = 0.02
        error = await self.assertFailure(self.seal(order(self.folder)), TimedOut)
        self.assertIn("within 0.02 s", str(error))

    async def test_one_that_answers_rubbish_is_ended(self) -> None:
        process = self.another(command=("/bin/cat",))
        error = await self.assertFailure(self.seal(order(self.folder)), Invalid)
        self.assertIn("answer of the sealer", str(error))
        self.assertIsNone(process.pid)

    async def test_one_that_answers_without_end_is_ended(self) -> None:
        process = self.another(command=("/bin/sh", "-c", "read line; exec cat /dev/zero"))
        error = await self.assertFailure(self.seal(order(self.folder)), PeerError)
        self.assertIn("the answer of the sealer has more than", str(error))
        self.assertIsNone(process.pid)

    async def test_one_that_does_not_start_says_why(self) -> None:
        self.another(command=("/bin/sh", "-c", "echo first >&2; echo no such thing >&2; exit 3"))
        error = await self.assertFailure(self.seal(order(self.folder)), LocalError)
        self.assertEqual(str(error), "the sealer has ended: exit status 3: no such thing")

    async def test_one_without_work_ends(self) -> None:
        process = self.another(idle_s=0.01)
        await self.seal(order(self.folder))
        pid = process.pid
        assert pid is not None
        await eventually("it is gone", lambda: gone(pid))
        self.assertIsNone(process.pid)
        self.assertIsNotNone((await self.seal(order(self.folder, first=11))).manifest)

    async def test_one_without_work_that_does_not_end_is_ended_when_there_is_work_and_at_the_end(self) -> None:
        answer = encode(Sealed()).decode()
        says = f"read line; echo '{answer}'; exec sleep 600"
        process = self.another(idle_s=0.0, command=("/bin/sh", "-c", says))
        stubborn = []
        for _ in range(2):
            asking = self.seal(order(self.folder))
            assert process.pid is not None
            stubborn.append(process.pid)
            await asking
            await eventually("it is left alone", lambda: process.pid is None)
            self.assertFalse(gone(stubborn[-1]))
        await eventually("the first is gone", lambda: gone(stubborn[0]))
        await process.stop()
        self.assertTrue(gone(stubborn[1]))
