"""Root CAs that follow one another, and keys of a node: who believes what, before, meanwhile and after."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase

from avinet.errors import Conflict, Invalid, LocalError, Unauthenticated
from avinet.trust import keys
from avinet.trust.authority import Credential, IssuingCA, cross, domain_of, new_issuing, new_node, new_root, node_name
from avinet.trust.document import sign_document, verify_document
from avinet.trust.domain import Domain, found, load
from avinet.trust.image import fingerprint
from avinet.trust.path import ASLEEP_S, Distrusted, judged_at, verify_node
from avinet.trust.succession import (
    check_successor,
    found_issuing,
    found_root,
    keep_successor,
    make_next_keys,
    read_root,
    settled,
    take_next_keys,
    take_successor,
)
from avinet.trust.tls import ClientTLS, ServerTLS
from tests.running import asynchronous

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = node_name("node-1", "dexample")


def succession(count: int) -> tuple[list[Credential], IssuingCA]:
    """Roots that followed one another, and the issuing CA under the last of them."""
    roots = [new_root("dexample", NOW)]
    crossed: list[x509.Certificate] = []
    for _ in range(count - 1):
        roots.append(new_root("dexample", NOW))
        crossed.insert(0, cross(roots[-1].certificate, roots[-2], "dexample", NOW))
    return roots, new_issuing(roots[-1], "dexample", NOW, crossed)


class PathTests(SynchronousTestCase):
    def test_every_root_that_came_before_leads_to_the_node(self) -> None:
        for count in (1, 2, 3, 6):
            roots, issuing = succession(count)
            node = new_node(issuing, "node-1", "dexample", NOW)
            text = b"a trust document"
            signature = sign_document(text, issuing)
            for root in roots:
                verify_node([node.certificate, *issuing.chain], NAME, [root.certificate], NOW)
                verify_document(text, signature, issuing.chain_pem.encode(), [root.certificate], NOW)
            stranger = new_root("dexample", NOW).certificate
            with self.assertRaises(Distrusted):
                verify_node([node.certificate, *issuing.chain], NAME, [stranger], NOW)
            with self.assertRaises(Unauthenticated):
                verify_document(text, signature, issuing.chain_pem.encode(), [stranger], NOW)

    def test_a_former_root_vouches_until_it_expires_itself(self) -> None:
        old = new_root("dexample", NOW - timedelta(days=3600))
        later = new_root("dexample", NOW)
        issuing = new_issuing(later, "dexample", NOW, [cross(later.certificate, old, "dexample", NOW)])
        text, signature = b"a trust document", sign_document(b"a trust document", issuing)
        node = new_node(issuing, "node-1", "dexample", NOW)
        verify_node([node.certificate, *issuing.chain], NAME, [old.certificate], NOW)
        after = old.certificate.not_valid_after_utc + timedelta(days=1)
        node = new_node(issuing, "node-1", "dexample", after)
        with self.assertRaises(Distrusted):
            verify_node([node.certificate, *issuing.chain], NAME, [old.certificate], after)
        with self.assertRaisesRegex(Unauthenticated, "has expired"):
            verify_document(text, signature, issuing.chain_pem.encode(), [old.certificate], after)
        verify_document(text, signature, issuing.chain_pem.encode(), [later.certificate], after)

    def test_a_certificate_outlives_nothing_that_it_hangs_on(self) -> None:
        root = new_root("dexample", NOW - timedelta(days=3648))
        issuing = new_issuing(root, "dexample", NOW)
        node = new_node(issuing, "node-1", "dexample", NOW)
        until = root.certificate.not_valid_after_utc
        self.assertEqual(issuing.certificate.not_valid_after_utc, until)
        self.assertEqual(node.certificate.not_valid_after_utc, until)

    def test_the_time_at_which_that_is_judged(self) -> None:
        """On a machine whose clock may say anything, also where it is in use for longer than its image is good."""
        built, verified, not_after = 1000.0, 3000.0, 2000.0
        for clock, server_time, wanted in (
            (1500.0, 0.0, 1500.0),
            (0.0, 0.0, built),
            (2500.0, 0.0, built),
            (1500.0, verified, verified),
            (3500.0, verified, 3500.0),
            (verified + ASLEEP_S, verified, verified + ASLEEP_S),
            (verified + ASLEEP_S + 1, verified, verified),
        ):
            found = judged_at(clock, built, server_time, not_after).timestamp()
            self.assertEqual(found, wanted, (clock, server_time))

    def test_what_a_root_is_constrained_to_says_of_which_domain_it_is(self) -> None:
        roots, issuing = succession(2)
        self.assertEqual(domain_of(roots[1].certificate), "dexample")
        self.assertEqual(domain_of(issuing.crossed[0]), "dexample")
        self.assertIsNone(domain_of(issuing.certificate))
        self.assertIsNone(domain_of(new_node(issuing, "node-1", "dexample", NOW).certificate))


class TLSPathTests(TestCase):
    @asynchronous
    async def test_openssl_follows_the_same_paths(self) -> None:
        """What a sleeping service engine, a new one, and one that knows both see, at one door."""
        now = datetime.now(UTC)
        roots, issuing = succession(3)
        door = ServerTLS(new_node(issuing, "node-1", "dexample", now), issuing.chain)
        greeter = Factory.forProtocol(Greeter)
        port = await SSL4ServerEndpoint(reactor, 0, door, interface="127.0.0.1").listen(greeter)
        self.addCleanup(port.stopListening)
        oldest, middle, latest = (each.certificate for each in roots)
        for trusted in ([oldest], [middle], [latest], [oldest, latest], [latest, middle, oldest]):
            client = wrapClientTLS(
                ClientTLS(NAME, trusted, now), TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
            )
            protocol = await client.connect(Factory.forProtocol(Hearer))
            self.assertEqual(await protocol.heard, b"hello")
            protocol.transport.abortConnection()


class Greeter(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(b"hello")


class Hearer(Protocol):
    def __init__(self) -> None:
        self.heard: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        if not self.heard.called:
            self.heard.callback(data)

    def connectionLost(self, reason: object = None) -> None:
        if not self.heard.called:
            self.heard.errback(reason)  # type: ignore[arg-type]


class FolderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.domain = found(self.state / "trust", "node-1", NOW)
        self.root = read_root(self.domain.folder / "root.pem", self.domain.folder / "root.key")

    def successor(self, folder: str = "next") -> IssuingCA:
        return found_root(self.root, self.state / folder, NOW)

    def believed(self, domain: Domain, root: x509.Certificate) -> None:
        verify_node(domain.server_chain, domain.name, [root], NOW)

    def test_a_root_follows_and_the_old_one_vouches_for_it(self) -> None:
        following = check_successor(self.domain, self.successor(), NOW)
        kept = keep_successor(self.domain, following)
        self.assertEqual(shown(kept), shown(load(self.domain.folder)))
        self.assertEqual(kept.server_chain, self.domain.server_chain)
        taken = take_successor(kept, NOW)
        self.assertEqual(shown(taken), shown(load(self.domain.folder)))
        for root in (self.domain.root, following.root):
            self.believed(taken, root)
        self.assertEqual((self.domain.folder / "root.pem").read_text(), taken.root_pem)
        for each in (self.state / "next").iterdir():
            self.assertEqual(each.stat().st_mode & 0o777, 0o600)

    def test_one_that_slept_through_two_successions_comes_back(self) -> None:
        first = take_successor(keep_successor(self.domain, check_successor(self.domain, self.successor(), NOW)), NOW)
        root = read_root(self.state / "next" / "root.pem", self.state / "next" / "root.key")
        second = check_successor(first, found_root(root, self.state / "third", NOW), NOW)
        taken = take_successor(keep_successor(first, second), NOW)
        for each in (self.domain.root, first.root, taken.root):
            self.believed(taken, each)

    def test_an_issuing_ca_follows_under_the_same_root(self) -> None:
        following = check_successor(self.domain, found_issuing(self.root, (), self.state / "next", NOW), NOW)
        taken = take_successor(keep_successor(self.domain, following), NOW)
        self.believed(taken, self.domain.root)
        self.assertNotEqual(taken.issuing.certificate, self.domain.issuing.certificate)
        self.assertFalse((self.state / "next" / "root.key").exists())

    def test_what_cannot_follow_is_refused(self) -> None:
        other = found(self.state / "other", "node-1", NOW)
        stranger = new_root(self.domain.id, NOW)
        good = self.successor()
        for what, following in {
            "of another domain": other.issuing,
            "not vouched for": new_issuing(stranger, self.domain.id, NOW),
            "vouched for by a stranger": replace(
                good, crossed=(cross(good.root, new_root(self.domain.id, NOW), self.domain.id, NOW),)
            ),
            "with another root than it is under": replace(good, root=self.domain.root),
            "expired": new_issuing(self.root, self.domain.id, NOW - timedelta(days=3000)),
        }.items():
            with self.assertRaisesRegex(Invalid, "that is no issuing CA that this node can use", msg=what):
                check_successor(self.domain, following, NOW)

    def test_nothing_is_overwritten(self) -> None:
        self.successor()
        self.assertRaises(Conflict, self.successor)
        self.assertRaises(LocalError, read_root, self.state / "next" / "root.pem", self.domain.folder / "root.key")
        self.assertRaises(LocalError, read_root, self.state / "none.pem", self.domain.folder / "root.key")

    def test_the_power_may_be_cut_anywhere_while_it_is_taken(self) -> None:
        """A node that starts then has an issuing CA and a certificate that belong together."""
        kept = keep_successor(self.domain, check_successor(self.domain, self.successor(), NOW))
        cuts = 0
        for at in range(1, 20):
            folder = self.state / f"cut-{at}"
            shutil.copytree(kept.folder, folder)
            patch = self.patch(os, "fsync", Cutting(at))
            try:
                take_successor(load(folder), NOW)
            except Cut:
                cuts += 1
            finally:
                patch.restore()
            now = load(folder).renewed(NOW)
            self.believed(now, self.domain.root)
            if now.next_issuing is None:
                self.believed(now, kept.next_issuing.root)  # type: ignore[union-attr]
        self.assertGreater(cuts, 1)

    def test_an_issuing_ca_that_was_to_be_used_at_once_is_used_by_the_next_start(self) -> None:
        following = check_successor(self.domain, found_issuing(self.root, (), self.state / "next", NOW), NOW)
        keep_successor(self.domain, following)
        late = NOW + timedelta(days=4000)
        dropped = settled(load(self.domain.folder), late)
        self.assertIsNone(dropped.next_issuing, "it has expired meanwhile")
        self.assertEqual(dropped.issuing.certificate, self.domain.issuing.certificate)
        keep_successor(self.domain, following)
        taken = settled(load(self.domain.folder), NOW)
        self.assertEqual(shown(taken), shown(load(self.domain.folder)))
        self.assertEqual(taken.issuing.certificate, following.certificate)
        self.believed(taken, self.domain.root)

    def test_a_root_that_waits_for_the_fleet_waits_on_after_a_start(self) -> None:
        kept = keep_successor(self.domain, check_successor(self.domain, self.successor(), NOW))
        self.assertEqual(shown(settled(load(self.domain.folder), NOW)), shown(kept))

    def test_a_node_whose_issuing_ca_is_over_can_be_given_another(self) -> None:
        after = self.domain.issuing.certificate.not_valid_after_utc + timedelta(days=1)
        over = load(self.domain.folder).renewed(after)
        with self.assertRaises(Distrusted):
            verify_node(over.server_chain, over.name, [over.root], after)
        made = found_issuing(self.root, (), self.state / "next", after)
        taken = take_successor(keep_successor(over, check_successor(over, made, after)), after)
        verify_node(taken.server_chain, taken.name, [self.domain.root], after)

    def test_the_root_that_is_left_stands_beside_the_one_in_use(self) -> None:
        taken = take_successor(keep_successor(self.domain, check_successor(self.domain, self.successor(), NOW)), NOW)
        name = f"root-{fingerprint(self.domain.root)[:16]}"
        self.assertEqual((taken.folder / f"{name}.pem").read_text(), self.domain.root_pem)
        self.assertEqual((taken.folder / f"{name}.key").stat().st_mode & 0o777, 0o600)
        self.assertFalse((taken.folder / "root.key").exists())
        again = read_root(taken.folder / f"{name}.pem", taken.folder / f"{name}.key")
        self.assertEqual(again.certificate, self.domain.root)

    def test_keys_of_a_node_follow(self) -> None:
        made = make_next_keys(self.domain)
        self.assertEqual(lines(made), lines(make_next_keys(load(self.domain.folder))))
        self.assertEqual(lines(made)[:2], lines(self.domain)[:2])
        taken = take_next_keys(made)
        self.assertEqual(lines(taken)[:2], lines(made)[2:])
        self.assertEqual(lines(taken), lines(load(self.domain.folder)))
        self.assertEqual(lines(take_next_keys(taken)), lines(taken))


class Cut(BaseException):
    """The machine loses its power here."""


class Cutting:
    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, descriptor: int) -> None:
        self.left -= 1
        if not self.left:
            raise Cut


def shown(domain: Domain) -> tuple[object, ...]:
    """What a domain is, but for the objects that its keys are."""
    following = domain.next_issuing
    return domain.server_chain, domain.root, domain.issuing.pem, following and following.pem


def lines(domain: Domain) -> list[str]:
    held = (
        domain.ssh_host_key,
        domain.avictlruser_key,
        domain.next_ssh_host_key,
        domain.next_avictlruser_key,
    )
    return ["" if each is None else keys.public_line(each) for each in held]
