"""A certificate is taken when clients will take it; each that is refused is refused in a line that says why."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.controller.certificates.checks import checked, names_of
from avinet.errors import Invalid
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.certificates import CertificateMaterial, CertificatePut, CertificateVersion
from avinet.wire.message import decode, encode
from tests.controller.certificates.making import ISSUER, put_of, secret_of
from tests.issuing import LIFE, ec_key, key_pem, pem, rsa_key


class CheckTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.now = time.time()
        self.found = ISSUER.serve("shop.example.com")

    def taken(self, **changes: Any) -> ServerCertificate:
        return checked(msgspec.structs.replace(put_of(self.found), **changes), self.now)

    def refused(self, **changes: Any) -> str:
        put = msgspec.structs.replace(put_of(self.found), **changes)
        error = self.assertRaises(Invalid, checked, put, self.now)
        self.assertNotIn("\n", str(error))
        self.assertNotIn(secret_of(self.found), f"{error} {error!r} {error.__cause__!r}")
        return str(error)

    def test_what_is_delivered_is_plain_pem_whatever_was_brought(self) -> None:
        old_form = self.found.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
        chain = "a comment\r\n" + self.found.chain_pem.replace("\n", "\r\n") + "\n\n"
        found = self.taken(chain=chain, key="\n" + old_form)
        self.assertEqual((found.chain_pem, found.key_pem), (self.found.chain_pem, self.found.key_pem))
        version = CertificateVersion(name="a", revision=1, sha256="0" * 64)
        material = CertificateMaterial(version=version, chain=found.chain_pem, key=found.key_pem)
        self.assertEqual(decode(encode(material), CertificateMaterial, limit_bytes=10**5), material)

    def test_the_largest_keys_come_through(self) -> None:
        key = rsa_key(4096)
        found = checked(put_of(ISSUER.serve("a.example", key=key)), self.now)
        self.assertEqual(found.key_pem, key_pem(key))

    def test_chain_and_key_are_not_mixed_up(self) -> None:
        both = self.found.chain_pem + self.found.key_pem
        self.assertIn("more than certificates", self.refused(chain=both))
        self.assertIn("not one private key", self.refused(key=both))
        self.assertIn("not one private key", self.refused(key=self.found.key_pem * 2))
        self.assertIn("not one private key", self.refused(key=self.found.chain_pem))
        self.assertIn("not one private key", self.refused(key=""))
        self.assertIn("cannot be read", self.refused(chain=""))

    def test_a_key_with_a_password_is_refused(self) -> None:
        locked = self.found.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
        self.assertIn("not encrypted", self.refused(key=locked))

    def test_one_without_alternative_names_is_refused(self) -> None:
        key = ec_key()
        alone = pem(ISSUER.certificate(key, common_name="shop.example.com"))
        self.assertIn("no subject alternative names", self.refused(chain=alone, key=key_pem(key)))

    def test_one_with_too_many_names_is_refused(self) -> None:
        many = ISSUER.serve(*(f"{each}.example.com" for each in range(101)))
        self.assertIn("more than 100 names", self.refused(chain=many.chain_pem, key=many.key_pem))

    def test_one_that_is_not_valid_now_is_taken_only_by_force(self) -> None:
        for at, why in ((self.now + LIFE.total_seconds() + 60, "expired at"), (self.now - 7200, "is not valid before")):
            self.now, before = at, self.now
            self.assertIn(why, self.refused())
            self.assertIn("--force", self.refused())
            self.taken(force=True)
            self.now = before

    def test_a_chain_that_is_too_long_is_refused(self) -> None:
        root = pem(ISSUER.root)
        self.assertIn("at most 10", self.refused(chain=self.found.chain_pem + root * 9))
        self.taken(chain=self.found.chain_pem + root * 8)

    def test_names_are_host_names_and_addresses(self) -> None:
        self.assertEqual(names_of(self.found.chain[0]), ["shop.example.com"])
        self.assertEqual(names_of(x509.load_pem_x509_certificate(pem(ISSUER.root).encode())), [])

    @given(st.text(max_size=300), st.text(max_size=300))
    def test_any_text_is_refused_in_a_line(self, chain: str, key: str) -> None:
        self.assertRaises(Invalid, checked, CertificatePut(chain=chain, key=key), self.now)
