"""A node's TLS door and its clients, over real sockets: what is negotiated, and what is refused with which reason (E9)."""

from __future__ import annotations

import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from avinet.trust.authority import Credential, new_issuing, new_key, new_node, new_root, node_name, renewal_due
from avinet.trust.tls import ClientTLS, ServerTLS, refusal
from tests.running import asynchronous

NOW = datetime.now(UTC)
NAME = node_name("node-1", "dexample")
ROOT = new_root("dexample", NOW)
ISSUING = new_issuing(ROOT, "dexample", NOW)


class Greeter(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(b"hello")


class Hearer(Protocol):
    def __init__(self) -> None:
        self.heard: Deferred[bytes] = Deferred()
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        if not self.heard.called:
            self.heard.callback(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.heard.called:
            self.heard.errback(reason)
        self.closed.callback(None)


def greeting_by_the_system(port: int) -> bytes:
    """What a program hears there that trusts what the system trusts."""
    context = ssl.create_default_context()
    plain = socket.create_connection(("127.0.0.1", port), 30)
    with context.wrap_socket(plain, server_hostname=NAME) as secured:
        return secured.recv(5)


class TLSTests(TestCase):
    async def serve(self, options: Any) -> int:
        port = await SSL4ServerEndpoint(reactor, 0, options, interface="127.0.0.1").listen(Factory.forProtocol(Greeter))
        self.addCleanup(port.stopListening)
        return port.getHost().port

    async def dial(self, port: int, creator: Any) -> Hearer:
        endpoint = wrapClientTLS(creator, TCP4ClientEndpoint(reactor, "127.0.0.1", port))
        protocol = await endpoint.connect(Factory.forProtocol(Hearer))
        try:
            await protocol.heard
        finally:
            self.group = protocol.transport.getHandle().get_group_name()
            self.version = protocol.transport.getHandle().get_protocol_version_name()
            protocol.transport.loseConnection()
            await protocol.closed
        return protocol

    async def refused(self, port: int, creator: Any) -> str:
        try:
            await self.dial(port, creator)
        except Exception:
            reason = refusal(Failure())
            assert reason is not None, Failure()
            return reason
        raise AssertionError("the connection was accepted")

    def server(self, credential: Credential, issuing: Credential = ISSUING) -> ServerTLS:
        return ServerTLS(credential, [issuing.certificate])

    @asynchronous
    async def test_tls_1_3_with_a_post_quantum_group(self) -> None:
        port = await self.serve(self.server(new_node(ISSUING, "node-1", "dexample", NOW)))
        await self.dial(port, ClientTLS(NAME, [ROOT.certificate], NOW))
        self.assertEqual((self.version, self.group.lower()), ("TLSv1.3", "x25519mlkem768"))

    @asynchronous
    async def test_tls_1_2_is_refused_by_both_ends(self) -> None:
        port = await self.serve(self.server(new_node(ISSUING, "node-1", "dexample", NOW)))
        old = CertificateOptions(lowerMaximumSecurityTo=TLSVersion.TLSv1_2)

        @implementer(IOpenSSLClientConnectionCreator)
        class OldClient:
            def clientConnectionForTLS(self, protocol: Any) -> Any:
                return SSL.Connection(old.getContext(), None)

        self.assertIn("version", await self.refused(port, OldClient()))

    @asynchronous
    async def test_what_is_refused_and_why(self) -> None:
        stranger = new_root("dexample", NOW)
        self_signed_key = new_key()
        name = x509.Name([])
        self_signed = Credential(
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self_signed_key.public_key())
            .serial_number(1)
            .not_valid_before(NOW)
            .not_valid_after(NOW + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
            .sign(self_signed_key, hashes.SHA256()),
            self_signed_key,
        )
        good = new_node(ISSUING, "node-1", "dexample", NOW)
        unsigned = "its certificate is not signed by the root CA, or not valid now"
        for what, server, client, reason in (
            ("another root CA", good, ClientTLS(NAME, [stranger.certificate], NOW), unsigned),
            ("self-signed", self_signed, ClientTLS(NAME, [ROOT.certificate], NOW), unsigned),
            ("expired", good, ClientTLS(NAME, [ROOT.certificate], NOW + timedelta(days=8)), unsigned),
            ("the client's clock in 1970", good, ClientTLS(NAME, [ROOT.certificate], datetime(1970, 1, 2)), unsigned),
            (
                "another node's name",
                new_node(ISSUING, "node-2", "dexample", NOW),
                ClientTLS(NAME, [ROOT.certificate], NOW),
                "its certificate is for another name",
            ),
            (
                "another domain",
                new_node(ISSUING, "node-1", "dother", NOW),
                ClientTLS(NAME, [ROOT.certificate], NOW),
                None,
            ),
        ):
            port = await self.serve(self.server(server))
            said = await self.refused(port, client)
            if reason is not None:
                self.assertEqual(said, reason, what)

    @asynchronous
    async def test_a_ca_that_the_system_trusts_is_a_stranger_s(self) -> None:
        stranger = new_root("dexample", NOW)
        issuing = new_issuing(stranger, "dexample", NOW)
        path = Path(self.mktemp())
        path.write_bytes(stranger.certificate.public_bytes(Encoding.PEM))
        before = mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(path.absolute())})
        before.start()
        self.addCleanup(before.stop)
        port = await self.serve(self.server(new_node(issuing, "node-1", "dexample", NOW), issuing))
        self.assertEqual(await deferToThread(greeting_by_the_system, port), b"hello")
        said = await self.refused(port, ClientTLS(NAME, [ROOT.certificate], NOW))
        self.assertEqual(said, "its certificate is not signed by the root CA, or not valid now")

    @asynchronous
    async def test_the_certificate_is_replaced_while_it_serves(self) -> None:
        tls = self.server(new_node(ISSUING, "node-2", "dexample", NOW))
        port = await self.serve(tls)
        await self.refused(port, ClientTLS(NAME, [ROOT.certificate], NOW))
        tls.replace(new_node(ISSUING, "node-1", "dexample", NOW), [ISSUING.certificate])
        await self.dial(port, ClientTLS(NAME, [ROOT.certificate], NOW))

    def test_a_third_of_the_life_is_the_time_to_renew(self) -> None:
        certificate = new_node(ISSUING, "node-1", "dexample", NOW).certificate
        self.assertFalse(renewal_due(certificate, NOW + timedelta(days=2)))
        self.assertTrue(renewal_due(certificate, NOW + timedelta(days=2, hours=9)))
