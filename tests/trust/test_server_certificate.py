"""A certificate of a virtual service is taken when it can be served, and refused in a line that shows nothing of its key."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid
from avinet.trust.server_certificate import parse
from tests.issuing import Issuer, ec_key, key_pem, pem, rsa_key


class ServerCertificateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.issuer = Issuer()
        self.key = ec_key()
        self.certificate = self.issuer.certificate(self.key, "shop.example.com", "*.Example.com")

    def refused(self, chain: str, key: str) -> str:
        error = self.assertRaises(Invalid, parse, chain, key)
        said = f"{error!s} {error!r} {error.__cause__!r}"
        self.assertNotIn("\n", str(error))
        for line in key.splitlines():
            self.assertFalse(len(line) > 8 and line in said, said)
        return said

    def test_a_chain_and_its_key_are_taken(self) -> None:
        found = parse(pem(self.certificate, self.issuer.intermediate, self.issuer.root), key_pem(self.key))
        self.assertEqual(found.names, ["shop.example.com", "*.example.com"])
        self.assertEqual(found.serial, self.certificate.serial_number)
        self.assertEqual(len(found.chain), 3)

    def test_rsa_and_all_curves_that_browsers_know_are_taken(self) -> None:
        for key in (rsa_key(), ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())):
            self.assertEqual(self.issuer.serve("a.example", key=key).names, ["a.example"])

    def test_without_alternative_names_the_common_name_is_the_name(self) -> None:
        alone = self.issuer.certificate(self.key, common_name="Old.example.com")
        self.assertEqual(parse(pem(alone), key_pem(self.key)).names, ["old.example.com"])

    def test_a_key_of_another_certificate_is_refused(self) -> None:
        self.assertIn("the key is not that of the certificate", self.refused(pem(self.certificate), key_pem(ec_key())))

    def test_a_chain_in_the_wrong_order_is_refused(self) -> None:
        said = self.refused(pem(self.certificate, self.issuer.root), key_pem(self.key))
        self.assertIn("CN=shop.example.com is not issued by CN=Test CA root", said)

    def test_the_intermediate_of_another_ca_is_refused(self) -> None:
        other = Issuer()  # by the same name, with another key
        self.assertIn("is not issued by", self.refused(pem(self.certificate, other.intermediate), key_pem(self.key)))

    def test_keys_that_are_too_short_or_of_another_kind_are_refused(self) -> None:
        short = rsa_key(1024)
        self.assertIn("1024 bits", self.refused(pem(self.issuer.certificate(short, "a.example")), key_pem(short)))
        other = ec.generate_private_key(ec.SECP256K1())
        self.assertIn("of a kind", self.refused(pem(self.issuer.certificate(other, "a.example")), key_pem(other)))
        ed = Ed25519PrivateKey.generate()
        self.assertIn("of a kind", self.refused(pem(self.issuer.certificate(ed, "a.example")), key_pem(ed)))

    def test_neither_its_text_nor_its_errors_show_the_key(self) -> None:
        secret = key_pem(self.key)
        found = parse(pem(self.certificate), secret)
        self.assertNotIn(secret.splitlines()[1], repr(found) + str(found) + repr([found]))
        torn = secret.splitlines()
        self.refused(pem(self.certificate), "\n".join([torn[0], torn[1], torn[-1], ""]))

    @given(st.text(max_size=200), st.text(max_size=200))
    def test_what_is_neither_is_refused(self, chain: str, key: str) -> None:
        self.assertRaises(Invalid, parse, chain, key)
        self.assertRaises(Invalid, parse, pem(self.certificate), key)
