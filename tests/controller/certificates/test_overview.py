"""What operators see of certificates: who names them, who is to serve them, who does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from typing_extensions import override

from avinet.aio import as_deferred
from avinet.config.catalogue import Catalogue
from avinet.controller.certificates.overview import BREATH, CertificateOverview
from avinet.errors import NotFound
from avinet.wire.certificates import HOLDERS, CertificateState, CertificateStored
from avinet.wire.config import DocumentVersion, Tls
from tests.config.making import document, service
from tests.controller.certificates.test_supply import SupplyCase


class OverviewTests(SupplyCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.ids = ["se-1", "se-2", "se-3"]
        tls = Tls(certificates=["shop"])
        web = document("web", service("b", 443, tls=tls), service("a", 444, tls=tls), service("c", 80))
        version = DocumentVersion(name="web", version=1, author="ann", time=1.0, document=web)
        catalogue = Catalogue(1, {"web": version})

        async def read() -> Catalogue:
            return catalogue

        documents: Any = SimpleNamespace(catalogue=read)
        self.overview = CertificateOverview(self.clock, self.vault, self.supply, documents, lambda: self.ids)

    def test_it_says_who_names_it_who_is_to_serve_it_and_who_holds_it(self) -> None:
        for id in ("se-1", "se-2"):
            self.engines.desire(id, "shop")
        self.supply.said("se-1", self.held("shop"))
        self.supply.said("se-3", self.held("shop"))
        found = self.result(self.overview.one("shop"))
        self.assertEqual([(each.document, each.virtual_services) for each in found.used_by], [("web", ["a", "b"])])
        self.assertEqual((found.needed, found.held, found.holders), (2, 1, ["se-1", "se-3"]))
        self.put("shop")
        found = self.result(self.overview.one("shop"))
        self.assertEqual((found.needed, found.held, found.holders, len(found.earlier)), (2, 0, [], 1))
        self.assertRaises(NotFound, self.overview.one("gone").send, None)

    def test_a_page_has_so_many_and_where_to_go_on(self) -> None:
        first = self.result(self.overview.page(1, ""))
        self.assertEqual(([each.name for each in first.items], first.next), (["blog"], "blog"))
        rest = self.result(self.overview.page(1, first.next))
        self.assertEqual(([each.name for each in rest.items], rest.next), (["shop"], ""))
        self.assertEqual(rest.items[0].holders, [])
        self.assertEqual(self.result(self.overview.page(5, "shop")).items, [])

    def test_a_change_says_how_many_are_sent_it(self) -> None:
        self.engines.desire("se-1", "shop")
        for changed, count in ((True, 1), (False, 0)):
            done = CertificateStored(name="shop", version=1, changed=changed)
            self.assertEqual(self.result(self.overview.stored(done)).service_engines, count)

    def test_of_a_large_fleet_some_are_named_and_the_reactor_has_its_turn(self) -> None:
        self.ids = [f"se-{number}" for number in range(2 * BREATH)]
        for id in self.ids:
            self.engines.desire(id, "shop")
            self.supply.said(id, CertificateState(held=self.current("shop")))
        counting = as_deferred(self.overview.one("shop"))
        self.assertNoResult(counting)
        self.clock.advance(0)
        self.clock.advance(0)
        found = self.successResultOf(counting)
        self.assertEqual((found.needed, found.held, len(found.holders)), (2 * BREATH, 2 * BREATH, HOLDERS))
