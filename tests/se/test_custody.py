"""Certificates of a service engine: what is taken, refused, kept, served and forgotten, and what its nodes hear of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.errors import Invalid, LocalError, Unavailable
from avinet.se import custody as custody_module
from avinet.se.custody import GRACE_S, Custody
from avinet.se.keystore import Keystore
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.certificates import CertificateState
from tests.issuing import Issuer
from tests.se.delivery import material, naming, of_another, push_of


class Plane:
    """A data plane that serves what it is given, unless it is `broken`; `ready` may be waited for."""

    def __init__(self) -> None:
        self.served: dict[str, ServerCertificate] = {}
        self.broken: Exception | None = None
        self.ready: Deferred[None] = succeed(None)

    async def take_certificate(self, name: str, certificate: ServerCertificate) -> None:
        await self.ready
        if self.broken is not None:
            raise self.broken
        self.served[name] = certificate

    def drop_certificate(self, name: str) -> None:
        del self.served[name]


class CustodyTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.issuer = Clock(), Issuer()
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.disk: Exception | None = None
        self.changes = 0
        self.tasks = Tasks()
        self.booted()
        self.addCleanup(lambda: self.custody.stop())

    def booted(self) -> None:
        """A service engine that has just started, on the same disk."""
        self.plane = Plane()
        self.custody = Custody(self.clock, Keystore(self.state), self.plane, self.in_thread, self.tasks, self.changed)
        self.successResultOf(ensureDeferred(self.custody.start()))

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        if self.disk is not None and "lay_out" in call.__code__.co_names:
            raise self.disk
        return succeed(call())

    def changed(self) -> None:
        self.changes += 1

    def take(self, *delivered: Any) -> CertificateState:
        return self.successResultOf(ensureDeferred(self.custody.take(push_of(*delivered))))

    def made(self, name: str, revision: int) -> Any:
        return material(name, revision, self.issuer.serve(f"{name}.example"))

    def refused(self, delivered: Any) -> str:
        """Why it is not taken."""
        state = self.take(delivered)
        found = [each for each in state.refused if each.version == delivered.version]
        self.assertEqual(len(found), 1)
        self.assertNotIn(delivered.version, state.held)
        return found[0].reason

    def holds(self, *delivered: Any) -> None:
        """By its word, in its data plane, and after a reboot."""
        self.assertEqual(self.custody.state.held, [each.version for each in delivered])
        self.assertEqual(
            {name: each.key_pem for name, each in self.plane.served.items()},
            {each.version.name: each.key for each in delivered},
        )

    def test_what_is_delivered_is_held_served_and_there_after_a_reboot(self) -> None:
        api, shop = self.made("api", 4), self.made("shop", 3)
        state = self.take(shop, api)
        self.assertEqual(state, CertificateState(held=[api.version, shop.version]))
        self.holds(api, shop)
        self.booted()
        self.holds(api, shop)
        self.assertEqual(self.changes, 1)

    def test_a_newer_version_takes_the_place_of_one_and_an_older_one_does_not(self) -> None:
        self.take(self.made("shop", 3))
        newer, older = self.made("shop", 5), self.made("shop", 4)
        self.take(newer)
        self.assertIn("revision 4 is older than 5", self.refused(older))
        self.holds(newer)
        self.assertEqual(self.take(newer).refused, [])

    def test_what_is_held_already_is_not_served_again(self) -> None:
        shop = self.made("shop", 3)
        self.take(shop)
        self.plane.broken = Invalid("asked twice")
        self.assertEqual(self.take(shop), CertificateState(held=[shop.version]))

    def test_what_is_not_what_it_says_is_refused_and_the_rest_is_taken(self) -> None:
        shop, api, other = self.made("shop", 3), self.made("api", 4), self.made("other", 5)
        lying = msgspec.structs.replace(api, version=msgspec.structs.replace(api.version, sha256="0" * 64))
        mixed = of_another(other, self.issuer.serve("other.example"))
        state = self.take(lying, mixed, shop)
        self.assertEqual(state.held, [shop.version])
        self.assertEqual(
            [each.reason.partition(";")[0] for each in state.refused],
            ["certificate api is not what its SHA-256 says", "the key is not that of the certificate"],
        )
        self.holds(shop)

    def test_what_the_data_plane_refuses_leaves_the_one_before(self) -> None:
        before, after = self.made("shop", 3), self.made("shop", 4)
        self.take(before)
        self.plane.broken = Invalid("HAProxy does not take it:\nkey too small")
        self.assertEqual(self.refused(after), "HAProxy does not take it: key too small")
        self.holds(before)
        self.booted()
        self.holds(before)
        self.assertEqual(self.take(after), CertificateState(held=[after.version]))

    def test_what_cannot_be_kept_is_an_error_and_not_held(self) -> None:
        before, after = self.made("shop", 3), self.made("shop", 4)
        self.take(before)
        self.disk = LocalError("the disk is full")
        self.failureResultOf(ensureDeferred(self.custody.take(push_of(after))), LocalError)
        self.assertEqual(self.custody.state, CertificateState(held=[before.version]))
        self.disk = None
        self.take(after)
        self.holds(after)

    def test_without_an_answer_of_the_data_plane_it_may_be_delivered_again(self) -> None:
        shop = self.made("shop", 3)
        self.plane.broken = Unavailable("HAProxy gave no answer")
        self.failureResultOf(ensureDeferred(self.custody.take(push_of(shop))), Unavailable)
        self.assertEqual(self.custody.state, CertificateState())
        self.plane.broken = None
        self.take(shop)
        self.holds(shop)

    def test_it_goes_on_when_nobody_waits_for_the_answer_any_more(self) -> None:
        self.plane.ready = Deferred()
        shop = self.made("shop", 3)
        asking = ensureDeferred(self.custody.take(push_of(shop)))
        asking.addErrback(lambda failure: None)
        asking.cancel()
        self.plane.ready.callback(None)
        self.holds(shop)

    def test_what_the_configuration_names_no_more_is_said_no_more_and_forgotten_after_a_while(self) -> None:
        api, shop = self.made("api", 4), self.made("shop", 3)
        self.take(api, shop)
        self.custody.applied(naming("api", "shop"))
        self.custody.applied(naming("api"))
        self.assertEqual(self.custody.state.held, [api.version])
        self.assertIn("shop", self.plane.served)
        self.clock.advance(GRACE_S)
        self.holds(api)
        self.booted()
        self.holds(api)

    def test_a_node_that_has_not_heard_of_it_may_go_back_meanwhile(self) -> None:
        api, shop = self.made("api", 4), self.made("shop", 3)
        self.take(api, shop)
        for names in (["api", "shop"], ["api"], ["api", "shop"]):
            self.custody.applied(naming(*names))
            self.clock.advance(GRACE_S / 2)
        self.clock.advance(GRACE_S)
        self.holds(api, shop)

    def test_what_was_delivered_for_a_configuration_to_come_stays(self) -> None:
        api, shop = self.made("api", 4), self.made("shop", 3)
        self.take(api)
        self.custody.applied(naming("api"))
        self.take(shop)
        self.custody.applied(naming("api"))
        self.clock.advance(GRACE_S)
        self.holds(api, shop)
        self.custody.applied(naming("shop"))
        self.clock.advance(GRACE_S)
        self.holds(shop)

    def test_what_nothing_names_after_a_start_is_forgotten(self) -> None:
        api, shop = self.made("api", 4), self.made("shop", 3)
        self.take(api, shop)
        self.booted()
        self.custody.applied(naming("api"))
        self.assertEqual(self.custody.state.held, [api.version])
        self.clock.advance(GRACE_S)
        self.holds(api)

    def test_without_any_configuration_nothing_is_forgotten(self) -> None:
        shop = self.made("shop", 3)
        self.take(shop)
        self.booted()
        self.clock.advance(GRACE_S)
        self.holds(shop)

    def test_what_was_refused_and_is_not_wanted_is_not_told_for_ever(self) -> None:
        self.custody.applied(naming("shop"))
        lying = self.made("shop", 3)
        self.refused(of_another(lying, self.issuer.serve("x.example")))
        self.custody.applied(naming())
        self.assertEqual(self.custody.state, CertificateState())

    def test_there_is_room_for_so_many(self) -> None:
        self.patch(custody_module, "HELD", 1)
        self.take(self.made("shop", 3))
        self.assertIn("1 certificates are held already", self.refused(self.made("api", 4)))
        self.take(self.made("shop", 5))

    def test_one_that_is_deleted_forgets_all(self) -> None:
        self.take(self.made("api", 4), self.made("shop", 3))
        (self.state / "certificates" / "api.json").write_text("{")
        self.booted()
        self.successResultOf(ensureDeferred(self.custody.wipe()))
        self.holds()
        self.assertEqual(list((self.state / "certificates").iterdir()), [])
        self.booted()
        self.holds()
