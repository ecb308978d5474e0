"""Names are looked up, never resolved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid, PeerError
from avinet.ssh.services import ENGINE_SERVICES, Destination, Offers, canonical
from avinet.ssh.strings import Reader, string, uint32

CONTROL = Destination(b"control", 80)
REAL = [
    (b"localhost", 80),
    (b"127.0.0.1", 80),
    (b"0x7f.1", 80),
    (b"::ffff:127.0.0.1", 80),
    (b"::1", 22),
    (b"0.0.0.0", 80),
    (b"", 80),
    (b"*", 80),
    (b"169.254.169.254", 80),
    (b"control\0", 80),
    (b"\0control", 80),
    (b"control.", 80),
    (b"Control", 80),
    (b"control:80", 80),
    (b"control", 0),
    (b"control", 81),
    (b"control", 65536),
    (b"control", 65536 + 80),
    (b"control", (1 << 32) - 1),
    (b"\xff\xfe", 80),
    (b"\xd9\xa8\xd9\xa0", 80),
    (b"an-engine.control", 80),
]


class DestinationTests(SynchronousTestCase):
    def test_names_are_host_and_port(self) -> None:
        self.assertEqual(Destination.named("control:80"), CONTROL)
        self.assertEqual(CONTROL.service, "control:80")

    def test_api_is_another_name_of_control(self) -> None:
        self.assertEqual(Destination(b"api", 80).service, "control:80")
        self.assertEqual(canonical("api:80"), "control:80")

    def test_what_is_no_name_is_invalid(self) -> None:
        for text in ("", "control", "control:", ":80", "control:0", "control:65536", "control:-1", "control:٨", "é:80"):
            self.assertRaises(Invalid, Destination.named, text)

    @given(st.binary(max_size=255), st.integers(0, (1 << 32) - 1))
    def test_only_what_is_written_in_just_one_way_is_a_service(self, host: bytes, port: int) -> None:
        """(S31)"""
        service = Destination(host, port).service
        if service in ENGINE_SERVICES:
            self.assertIn(f"{host.decode()}:{port}", {*ENGINE_SERVICES, "api:80"})

    def test_real_hosts_and_addresses_are_no_services(self) -> None:
        """(S31)"""
        for host, port in REAL:
            self.assertNotIn(Destination(host, port).service, ENGINE_SERVICES)

    @given(st.binary(max_size=255), st.integers(0, (1 << 32) - 1))
    def test_is_read_as_it_was_sent(self, host: bytes, port: int) -> None:
        destination = Destination(host, port)
        self.assertEqual(Destination.of_request(destination.encode()), destination)
        self.assertEqual(Destination.of_open(destination.encode_open()), destination)
        self.assertEqual(Destination.read(Reader(destination.encode(), "test")), destination)

    def test_what_is_short_or_long_is_the_peers_fault(self) -> None:
        for body in (b"", string(b"control"), CONTROL.encode() + b"x", string(bytes(256)) + uint32(80)):
            self.assertRaises(PeerError, Destination.of_request, body)
            self.assertRaises(PeerError, Destination.of_open, body)


class OffersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.offers = Offers(ENGINE_SERVICES, 2)

    def test_takes_what_is_allowed_once(self) -> None:
        """(S31)"""
        self.assertTrue(self.offers.add(CONTROL))
        self.assertFalse(self.offers.add(CONTROL))
        self.assertEqual(self.offers.names, {"control:80"})

    def test_an_alias_is_the_same_offer(self) -> None:
        """(S31)"""
        api = Destination(b"api", 80)
        self.assertTrue(self.offers.add(api))
        self.assertFalse(self.offers.add(CONTROL))
        self.assertEqual(self.offers.find("control:80"), api, "it is asked for byte for byte as it was offered")

    def test_refuses_everything_else(self) -> None:
        """(S31)"""
        for host, port in [*REAL, (b"reports", 80)]:
            self.assertFalse(self.offers.add(Destination(host, port)))
        self.assertEqual(self.offers.names, frozenset())

    def test_is_taken_back_once_and_as_it_was_written(self) -> None:
        """(S31)"""
        self.offers.add(CONTROL)
        self.assertFalse(self.offers.remove(Destination(b"api", 80)))
        self.assertTrue(self.offers.remove(CONTROL))
        self.assertFalse(self.offers.remove(CONTROL))
        self.assertIsNone(self.offers.find("control:80"))
        self.assertTrue(self.offers.add(CONTROL))

    def test_is_limited(self) -> None:
        """(S30)"""
        taken = [self.offers.add(Destination.named(name)) for name in sorted(ENGINE_SERVICES)]
        self.assertEqual(taken, [True, True, False])
