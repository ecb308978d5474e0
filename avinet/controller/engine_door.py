"""What a service engine finds on a node, through its tunnel: `control` and `reports`; its identity is its session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avinet.config.desired import Desired
from avinet.config.distribute import Distributor
from avinet.controller.certificates.supply import Supply
from avinet.controller.greetings import Greetings
from avinet.controller.sessions import Session
from avinet.enrolment.rotation import Rotations
from avinet.errors import Conflict, NotFound
from avinet.flow.allowance import Allowance
from avinet.rest.route import Reply, Request, Route
from avinet.telemetry.counted import Counted, uncounted
from avinet.telemetry.fleet import Fleet
from avinet.wire.config import ConfigPush
from avinet.wire.report import REPORT_LIMIT_BYTES, Report
from avinet.wire.session import HELLO_LIMIT_BYTES, Hello, HelloReply, KeyRotation
from avinet.wire.trust import SignedTrust

HELLOS, NEW_KEYS = 30, 5
"""How many hellos and changes of its key a service engine may have at once; then it is one a second, and a minute."""
BURST, PER_S = 30, 1.0
"""How many reports of a service engine are looked at, at once and in the long run; others are sent again."""


def control_routes(
    desired: Desired,
    greetings: Greetings,
    rotations: Rotations,
    trust: Callable[[], SignedTrust],
    now: Callable[[], float],
) -> Sequence[Route]:
    """The routes of `control`: hello, trust, configuration, another key."""

    hellos = Allowance(now, burst=HELLOS, per_s=1.0)
    new_keys = Allowance(now, burst=NEW_KEYS, per_s=1 / 60)

    async def hello(request: Request) -> Reply:
        hellos.take(request.identity.id)
        return Reply(200, await greetings.hello(request.identity, request.decoded(Hello)))

    async def show_trust(request: Request) -> Reply:
        return Reply(200, trust())

    async def configuration(request: Request) -> Reply:
        push = desired.push(request.identity.id)
        if push is None:
            raise NotFound("nothing is desired of this service engine yet")
        etag = f'"{push.version.revision}"'
        if request.headers.get("if-none-match") == etag:
            return Reply(304, headers={"etag": etag})
        return Reply(200, push, {"etag": etag})

    async def rotate(request: Request) -> Reply:
        session: Session = request.identity
        if session.hello is None:
            raise Conflict("who changes its key says hello first")
        new_keys.take(session.id)
        await rotations.rotate(session.login, request, session.peer)
        return Reply(204)

    return [
        Route("POST", "/v1/key", rotate, "Change its key", KeyRotation, status=204),
        Route(
            "PUT",
            "/v1/session",
            hello,
            "The first request of a service engine",
            Hello,
            HelloReply,
            limit_bytes=HELLO_LIMIT_BYTES,
        ),
        Route("GET", "/v1/trust", show_trust, "The trust document", gives=SignedTrust),
        Route("GET", "/v1/configuration", configuration, "What it should run", gives=ConfigPush),
    ]


def report_routes(
    fleet: Fleet,
    counted: Counted,
    distributor: Distributor,
    supply: Supply,
    reported: Callable[[str, Report, bool], None],
    now: Callable[[], float],
) -> Sequence[Route]:
    """The routes of `reports`; each one is also given to `reported`, with the id of who says it, and whether it is new.

    Of one that was `counted` already only the state is looked at.
    """
    allowance = Allowance(now, burst=BURST, per_s=PER_S)

    async def report(request: Request) -> Reply:
        session: Session = request.identity
        allowance.take(session.id)
        said = request.decoded(Report)
        is_new = counted.is_new(session.id, said.boot, said.seq)
        if not is_new:
            said = uncounted(said)
        fleet.take(session.id, said, now())
        if said.certificates is not None:
            supply.said(session.id, said.certificates)
            distributor.reconsider(session.id)
        if said.config is not None:
            distributor.said(session.id, said.config, said.boot)
        reported(session.id, said, is_new)
        return Reply(204)

    return [
        Route("POST", "/v1/reports", report, "One report", Report, status=204, limit_bytes=REPORT_LIMIT_BYTES),
    ]
