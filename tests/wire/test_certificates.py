"""Certificates on the wire: what is taken, and that no private key is ever shown."""

from __future__ import annotations

import traceback

import msgspec
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid
from avinet.wire.certificates import (
    CHAIN_CERTIFICATES,
    PUSHED,
    CertificateMaterial,
    CertificatePush,
    CertificatePut,
    CertificateVersion,
    material_sha256,
)
from avinet.wire.message import decode, encode, schemas

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUYg==\n-----END CERTIFICATE-----\n"
MARK = "MARKEDSECRET"
KEY = f"-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----\n"
LIMIT = 1_000_000


def material(chain: str = CERTIFICATE, key: str = KEY) -> CertificateMaterial:
    version = CertificateVersion(name="shop", revision=7, sha256=material_sha256(chain, key))
    return CertificateMaterial(version=version, chain=chain, key=key)


class CertificateTests(SynchronousTestCase):
    def refused(self, **fields: str) -> str:
        data = encode(CertificatePush(certificates=[material(**fields)]))
        return str(self.assertRaises(Invalid, decode, data, CertificatePush, limit_bytes=LIMIT))

    def test_a_push_comes_through(self) -> None:
        push = CertificatePush(certificates=[material(CERTIFICATE * 3)])
        self.assertEqual(decode(encode(push), CertificatePush, limit_bytes=LIMIT), push)
        self.assertEqual(push.certificates[0].key, KEY)

    def test_what_is_no_chain_is_refused(self) -> None:
        for wrong in (
            "",
            KEY,
            CERTIFICATE + KEY,
            CERTIFICATE + "\n",
            CERTIFICATE.replace("MII", "MI I"),
            "# a note\n" + CERTIFICATE,
            CERTIFICATE * (CHAIN_CERTIFICATES + 1),
        ):
            self.assertIn("1 to 10 certificates in PEM", self.refused(chain=wrong))

    def test_what_is_no_key_is_refused_and_not_shown(self) -> None:
        for wrong in (MARK, KEY + KEY, KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"), KEY + "x", f"{KEY}\0"):
            why = self.refused(key=wrong)
            self.assertIn("PKCS #8", why)
            self.assertNotIn(MARK, why)

    def test_a_push_has_a_bound(self) -> None:
        data = encode(CertificatePush(certificates=[material()] * (PUSHED + 1)))
        self.assertRaises(Invalid, decode, data, CertificatePush, limit_bytes=LIMIT)

    def test_no_key_is_shown(self) -> None:
        push = CertificatePush(certificates=[material()])
        shown = [repr(push), str(push.certificates[0]), f"{push.certificates}", repr({"push": push})]
        shown.append(formatEvent({"log_format": "took {push} and {push.certificates[0]!r}", "push": push}))
        shown.append(repr(push.certificates[0].__rich_repr__()))
        try:
            raise ValueError(push)
        except ValueError as error:
            shown.append("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
        for text in shown:
            self.assertNotIn(MARK, text)
            self.assertIn("shop", text)

    def test_a_key_is_described_as_one_that_is_never_read(self) -> None:
        described, components = schemas([CertificatePut, CertificatePush])
        for kind in ("CertificatePut", "CertificateMaterial"):
            self.assertIs(components[kind]["properties"]["key"]["writeOnly"], True)
        self.assertEqual(len(described), 2)

    def test_the_hash_is_that_of_the_one_file_that_a_server_reads(self) -> None:
        self.assertNotEqual(material_sha256(CERTIFICATE, KEY), material_sha256(CERTIFICATE * 2, KEY))
        self.assertEqual(len(msgspec.to_builtins(material())["version"]["sha256"]), 64)
