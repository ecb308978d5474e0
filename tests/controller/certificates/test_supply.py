"""Service engines are brought the certificates that their configuration names, in the version of now, and no others."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.config.compile import Compiled, compiled
from avinet.controller.certificates import supply as supply_module
from avinet.controller.certificates.supply import PUSH_S, Supply
from avinet.errors import Invalid, LocalError, NotFound, PeerError, TimedOut, Unavailable
from avinet.wire.certificates import (
    PUSHED,
    CertificatePush,
    CertificateRefusal,
    CertificateState,
    CertificateVersion,
)
from avinet.wire.config import ConfigVersion, Tls
from tests.config.making import document, pool, service
from tests.controller.certificates.making import VaultCase, secret_of


class Engines:
    """What service engines should run, and what they were sent."""

    def __init__(self) -> None:
        self.desired: dict[str, Compiled] = {}
        self.unsettled = False
        self.pushed: list[tuple[str, CertificatePush, Deferred[CertificateState]]] = []

    def desire(self, id: str, *certificates: str) -> None:
        tls = Tls(certificates=list(certificates)) if certificates else None
        web = document("web", pool("web", "a"), service("web", 443, "web", tls=tls))
        self.desired[id] = compiled([web])

    def version(self, id: str) -> ConfigVersion | None:
        found = self.desired.get(id)
        return ConfigVersion(revision=1, sha256=found.sha256) if found else None

    def compiled(self, id: str) -> Compiled | None:
        return None if self.unsettled else self.desired.get(id)

    async def certificates(self, engine_id: str, push: CertificatePush) -> CertificateState:
        answer: Deferred[CertificateState] = Deferred()
        self.pushed.append((engine_id, push, answer))
        return await answer


class SupplyCase(VaultCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.engines = Engines()
        self.supply = Supply(self.clock, self.engines, self.engines, self.vault)
        self.shop, self.blog = self.put("shop"), self.put("blog")

    def bring(self, id: str = "se-1") -> Deferred[None]:
        return as_deferred(self.supply.bring(id))

    def current(self, *names: str) -> list[CertificateVersion]:
        return [version for name in names if (version := self.vault.version(name))]

    def answer(self, state: CertificateState) -> None:
        self.engines.pushed[-1][2].callback(state)

    def held(self, *names: str) -> CertificateState:
        return CertificateState(held=self.current(*names))


class SupplyTests(SupplyCase):
    def test_one_that_needs_none_is_sent_none(self) -> None:
        self.engines.desire("se-1")
        for id in ("se-1", "stranger"):
            self.assertEqual((self.supply.missing(id), self.supply.waits(id)), ([], ""))
            self.successResultOf(self.bring(id))
        self.assertEqual(self.engines.pushed, [])

    def test_one_is_sent_what_it_needs_and_nothing_else(self) -> None:
        self.engines.desire("se-1", "shop")
        self.assertEqual(self.supply.missing("se-1"), ["shop"])
        bringing = self.bring()
        [(id, push, _)] = self.engines.pushed
        [material] = push.certificates
        self.assertEqual((id, material.version), ("se-1", self.vault.version("shop")))
        self.assertEqual((material.chain, material.key), (self.shop.chain_pem, self.shop.key_pem))
        self.answer(self.held("shop"))
        self.successResultOf(bringing)
        self.assertEqual(self.supply.missing("se-1"), [])
        version = self.current("shop")[0]
        self.assertTrue(self.supply.holds("se-1", version))
        self.assertEqual(list(self.supply.holders(version)), ["se-1"])

    def test_what_it_says_to_hold_is_not_sent_again(self) -> None:
        self.engines.desire("se-1", "shop", "blog")
        self.supply.said("se-1", self.held("shop"))
        self.assertEqual(self.supply.missing("se-1"), ["blog"])
        self.supply.said("se-1", self.held("shop", "blog"))
        self.assertEqual(self.supply.missing("se-1"), [])
        self.supply.forget("se-1")
        self.assertEqual(self.supply.missing("se-1"), ["blog", "shop"])

    def test_another_version_is_sent_to_who_needs_it(self) -> None:
        self.engines.desire("se-1", "shop")
        self.engines.desire("se-2", "blog")
        for id, name in (("se-1", "shop"), ("se-2", "blog")):
            self.supply.said(id, self.held(name))
        self.put("shop")
        self.assertEqual((self.supply.missing("se-1"), self.supply.missing("se-2")), (["shop"], []))
        self.assertEqual(self.supply.waits("se-1"), "")

    def test_what_it_says_of_certificates_that_there_are_not_is_not_remembered(self) -> None:
        made_up = [CertificateVersion(name=f"c-{number}", revision=1, sha256="0" * 64) for number in range(1000)]
        refused = [CertificateRefusal(version=each, reason="x" * 1024) for each in made_up]
        own = CertificateRefusal(version=self.current("blog")[0], reason="x" * 1024)
        self.supply.said(
            "se-1", CertificateState(held=[*made_up[1:], *self.current("shop")], refused=[*refused[1:], own])
        )
        has = self.supply._has["se-1"]
        self.assertEqual((list(has.held), [each.name for each in has.refused]), (["shop"], ["blog"]))
        self.assertLess(len(has.refused[own.version]), 1000)

    def test_many_are_sent_some_at_a_time(self) -> None:
        self.patch(supply_module, "TOGETHER", 1)
        self.engines.desire("se-1", "shop", "blog")
        bringing = self.bring()
        self.answer(self.held("blog"))
        self.assertEqual([push.certificates[0].version.name for _, push, _ in self.engines.pushed], ["blog", "shop"])
        self.answer(self.held("blog", "shop"))
        self.successResultOf(bringing)

    def test_what_goes_together_is_what_a_push_may_have(self) -> None:
        self.assertLessEqual(supply_module.TOGETHER, PUSHED)

    def test_one_that_is_about_to_be_wanted_otherwise_is_sent_nothing(self) -> None:
        self.engines.desire("se-1", "shop")
        self.engines.unsettled = True
        self.assertEqual(self.supply.missing("se-1"), [])

    def test_which_certificates_many_configurations_name_is_not_remembered_for_ever(self) -> None:
        self.patch(supply_module, "_NAMES_KEPT", 2)
        for names in (("shop",), ("blog",), ("shop", "blog")):
            self.engines.desire("se-1", *names)
            self.assertEqual(self.supply.needed("se-1"), set(names))
        self.assertEqual(len(self.supply._named), 2)


class RefusalTests(SupplyCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.engines.desire("se-1", "shop")

    def refused(self, *held: CertificateVersion) -> CertificateState:
        [version] = self.current("shop")
        refusal = CertificateRefusal(version=version, reason="no room for it")
        return CertificateState(held=list(held), refused=[refusal])

    def test_what_is_refused_is_not_sent_again_and_the_configuration_waits(self) -> None:
        bringing = self.bring()
        self.answer(self.refused())
        self.successResultOf(bringing)
        self.assertEqual(self.supply.missing("se-1"), [])
        self.assertEqual(self.supply.waits("se-1"), "certificate shop was refused: no room for it")

    def test_another_version_of_it_is_sent(self) -> None:
        self.supply.said("se-1", self.refused())
        self.put("shop")
        self.assertEqual((self.supply.missing("se-1"), self.supply.waits("se-1")), (["shop"], ""))

    def test_one_that_is_refused_while_an_older_one_is_held_makes_nothing_wait(self) -> None:
        before = self.current("shop")
        self.put("shop")
        self.supply.said("se-1", self.refused(*before))
        self.assertEqual((self.supply.missing("se-1"), self.supply.waits("se-1")), ([], ""))
        self.assertEqual(self.supply.problem("se-1"), "certificate shop was refused: no room for it")

    def test_one_that_refuses_all_is_not_asked_again(self) -> None:
        bringing = self.bring()
        self.engines.pushed[-1][2].errback(Invalid("the certificate cannot be read"))
        self.successResultOf(bringing)
        self.assertEqual(self.supply.missing("se-1"), [])
        self.assertIn("the certificate cannot be read", self.supply.waits("se-1"))

    def test_one_that_boots_anew_is_sent_it_again(self) -> None:
        self.supply.said("se-1", self.refused())
        self.supply.said("se-1", CertificateState())
        self.assertEqual(self.supply.missing("se-1"), ["shop"])

    def test_one_that_is_too_old_is_said_to_be_until_it_comes_anew(self) -> None:
        bringing = self.bring()
        self.engines.pushed[-1][2].errback(NotFound("there is nothing at this path"))
        self.successResultOf(bringing)
        self.assertEqual(self.supply.missing("se-1"), [])
        self.assertIn("too old to serve certificate shop: upgrade avinet on it", self.supply.waits("se-1"))
        self.supply.opened("se-1")
        self.assertEqual((self.supply.missing("se-1"), self.supply.waits("se-1")), (["shop"], ""))

    def test_what_did_not_get_through_is_missing_still(self) -> None:
        for error in (Unavailable("gone"), PeerError("nonsense")):
            bringing = self.bring()
            self.engines.pushed[-1][2].errback(error)
            self.failureResultOf(bringing, type(error))
            self.assertEqual(self.supply.missing("se-1"), ["shop"])

    def test_an_answer_that_never_comes_is_not_waited_for(self) -> None:
        bringing = self.bring()
        self.clock.advance(PUSH_S)
        self.failureResultOf(bringing, TimedOut)

    def test_one_that_answers_and_holds_nothing_is_not_believed(self) -> None:
        bringing = self.bring()
        self.answer(CertificateState())
        self.failureResultOf(bringing, PeerError)

    def test_a_key_that_cannot_be_opened_is_not_sent_and_said(self) -> None:
        self.secrets_key.unlink()
        self.vault = self.opened()
        self.supply = Supply(self.clock, self.engines, self.engines, self.vault)
        self.assertEqual(self.supply.missing("se-1"), [])
        self.assertIn("put the certificate again", self.supply.waits("se-1"))
        self.put("shop")
        self.assertEqual(self.supply.missing("se-1"), ["shop"])

    def test_a_damaged_one_is_an_error_in_a_line(self) -> None:
        def damaged(name: str) -> Any:
            raise LocalError("the secret is damaged")

        self.patch(self.vault, "material", damaged)
        self.failureResultOf(self.bring(), LocalError)

    def test_no_key_is_in_what_is_said_of_it(self) -> None:
        bringing = self.bring()
        pushed = repr(self.engines.pushed)
        self.answer(self.refused())
        self.successResultOf(bringing)
        for text in (pushed, self.supply.waits("se-1"), repr(self.supply._has)):
            self.assertNotIn(secret_of(self.shop), text)
