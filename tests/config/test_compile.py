"""Documents become configurations: what is merged, what is refused, and that equal means equal."""

from __future__ import annotations

import ipaddress
import random
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.config import compile as compile_module
from avinet.config.compile import Target, applies, compile_for, compiled, merge
from avinet.errors import Invalid
from avinet.wire.config import Config, Document, Pool, Route, Server, Tls, VirtualService
from avinet.wire.message import decode, encode
from tests.config.making import catalogues, document, documents, labels, pool, reading, service, web


class SelectionTests(SynchronousTestCase):
    def test_a_document_applies_where_all_its_labels_are_carried(self) -> None:
        both = document("d", site="x", tier="y")
        self.assertTrue(applies(both, Target("se", {"site": "x", "tier": "y", "more": ""})))
        self.assertFalse(applies(both, Target("se", {"site": "x"})))
        self.assertFalse(applies(both, Target("se", {"site": "x", "tier": "z"})))

    def test_without_labels_it_applies_to_every_service_engine(self) -> None:
        self.assertTrue(applies(document("d"), Target("se", {})))

    def test_by_id_it_applies_to_that_service_engine_alone(self) -> None:
        self.assertTrue(applies(document("d", engine="se-1"), Target("se-1", {})))
        self.assertFalse(applies(document("d", engine="se-1"), Target("se-2", {"site": "se-1"})))


class MergeTests(SynchronousTestCase):
    def refused(self, *made: Document) -> str:
        return str(self.assertRaises(Invalid, merge, made))

    def test_what_applies_is_merged_and_sorted(self) -> None:
        config = compile_for(
            "se-1",
            {"site": "x"},
            [web("b", 81, site="x"), web("a", 80), web("c", 82, site="y"), web("d", 83, engine="se-1")],
        )
        self.assertEqual(reading(config), ["a-web", "b-web", "d-web"])
        self.assertEqual([each.name for each in config.pools], ["a-pool", "b-pool", "d-pool"])

    def test_nothing_makes_the_empty_configuration(self) -> None:
        self.assertEqual(compile_for("se-1", {}, []), Config())

    def test_a_document_may_use_the_pool_of_another(self) -> None:
        config = merge([document("pools", pool("p", "a")), document("services", service("w", 80, "p"))])
        self.assertEqual(reading(config), ["w"])

    def test_a_name_in_two_documents_is_refused_naming_both(self) -> None:
        for made in ((pool("same", "a"), pool("same", "a")), (service("same", 80), service("same", 81))):
            said = self.refused(document("one", made[0]), document("two", made[1]))
            self.assertIn("same of document one is defined and again in document two", said)

    def test_a_name_twice_in_one_document_is_refused(self) -> None:
        self.assertIn("pool p of document one is defined twice", self.refused(document("one", pool("p"), pool("p"))))

    def test_a_pool_and_a_virtual_service_may_share_a_name(self) -> None:
        merge([document("one", pool("web", "a"), service("web", 80, "web"))])

    def test_an_unknown_pool_is_refused_naming_who_wants_it(self) -> None:
        for wanting in (service("w", 80, "lost"), service("w", 80, routes=[Route(pool="lost", path="/x")])):
            said = self.refused(document("one", wanting))
            self.assertIn("virtual service w of document one refers to pool lost", said)

    def test_two_servers_of_one_name_are_refused(self) -> None:
        self.assertIn(
            "pool p of document one has two servers named a", self.refused(document("one", pool("p", "a", "a")))
        )

    def test_routes_of_a_tcp_service_are_refused(self) -> None:
        made = document("one", pool("p", "a"), service("w", 80, "p", mode="tcp", routes=[Route(pool="p")]))
        self.assertIn("w of document one has routes, which only HTTP has", self.refused(made))

    def test_a_tcp_service_without_a_pool_is_refused(self) -> None:
        self.assertIn("w of document one has no pool", self.refused(document("one", service("w", 80, mode="tcp"))))

    def test_two_services_on_one_listener_are_refused_naming_both(self) -> None:
        for one, other in (
            ("*", "*"),
            ("*", "10.0.0.1"),
            ("fd00::1", "*"),
            ("0.0.0.0", "10.0.0.1"),
            ("10.0.0.1", "::"),
            ("::", "0.0.0.0"),
            ("::", "fd00::1"),
            ("fd00::1", "FD00:0:0::1"),
            ("::FFFF:A00:1", "10.0.0.1"),
        ):
            made = [
                document("one", service("first", 80, address=one)),
                document("two", service("second", 80, address=other)),
            ]
            said = self.refused(*made)
            self.assertIn(
                "service first of document one and the virtual service second of document two both listen", said
            )

    def test_services_that_do_not_meet_are_taken(self) -> None:
        for one, other in (("10.0.0.1", "10.0.0.2"), ("0.0.0.0", "fd00::1"), ("fd00::1", "10.0.0.1")):
            merge([document("one", service("first", 80, address=one), service("second", 80, address=other))])
        merge([document("one", service("first", 80), service("second", 81))])

    def test_a_certificate_that_is_named_twice_is_refused(self) -> None:
        twice = service("w", 443, tls=Tls(certificates=["shop", "api", "shop"]))
        self.assertIn("w of document one names certificate shop twice", self.refused(document("one", twice)))

    def test_tls_is_for_both_modes_and_keeps_the_order_of_its_certificates(self) -> None:
        tls = Tls(certificates=["b", "a"], minimum="1.3")
        made = [service("w", 443, "p", tls=tls), service("v", 444, "p", mode="tcp", tls=tls)]
        config = merge([document("one", pool("p", "a"), *made)])
        self.assertEqual([each.tls for each in config.virtual_services], [tls, tls])
        self.assertEqual(config.certificates, {"a", "b"})

    def test_more_certificates_than_one_engine_can_have_are_refused(self) -> None:
        made = [
            service(f"w{n}", n + 1, tls=Tls(certificates=[f"c{n}-{each}" for each in range(50)])) for n in range(11)
        ]
        self.assertIn("550 certificates", self.refused(document("one", *made)))

    def test_without_tls_the_same_documents_make_the_same_bytes_as_before_there_was_any(self) -> None:
        """An upgrade of a node pushes nothing."""
        routes = [Route(pool="p", host="*.example.com", path="/v1")]
        made = document("one", pool("p", "a", "b"), service("w", 80, "p", routes=routes, address="10.0.0.1"))
        self.assertEqual(compiled([made]).sha256, "f9ae1982cd8fec8605b1677d7e4d6eda60f40af4fbb3057512eccf208dedaa68")

    def test_addresses_that_are_none_are_refused(self) -> None:
        for address in ("999.1.1.1", "1.2.3", "abcd", "1:2", "::1::"):
            self.assertIn("no IP address", self.refused(document("one", service("w", 80, address=address))))
        for address in ("10.0.0.256", "1.2", "12", "1::2::3", "a..b", "a.-b"):
            bad = Pool(name="p", servers=[Server(name="s", address=address, port=80)])
            self.assertIn("server s in the pool p of document one", self.refused(document("one", bad)))

    def test_addresses_that_are_some_are_taken(self) -> None:
        for address in ("10.0.0.1", "fd00::1", "web-1.example.com", "localhost", "1a.example"):
            merge([document("one", Pool(name="p", servers=[Server(name="s", address=address, port=80)]))])

    def test_more_services_than_one_engine_can_have_are_refused(self) -> None:
        made = [document(f"d{n}", *(pool(f"p-{n}-{each}") for each in range(251))) for n in (1, 2)]
        self.assertIn("502 pools", self.refused(*made))

    def test_a_configuration_that_is_too_large_to_send_is_refused(self) -> None:
        self.patch(compile_module, "CONFIG_LIMIT_BYTES", 100)
        self.assertRaises(Invalid, compiled, [web("a", 80)])


def listening(config: Config) -> list[tuple[VirtualService, VirtualService]]:
    """Pairs on one port of which the kernel would refuse the second, found by the rules of bind(2) one by one."""
    found = []
    for one, other in combinations(config.virtual_services, 2):
        if one.port != other.port:
            continue
        first, second = (None if each.address == "*" else ipaddress.ip_address(each.address) for each in (one, other))
        everything = {None, ipaddress.ip_address("::")}
        all_v4 = ipaddress.ip_address("0.0.0.0")
        if (
            first in everything
            or second in everything
            or first == second
            or (first == all_v4 and second.version == 4)
            or (second == all_v4 and first.version == 4)
        ):
            found.append((one, other))
    return found


class PropertyTests(SynchronousTestCase):
    @given(catalogues, labels, st.sampled_from(["a", "b", "z"]), st.randoms(use_true_random=False))
    def test_the_order_of_documents_and_of_what_is_in_them_makes_no_difference(
        self, made: list[Document], carried: dict, id: str, chance: random.Random
    ) -> None:
        def outcome(given: list[Document]) -> bytes | str:
            try:
                return encode(compile_for(id, carried, given))
            except Invalid:
                return "refused"

        def shuffled(each: Document) -> Document:
            return Document(
                name=each.name,
                applies_to=each.applies_to,
                pools=chance.sample(each.pools, len(each.pools)),
                virtual_services=chance.sample(each.virtual_services, len(each.virtual_services)),
            )

        self.assertEqual(outcome(made), outcome([shuffled(each) for each in chance.sample(made, len(made))]))

    @given(st.lists(documents, max_size=3, unique_by=lambda each: each.name))
    def test_what_is_taken_can_run(self, made: list[Document]) -> None:
        try:
            config = merge(made)
        except Invalid as error:
            self.assertNotIn("\n", str(error))
            return
        names = [each.name for each in config.pools]
        wanted = {
            name for each in config.virtual_services for name in (each.pool, *(r.pool for r in each.routes)) if name
        }
        self.assertEqual(len(set(names)), len(names))
        self.assertTrue(wanted <= set(names))
        self.assertEqual(listening(config), [])
        self.assertEqual(sum(len(each.pools) for each in made), len(names))
        self.assertEqual(decode(encode(config), Config, limit_bytes=10**7), config)

    @given(st.lists(documents, max_size=3, unique_by=lambda each: each.name))
    def test_listeners_that_meet_are_the_only_ones_refused_for_it(self, made: list[Document]) -> None:
        everything = Config(virtual_services=[each for one in made for each in one.virtual_services])
        try:
            merge(made)
        except Invalid as error:
            if "both listen" in str(error):
                self.assertNotEqual(listening(everything), [])
