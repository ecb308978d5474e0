"""What operators ask for over REST while documents are rolled out, and what they are answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from avinet.controller.api.configuration import configuration_routes
from avinet.controller.api.rollouts import rollout_routes
from avinet.errors import Conflict, Invalid, NotFound, Precondition
from avinet.rest.route import Request
from avinet.rest.table import Table
from avinet.wire.fleet import DocumentList
from avinet.wire.message import encode
from avinet.wire.rollout import Promotion, Rollout, RolloutOrder, RolloutPlan
from tests.config.making import fired, web
from tests.controller.rolling import FleetCase

PLAN = RolloutPlan(batches=("1",), observe_s=1000)


class RouteTests(FleetCase):
    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The answer, as soon as there is one."""
        place, _, query = path.partition("?")
        node: Any = SimpleNamespace(documents=self.node.documents, rollouts=self.node.driver)
        route, arguments = Table([*configuration_routes(node), *rollout_routes(node)]).match(method, place)  # type: ignore[misc]
        request = Request(
            method=method,
            path=place,
            target=path,
            authority="node",
            arguments=arguments,
            query=dict(each.split("=") for each in query.split("&") if each),
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            repeated=frozenset(),
            body=b"" if body is None else encode(body),
            peer="",
            identity="bob",
            limit_bytes=route.limit_bytes,
        )
        answered = fired(route.answer(request))
        self.settle()
        return answered

    def asked(self, *given: Any, **headers: str) -> Any:
        reply = self.successResultOf(self.ask(*given, **headers))
        self.assertIn(reply.status, (200, 202, 204))
        return reply.body

    def refused(self, kind: type[Exception], *given: Any, **headers: str) -> str:
        return str(self.failureResultOf(self.ask(*given, **headers), kind).value)

    def begin(self, port: int = 81, **fields: Any) -> Any:
        return self.asked("POST", "/v1/rollouts", RolloutOrder(document=web("web", port), plan=PLAN, **fields))

    def test_it_is_begun_shown_and_ended_by_whom_the_kernel_names(self) -> None:
        begun = self.begin()
        self.assertEqual((begun.name, begun.version, begun.changed, begun.service_engines), ("web", 2, True, 10))
        self.run_until(lambda: self.shown().phase == "observing")
        found: Rollout = self.asked("GET", "/v1/rollouts/web")
        self.assertEqual((found.author, found.batch, found.opened, found.well), ("bob", 1, 1, 1))
        self.assertEqual(self.asked("GET", "/v1/rollouts").items, [found])
        self.assertEqual(msgspec.json.decode(encode(found), type=Rollout), found)
        self.assertEqual(self.asked("POST", "/v1/rollouts/web/pause").state, "paused")
        self.assertEqual(self.asked("POST", "/v1/rollouts/web/resume").state, "running")
        self.asked("POST", "/v1/rollouts/web/promote", Promotion())
        self.run_for(2)
        self.assertEqual(len(self.serving(81)), 10)
        ended: Rollout = self.asked("POST", "/v1/rollouts/web/abort")
        self.assertEqual((ended.state, ended.by, ended.why), ("rolled-back", "bob", "by bob"))
        for what in ("pause", "resume", "abort"):
            self.refused(Conflict, "POST", f"/v1/rollouts/web/{what}")
            self.refused(NotFound, "POST", f"/v1/rollouts/other/{what}")
            self.refused(Invalid, "POST", f"/v1/rollouts/NO/{what}")

    def test_only_who_says_force_changes_what_is_rolled_out(self) -> None:
        self.begin()
        put, order = ("PUT", "/v1/configurations/web", web("web", 82)), RolloutOrder(document=web("web", 82), plan=PLAN)
        self.assertIn("is being rolled out", self.refused(Conflict, *put))
        self.refused(Conflict, "PUT", "/v1/configurations/web?force=0", web("web", 82))
        self.refused(Invalid, "PUT", "/v1/configurations/web?force=yes", web("web", 82))
        self.refused(Conflict, "POST", "/v1/rollouts", order)
        self.refused(Conflict, "DELETE", "/v1/configurations/web")
        self.refused(Precondition, "POST", "/v1/rollouts", msgspec.structs.replace(order, force=True), if_match='"1"')
        self.begin(82, force=True)
        self.assertEqual(self.asked("GET", "/v1/rollouts/web").version, 3)
        self.asked("PUT", "/v1/configurations/web?force=1", web("web", 83))
        self.run_for(2)
        self.assertEqual(len(self.serving(83)), 10)
        self.assertEqual(self.asked("GET", "/v1/rollouts/web").state, "superseded")
        self.begin(84)
        self.asked("DELETE", "/v1/configurations/web?force=1")
        self.run_for(2)
        self.assertEqual({id for id, engine in self.engines.items() if self.ports(engine)}, set())

    def test_lists_and_histories_say_that_it_is_under_way(self) -> None:
        self.apply(web("other", 90))
        self.begin()
        self.run_for(2)
        for path in ("/v1/configurations", "/v1/configurations/web/versions"):
            found: DocumentList = self.asked("GET", path)
            self.assertEqual([(each.name, each.state) for each in found.rollouts], [("web", "running")])
        self.assertEqual(self.asked("GET", "/v1/configurations/other/versions").rollouts, [])

    def test_an_answer_waits_until_there_is_something_new(self) -> None:
        self.begin()
        self.run_until(lambda: self.shown().phase == "observing")
        tag = self.asked("GET", "/v1/rollouts/web").tag
        waiting = self.ask("GET", f"/v1/rollouts/web?seen={tag}&wait_s=20")
        self.run_for(3)
        self.assertNoResult(waiting)
        self.asked("POST", "/v1/rollouts/web/pause")
        self.assertEqual(self.successResultOf(waiting).body.state, "paused")
        self.refused(Invalid, "GET", "/v1/rollouts/web?wait_s=31")
