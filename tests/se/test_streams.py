"""A job through the `control` service, node and service engine joined in memory: streamed, ended, asked for again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import CANCELLED, Tasks, as_deferred
from avinet.controller.errands import LOOK_S, Errand
from avinet.errors import Invalid, Unauthenticated
from avinet.feed import Feed
from avinet.rest.client import Client
from avinet.rest.door import Door
from avinet.rest.route import Request
from avinet.rest.table import Table
from avinet.se.commands import Console
from avinet.se.control import control_routes
from avinet.se.jobs import Journal
from avinet.se.runs import Runs, told
from avinet.wire.command import CommandEvent, CommandRequest, Ended, OutputRequest
from avinet.wire.message import decode
from tests.rest.test_door import Endpoint, Network
from tests.se.test_runs import at_once

JOB = "job-00000001"


class Engine:
    """The part of a service engine that runs jobs; what it prints is what the test says."""

    def __init__(self, clock: Clock, folder: Path, tasks: Tasks) -> None:
        self.runs = Runs(clock, Journal(folder / "jobs", at_once), folder / "output", at_once, tasks)
        self.requests: list[CommandRequest] = []
        self.console: Any = None
        self.end: Deferred[Ended] = Deferred()

    async def command(self, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        async def execute(console: Console) -> Ended:
            self.requests.append(request)
            self.console = console
            return await self.end

        return told(await self.runs.start(request.job, execute), 0)

    async def output(self, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        return told(await self.runs.find(job, after), after)

    def cancel(self, job: str) -> None:
        self.runs.cancel(job)


class Trust:
    """Believes everybody, or nobody."""

    believes = True

    def check(self, request: Request) -> str:
        if not self.believes:
            raise Unauthenticated("nobody")
        return "node-1"


class Node:
    """The node's end; see `avinet.controller.errands.Asking`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def _events(self, path: str, body: Any) -> AsyncGenerator[CommandEvent, None]:
        lines = self._client.lines("POST", path, body)
        try:
            async for line in lines:
                yield decode(line, CommandEvent, limit_bytes=10**6)  # type: ignore[arg-type]
        finally:
            await lines.aclose()

    def run(self, engine_id: str, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        return self._events("/v1/commands", request)

    def output(self, engine_id: str, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        return self._events(f"/v1/commands/{job}/output", OutputRequest(after=after))

    async def end(self, engine_id: str, job: str) -> None:
        await self._client.request("POST", f"/v1/commands/{job}/end")


class StreamTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.tasks, self.trust = Clock(), Tasks(), Trust()
        self.addCleanup(self.tasks.stop)
        folder = Path(self.mktemp())
        folder.mkdir()
        self.engine: Any = Engine(self.clock, folder, self.tasks)
        door = Door(self.clock, Table(control_routes(self.engine, self.trust)), tasks=self.tasks)
        self.network = Network(self.clock, door)
        client = Client(self.clock, Endpoint(self.network), authority="control", where="service engine se-1")
        request = CommandRequest(job=JOB, command="follow", operator="ann", timeout_s=100)
        self.feed = Feed(self.clock)
        self.errand = Errand(self.clock, self.tasks, Node(client), lambda id: True, "se-1", request, self.feed)

    def begin(self) -> Deferred[None]:
        running = as_deferred(self.errand.run())
        running.addErrback(lambda failure: failure.trap(*CANCELLED))
        self.addCleanup(running.cancel)
        self.network.pump()
        return running

    def print(self, data: bytes, error: bool = False) -> None:
        (self.engine.console.write_error if error else self.engine.console.write)(data)
        self.network.pump()

    def cut(self) -> None:
        """The tunnel is lost, with all its channels."""
        pumps, self.network.pumps = self.network.pumps, []
        for pump in pumps:
            pump.serverIO.abortConnection()
            pump.clientIO.abortConnection()
            pump.flush()

    def end(self, ended: Ended) -> None:
        self.engine.end.callback(ended)
        self.network.pump()

    @property
    def printed(self) -> tuple[str, str]:
        return self.feed.transcript.texts()

    def test_what_is_printed_there_is_here_before_the_end(self) -> None:
        running = self.begin()
        self.print(b"one\n")
        self.assertEqual(self.printed, ("one\n", ""))
        self.print(b"two\n", error=True)
        self.assertEqual(self.printed, ("one\n", "two\n"))
        self.assertNoResult(running)
        self.end(Ended(exit_status=3))
        self.successResultOf(running)
        self.assertEqual((self.errand.outcome, self.errand.ended), ("done", Ended(exit_status=3)))
        self.assertEqual(self.engine.requests[0].timeout_s, 100)

    def test_it_is_ended_from_here(self) -> None:
        running = self.begin()
        self.errand.cancel()
        self.network.pump()
        self.successResultOf(running)
        self.assertEqual(self.errand.ended, Ended(exit_status=143, signal="TERM"))
        self.assertEqual(len(self.tasks), 0)

    def test_cut_in_the_middle_the_rest_is_asked_for_and_nothing_comes_twice(self) -> None:
        running = self.begin()
        self.print("é1".encode())
        self.cut()
        self.print(b"2")
        self.clock.advance(LOOK_S)
        self.network.pump()
        self.print(b"3")
        self.cut()
        self.end(Ended(exit_status=0))
        self.assertNoResult(running)
        self.clock.advance(LOOK_S)
        self.network.pump()
        self.successResultOf(running)
        self.assertEqual((self.printed[0], self.errand.outcome, len(self.engine.requests)), ("é123", "done", 1))

    def test_without_a_signature_that_is_believed_nothing_runs(self) -> None:
        self.trust.believes = False
        self.successResultOf(self.begin())
        self.assertEqual((self.engine.requests, self.errand.ended), ([], None))
        for request in (
            self.errand._asking.output("se-1", JOB, 0).__anext__(),
            self.errand._asking.end("se-1", JOB),
        ):

            async def ask(request: Any = request) -> None:
                await request

            asked = as_deferred(ask())
            self.network.pump()
            self.failureResultOf(asked, Unauthenticated)

    def test_more_than_was_printed_is_not_asked_for(self) -> None:
        self.begin()
        self.print(b"one")

        async def ask(after: int) -> CommandEvent:
            return await self.errand._asking.output("se-1", JOB, after).__anext__()

        for after, refused in ((3, False), (4, True), (1 << 40, True)):
            asked = as_deferred(ask(after))
            self.network.pump()
            if refused:
                self.failureResultOf(asked, Invalid)
            else:
                self.successResultOf(asked)

    def test_what_prints_there_waits_for_who_reads_here(self) -> None:
        self.begin()
        server: Any = self.network.pumps[0].server
        server.pauseProducing()
        producer = Paused()
        self.engine.console.registerProducer(producer, True)
        for _ in range(100):
            if producer.paused:
                break
            self.print(bytes(8192))
        self.assertTrue(producer.paused)
        server.resumeProducing()
        for _ in range(10):
            self.network.pump()
        self.assertFalse(producer.paused)

    def test_an_answer_that_is_lost_before_it_begins_is_no_second_run(self) -> None:
        """The request came there; its answer, and the tunnel, are lost."""
        running = as_deferred(self.errand.run())
        pump = self.network.pumps[0]
        pump.server.dataReceived(pump.clientIO.getOutBuffer())
        self.assertEqual(len(self.engine.requests), 1)
        self.cut()
        self.assertNoResult(running)
        self.print(b"one")
        self.clock.advance(LOOK_S)
        self.network.pump()
        self.end(Ended(exit_status=0))
        self.successResultOf(running)
        self.assertEqual((self.errand.outcome, self.printed[0], len(self.engine.requests)), ("done", "one", 1))

    def test_a_request_that_is_lost_on_its_way_never_runs(self) -> None:
        running = as_deferred(self.errand.run())
        late = self.network.pumps[0].clientIO.getOutBuffer()
        self.cut()
        self.clock.advance(LOOK_S)
        self.network.pump()
        self.successResultOf(running)
        self.assertEqual(self.errand.outcome, "unreachable")
        channel = self.network.factory.buildProtocol(None)
        channel.makeConnection(StringTransport())
        channel.dataReceived(late)
        self.assertEqual(self.engine.requests, [], "it comes after all, through the tunnel that was lost")


class Paused:
    """What prints, and is paused."""

    paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
