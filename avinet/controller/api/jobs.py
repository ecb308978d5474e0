"""Commands on service engines."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.controller.api.pages import PAGE, PAGED
from avinet.controller.node import Node
from avinet.errors import NotFound
from avinet.rest.route import Reply, Request, Route
from avinet.rest.streaming import Streamed
from avinet.wire.command import CommandResult
from avinet.wire.fleet import CommandRun
from avinet.wire.jobs import Job, JobEvent, JobList, JobOrder, JobResults

LONGEST_WAIT_S = 30


class JobsApi:
    """What operators run, and what became of it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def command(self, request: Request) -> Reply:
        """Run a command on it, and wait for the answer."""
        run, id = request.decoded(CommandRun), self._node.directory.require(request.arguments["id"]).id
        order = JobOrder(command=run.command, arguments=run.arguments, ids=[id], timeout_s=run.timeout_s)
        return Reply(200, await self._node.jobs.one(order, id, request.identity))

    async def begin_job(self, request: Request) -> Reply | Streamed:
        """Begin a command on several, and follow it where that is asked for."""
        order = request.decoded(JobOrder)
        if request.number("follow", 0, 1):
            targets = self._node.orders.targets(order)
            return Streamed(await self._node.jobs.begin_followed(order, targets, request.identity))
        return Reply(202, await self._node.jobs.begin(order, self._node.orders.targets(order), request.identity))

    async def jobs(self, request: Request) -> Reply:
        """The jobs, the latest first."""
        limit = request.number("limit", 50, PAGE) or 1
        return Reply(200, await self._node.jobs.latest(limit=limit, before=request.query.get("after", "")))

    async def job(self, request: Request) -> Reply:
        """A job, and its results behind a number."""
        after, wait_s = request.number("after", 0, 10**6), request.number("wait_s", 0, LONGEST_WAIT_S)
        return Reply(200, await self._node.jobs.results(_job(request), after, wait_s))

    async def output(self, request: Request) -> Streamed:
        """A job while it runs, from its beginning or from now on."""
        from_now = bool(request.number("from_now", 0, 1))
        return Streamed(await self._node.jobs.follow(_job(request), from_now=from_now))

    async def cancel_job(self, request: Request) -> Reply:
        """Begin no more of a job, and end what runs."""
        self._node.jobs.cancel(_job(request))
        return Reply(204)


def _job(request: Request) -> str:
    id = request.arguments["id"]
    if len(id) > 64 or not id.isascii():
        raise NotFound("there is no such job", hint="see avictl jobs")
    return id


def job_routes(node: Node) -> Sequence[Route]:
    """The routes of commands."""
    do, command = JobsApi(node), "/v1/service-engines/<id>/commands"
    return [
        Route("POST", command, do.command, "Run a command on it", CommandRun, CommandResult),
        Route(
            "POST",
            "/v1/jobs",
            do.begin_job,
            "Begin one on several; with follow=1 the answer is that of its output",
            JobOrder,
            Job,
            status=202,
            limit_bytes=10**6,
            query=("follow",),
            streams=JobEvent,
        ),
        Route("GET", "/v1/jobs", do.jobs, "The jobs, the latest first", gives=JobList, query=PAGED),
        Route("GET", "/v1/jobs/<id>", do.job, "A job and its results", gives=JobResults, query=("after", "wait_s")),
        Route("GET", "/v1/jobs/<id>/output", do.output, "A job while it runs", query=("from_now",), streams=JobEvent),
        Route("POST", "/v1/jobs/<id>/cancellation", do.cancel_job, "Begin no more of it, and end it", status=204),
    ]
