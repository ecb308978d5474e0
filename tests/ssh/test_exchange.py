"""Both halves of each key exchange by themselves, and the keys that come of it beside Conch's own."""

from __future__ import annotations

from twisted.conch.ssh.transport import SSHTransportBase
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import PeerError
from avinet.ssh.exchange import EXCHANGES, derived


class ExchangeTests(SynchronousTestCase):
    def test_both_ends_have_the_same_secret_and_a_new_one_each_time(self) -> None:
        for exchange in EXCHANGES.values():
            secrets = set()
            for _ in range(3):
                client = exchange()
                answer, secret = exchange.answered(client.ours)
                self.assertEqual(client.secret(answer), secret)
                secrets.add(secret)
            self.assertEqual(len(secrets), 3)

    def test_what_is_no_key_is_the_peers_fault(self) -> None:
        for exchange in EXCHANGES.values():
            client = exchange()
            answer, _ = exchange.answered(client.ours)
            for bad in (b"", client.ours[:-1], client.ours + b"\0", client.ours[:-32] + bytes(32)):
                self.assertRaises(PeerError, exchange.answered, bad)
            for bad in (b"", answer[:-1], answer + b"\0", answer[:-32] + bytes(32)):
                self.assertRaises(PeerError, client.secret, bad)

    def test_keys_are_those_of_another_implementation(self) -> None:
        secret, exchange_hash, session_id = b"\0\0\0\1K", b"H" * 32, b"S" * 32
        conch = SSHTransportBase()
        conch.kexAlg, conch.sessionID = b"curve25519-sha256", session_id
        keys = [conch._getKey(letter, secret, exchange_hash)[:64] for letter in (b"A", b"B", b"C", b"D", b"E", b"F")]
        to_server, to_client = derived(secret, exchange_hash, session_id)
        self.assertEqual([tuple(to_server), tuple(to_client)], [tuple(keys[0::2]), tuple(keys[1::2])])
