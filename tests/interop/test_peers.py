"""What the stock peers offer: none of what they had before has gone unseen, and all that we offer meets one of them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh.policy import Policy
from tests.interop import test_clients, test_servers
from tests.interop.algorithms import Combination, Offers, each_once, product
from tests.interop.matrix import combinations
from tests.interop.peers import Peer
from tests.peers import require

CLIENTS = (
    test_clients.OpenSSHTests,
    test_clients.AsyncsshTests,
    test_clients.ParamikoTests,
    test_clients.DropbearTests,
)
SERVERS = (test_servers.OpenSSHTests, test_servers.AsyncsshTests)
OURS = frozenset(map(bytes.decode, (*Policy.key_exchanges, *Policy.ciphers, *Policy.macs)))


def tested(peer: Peer) -> frozenset[str]:
    """The algorithms that a peer is tested with."""
    require(peer.program)
    return frozenset(name for each in combinations(peer) for name in each.algorithms)


class PeerTests(SynchronousTestCase):
    """Nothing is left out in silence: what a version of a peer cannot do is known, and no more than that is missing."""

    def test_each_has_what_every_version_of_it_has_and_is_tested_with_all_of_that(self) -> None:
        for case in (*CLIENTS, *SERVERS):
            peer = case.peer
            have = tested(peer)
            self.assertEqual(peer.offers().lack(peer.least), [], peer.name)
            least = peer.least.exchanges | peer.least.ciphers | peer.least.macs
            self.assertEqual(sorted(least - have), [], peer.name)

    def test_every_algorithm_of_the_policy_meets_a_client_and_a_server(self) -> None:
        for cases in (CLIENTS, SERVERS):
            met = frozenset[str]().union(*(tested(case.peer) for case in cases))
            self.assertEqual(sorted(OURS - met), [])

    def test_each_combination_is_a_test_of_its_own(self) -> None:
        for case in (*CLIENTS, *SERVERS):
            require(case.peer.program)
            for each in combinations(case.peer):
                self.assertTrue(callable(getattr(case, f"test_{each.identifier}")))


class CombinationTests(SynchronousTestCase):
    """Two ways to go through the algorithms of both ends."""

    OFFERS = Offers(
        frozenset({"curve25519-sha256", "mlkem768x25519-sha256", "diffie-hellman-group1-sha1"}),
        frozenset({"aes128-gcm@openssh.com", "aes128-ctr", "3des-cbc"}),
        frozenset({"hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-md5"}),
    )
    SEALS = (
        ("aes128-gcm@openssh.com", ""),
        ("aes128-ctr", "hmac-sha2-256-etm@openssh.com"),
        ("aes128-ctr", "hmac-sha2-512-etm@openssh.com"),
    )

    def test_the_product_has_everything_with_everything(self) -> None:
        every = {
            Combination(exchange, *seal)
            for exchange in ("curve25519-sha256", "mlkem768x25519-sha256")
            for seal in self.SEALS
        }
        self.assertEqual(set(product(self.OFFERS)), every)
        self.assertEqual(len(product(self.OFFERS)), len(every))

    def test_each_once_has_everything_in_as_few_as_can_be(self) -> None:
        found = each_once(self.OFFERS)
        self.assertEqual({(each.cipher, each.mac) for each in found}, set(self.SEALS))
        self.assertEqual({each.exchange for each in found}, {"curve25519-sha256", "mlkem768x25519-sha256"})
        self.assertEqual(len(found), len(self.SEALS))

    def test_nothing_in_common_is_no_combination(self) -> None:
        nothing = Offers(frozenset(), self.OFFERS.ciphers, self.OFFERS.macs)
        self.assertEqual((product(nothing), each_once(nothing)), ([], []))
