"""One session for each service engine: what becomes of a second login, and who answers for whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from avinet.aio import as_deferred
from avinet.controller.sessions import ENGINE_USER, Session, Sessions
from avinet.enrolment.directory import Login
from avinet.errors import Forbidden, Unavailable
from tests.ssh.tunnels import Tunnels


class Named(Resource):
    """Says whose it is, and what it was told before."""

    isLeaf = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def render_GET(self, request: Any) -> bytes:
        request.setHeader("set-cookie", f"owner={self.name}")
        asked = request.getHeader("cookie") or "no cookie"
        return f"{self.name}, {request.getHeader('host')}, {asked}".encode()


class SessionCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.keys = {f"key of {id}": Login(id, 1, f"print of {id}") for id in ("se-1", "se-2")}
        self.alarms: list[tuple[str, str, str]] = []
        self.gone: list[str] = []
        self.tunnels: list[Tunnels] = []
        first = self.tunnel("se-1")
        self.sessions = Sessions(
            first.clock,
            self,
            alarm=lambda *alarm: self.alarms.append(alarm),
            ready=lambda session: None,
            gone=lambda session: self.gone.append(session.id),
        )
        self.old = self.open("se-1", first)

    def login(self, public_key: str) -> Login | None:
        return self.keys.get(public_key)

    def tunnel(self, id: str) -> Tunnels:
        """A tunnel of a service engine that answers with its name."""
        tunnels = Tunnels()
        site = Site(Named(id), reactor=tunnels.clock, timeout=None)  # type: ignore[arg-type]
        site.noisy = False
        site.log = lambda request: None  # type: ignore[method-assign]
        tunnels.client_services["control:80"] = site
        self.successResultOf(tunnels.offer("control:80"))
        self.tunnels.append(tunnels)
        self.addCleanup(self.end, id, tunnels)
        return tunnels

    def end(self, id: str, tunnels: Tunnels) -> None:
        session = self.sessions.find(id)
        if session is not None and session.tunnel is tunnels.server:
            self.sessions.cut(id, "the test is over")
            self.settle()
        tunnels.close()

    def open(self, id: str, tunnels: Tunnels) -> Session:
        session = self.sessions.opened(self.keys[f"key of {id}"], tunnels.server, f"peer of {id}")
        self.sessions.offered(session, "control:80")
        self.settle()
        return session

    def settle(self) -> None:
        for each in self.tunnels:
            each.settle()

    def admit(self, id: str, user: str = ENGINE_USER) -> Any:
        return as_deferred(self.sessions.admit(user, f"key of {id}", "198.51.100.9:4000"))


class LineTests(SessionCase):
    """Who comes back when (the slot of a hello's answer)."""

    def test_a_single_one_comes_back_at_once_and_others_after_it(self) -> None:
        other = self.open("se-2", self.tunnel("se-2"))
        self.assertEqual([self.sessions.slot_s(each) for each in (self.old, other)], [0, 1 / 300])

    def test_a_place_that_was_left_is_the_next_ones(self) -> None:
        self.sessions.cut("se-1", "a test")
        self.assertEqual(self.sessions.slot_s(self.open("se-2", self.tunnel("se-2"))), 0)


class OwnerTests(SessionCase):
    def of(self, session: Session) -> Session:
        session.tunnel.identity = replace(session.tunnel.identity, admitted=session.login)
        return self.sessions.of(session.tunnel)

    def test_a_tunnel_has_the_session_that_it_was_opened_for(self) -> None:
        self.assertIs(self.of(self.old), self.old)

    def test_a_tunnel_that_another_one_replaced_has_none(self) -> None:
        new = self.open("se-1", self.tunnel("se-1"))
        self.assertRaises(Unavailable, self.of, self.old)
        self.assertIs(self.of(new), new)

    def test_one_that_has_come_back_cannot_be_asked_before_it_offers_that(self) -> None:
        tunnels = self.tunnel("se-1")
        session = self.sessions.opened(self.keys["key of se-1"], tunnels.server, "a peer")
        self.assertRaises(Unavailable, self.sessions.control, session)
        self.sessions.offered(session, "control:80")
        self.assertIsNotNone(self.sessions.control(session))

    def test_a_client_that_was_hung_up_is_made_again(self) -> None:
        before = self.sessions.control(self.old)
        self.assertIs(self.sessions.control(self.old), before)
        self.sessions.hang_up(self.old)
        self.assertIsNot(self.sessions.control(self.old), before)


class SecondLoginTests(SessionCase):
    """The same key again: after a power cut, and from a copy (S32)."""

    def test_a_tunnel_that_answers_stays_and_the_copy_is_an_alarm(self) -> None:
        for number in range(1, 4):
            admitting = self.admit("se-1")
            self.settle()
            error = self.failureResultOf(admitting, Unavailable).value
            self.assertIn("has a live tunnel", str(error))
            self.assertGreaterEqual(error.retry_after_s, 60)
            self.assertEqual(self.alarms, [("clone", "se-1", "198.51.100.9:4000")] * number)
            self.assertIs(self.sessions.get("se-1"), self.old)
            self.assertFalse(self.old.tunnel.lost)

    def test_a_tunnel_that_is_silent_makes_way_after_two_seconds_without_an_alarm(self) -> None:
        admitting = self.admit("se-1")
        self.sessions._clock.advance(1.9)  # type: ignore[attr-defined]
        self.assertNoResult(admitting)
        self.assertIs(self.sessions.find("se-1"), self.old)
        self.sessions._clock.advance(0.2)  # type: ignore[attr-defined]
        self.assertEqual(self.successResultOf(admitting), self.keys["key of se-1"])
        self.assertEqual((self.alarms, self.gone), ([], ["se-1"]))
        self.settle()
        self.assertTrue(self.old.tunnel.lost)
        new = self.open("se-1", self.tunnel("se-1"))
        self.assertIs(self.sessions.get("se-1"), new)
        self.assertEqual(self.gone, ["se-1"])

    def test_two_copies_at_once_are_looked_at_one_after_the_other(self) -> None:
        first, second = self.admit("se-1"), self.admit("se-1")
        self.failureResultOf(second, Unavailable)
        self.settle()
        self.failureResultOf(first, Unavailable)
        self.assertEqual(len(self.alarms), 1)

    def test_a_copy_that_goes_while_the_old_tunnel_is_probed_leaves_everything_as_it_was(self) -> None:
        admitting = self.admit("se-1")
        admitting.cancel()
        self.failureResultOf(admitting)
        self.settle()
        self.assertEqual(self.alarms, [])
        self.assertIs(self.sessions.get("se-1"), self.old)
        again = self.admit("se-1")
        self.settle()
        self.failureResultOf(again, Unavailable)

    def test_a_key_that_is_revoked_while_it_logs_in_is_not_let_in(self) -> None:
        admitting = self.admit("se-1")
        del self.keys["key of se-1"]
        self.sessions._clock.advance(2.1)  # type: ignore[attr-defined]
        self.failureResultOf(admitting, Forbidden)

    def test_another_service_engine_does_not_wait(self) -> None:
        self.admit("se-1").addErrback(lambda failure: None)
        self.assertEqual(self.successResultOf(self.admit("se-2")).id, "se-2")

    def test_the_key_of_a_service_engine_is_no_other_user_s(self) -> None:
        """(S16)"""
        for user in ("avictlruser", "root", ""):
            self.assertFalse(self.sessions.known(user, "key of se-1"))
            self.failureResultOf(self.admit("se-1", user), Forbidden)


class OwnAnswerTests(SessionCase):
    """Two service engines have the same name for HTTP, and never the same connection (H13)."""

    def ask(self, session: Session) -> Any:
        asking = as_deferred(self.sessions.control(session).request("GET", "/"))
        self.settle()
        return asking

    def test_each_answers_for_itself_however_they_are_asked(self) -> None:
        sessions = {"se-1": self.old, "se-2": self.open("se-2", self.tunnel("se-2"))}
        for id in ("se-1", "se-2", "se-2", "se-1", "se-1", "se-2"):
            self.assertEqual(self.successResultOf(self.ask(sessions[id])).body, f"{id}, control, no cookie".encode())
        asking = [
            (id, as_deferred(self.sessions.control(sessions[id]).request("GET", "/"))) for id in ("se-1", "se-2") * 4
        ]
        self.settle()
        for id, each in asking:
            self.assertTrue(self.successResultOf(each).body.startswith(id.encode()))

    def test_a_new_tunnel_of_the_same_service_engine_is_asked_anew(self) -> None:
        self.successResultOf(self.ask(self.old))
        other = self.tunnel("se-1 of another boot")
        new = self.open("se-1", other)
        self.assertTrue(self.successResultOf(self.ask(new)).body.startswith(b"se-1 of another boot"))
        self.failureResultOf(self.ask(self.old), Unavailable)

    def test_nothing_is_left_of_a_session_s_connections(self) -> None:
        self.successResultOf(self.ask(self.old))
        self.assertEqual(self.old.tunnel.channels, 1, "one is kept for the next request")
        self.sessions.cut("se-1", "the test")
        self.settle()
        self.assertEqual(self.old.tunnel.channels, 0)
        self.assertEqual(self.tunnels[0].clock.getDelayedCalls(), [])
