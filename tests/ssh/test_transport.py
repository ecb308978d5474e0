"""Two ends under changes of keys and back-pressure, and a server under a peer that breaks every rule of RFC 4253."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.service import SSHService
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import PeerError
from avinet.ssh import phases
from avinet.ssh.ciphers import CIPHERS, MACS, authenticates
from avinet.ssh.exchange import EXCHANGES, MLKEM768Curve25519
from avinet.ssh.identity import Identity
from avinet.ssh.negotiation import Proposal
from avinet.ssh.packets import Outbound
from avinet.ssh.policy import Policy
from avinet.ssh.strings import string, uint32
from avinet.ssh.writing import GATHERED_BYTES
from tests.ssh.attacker import Attacker, OldAttacker, Siege
from tests.ssh.echo import Cat, RunCat
from tests.ssh.pair import Pair, Recorder, logged_in

VERSION = b"SSH-2.0-attacker\r\n"


SEALS = tuple((cipher, mac) for cipher in CIPHERS for mac in ([b""] if authenticates(cipher) else MACS))
"""Every cipher, with every MAC that it can be used with."""


def sealed_by(cipher: bytes, mac: bytes, **settings: Any) -> Policy:
    """A policy that has one cipher and one MAC."""
    return Policy(ciphers=(cipher,), macs=(mac,) if mac else tuple(MACS), **settings)


def received(service: SSHService | None) -> list[bytes]:
    """The payloads that a recorder has seen."""
    assert isinstance(service, Recorder)
    return [payload for _, payload in service.received]


class LoginTests(SynchronousTestCase):
    """Two ends come to know each other."""

    def test_every_algorithm_of_the_policy_works(self) -> None:
        for exchange in EXCHANGES:
            for cipher, mac in SEALS:
                pair = logged_in(client_policy=sealed_by(cipher, mac, key_exchanges=(exchange,)))
                assert pair.server.algorithms is not None
                self.assertEqual(pair.server.algorithms, pair.client.algorithms)
                self.assertEqual(pair.server.algorithms.key_exchange, exchange)
                self.assertEqual(pair.server.algorithms.cipher_to_client, cipher)
                self.assertEqual(pair.server.algorithms.mac_to_server, mac)
                pair.close()

    def test_the_post_quantum_exchange_is_the_first_choice_and_both_ends_are_strict(self) -> None:
        pair = logged_in()
        assert pair.server.algorithms is not None
        self.assertEqual(pair.server.algorithms.key_exchange, b"mlkem768x25519-sha256")
        self.assertTrue(pair.server.phases.strict)
        self.assertTrue(pair.client.phases.strict)
        pair.close()

    def test_it_works_byte_by_byte(self) -> None:
        pair = logged_in(chunk_bytes=1)
        pair.client.sendPacket(80, b"hello")
        pair.flush()
        self.assertEqual(received(pair.server.service), [b"hello"])
        pair.close()

    def test_little_things_of_a_turn_are_written_together(self) -> None:
        pair = logged_in()
        turn: list[Callable[[], None]] = []
        pair.client._end_of_turn = turn.append
        for message in (b"one", b"two"):
            pair.client.sendPacket(80, message)
        pair.flush()
        self.assertEqual(received(pair.server.service), [])
        self.assertEqual(set(turn), {turn[0]})
        turn[0]()
        pair.flush()
        self.assertEqual(received(pair.server.service), [b"one", b"two"])
        pair.client.sendPacket(80, b"three")
        pair.client.sendPacket(80, bytes(GATHERED_BYTES))
        pair.flush()
        self.assertEqual(received(pair.server.service)[2:], [b"three", bytes(GATHERED_BYTES)])
        pair.client.sendPacket(80, b"before the end")
        service = pair.server.service
        pair.close()
        turn[-1]()
        self.assertEqual(received(service)[4:], [b"before the end"])

    def test_the_service_starts_once_and_stops_once(self) -> None:
        pair = logged_in()
        server, client = pair.server.service, pair.client.service
        assert isinstance(server, Recorder)
        assert isinstance(client, Recorder)
        pair.close()
        self.assertEqual(server.events, ["started", "stopped"])
        self.assertEqual(client.events, ["started", "stopped"])

    def test_what_is_shown_of_a_peer(self) -> None:
        pair = logged_in()
        self.assertEqual(pair.server.address, "192.0.2.1:22")
        self.assertTrue(pair.server.otherVersionString.startswith(b"SSH-2.0-avinet_"))
        pair.close()


class NewKeysTests(SynchronousTestCase):
    """Keys change under way, from either end, and nothing is lost (S20, S22)."""

    def send_numbered(self, pair: Pair, rounds: int, between: Callable[[int], None], size: int = 4) -> None:
        """Send messages both ways without waiting, then see that all came in order."""
        messages = [uint32(number) * (size // 4) for number in range(rounds)]
        for number, message in enumerate(messages):
            between(number)
            pair.client.sendPacket(94, message)
            pair.server.sendPacket(94, message)
            if number % 3 == 0 or size > 4:
                pair.wires.step()
        pair.flush()
        for service in (pair.server.service, pair.client.service):
            self.assertEqual(received(service), messages)

    def test_from_either_end_and_from_both_at_once(self) -> None:
        for who in ("client", "server", "both"):
            pair = logged_in(chunk_bytes=1500)

            def begin(number: int, pair: Pair = pair, who: str = who) -> None:
                if number % 7 == 0:
                    if who != "server":
                        pair.client.rekey()
                    if who != "client":
                        pair.server.rekey()

            self.send_numbered(pair, 60, begin)
            self.assertGreater(pair.server.exchanges, 2)
            self.assertEqual(pair.server.exchanges, pair.client.exchanges)
            pair.close()

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.sampled_from("crsx"), max_size=40), st.integers(1, 5000))
    def test_in_any_order_of_events(self, events: list[str], chunk_bytes: int) -> None:
        pair = logged_in(chunk_bytes=chunk_bytes)
        for at, event in enumerate(events):
            if event == "c":
                pair.client.rekey()
            elif event == "r":
                pair.server.rekey()
            elif event == "s":
                pair.client.sendPacket(94, uint32(at))
                pair.server.sendPacket(94, uint32(at))
            else:
                pair.wires.step()
        pair.flush()
        sent = [uint32(at) for at, event in enumerate(events) if event == "s"]
        self.assertEqual(received(pair.server.service), sent)
        self.assertEqual(received(pair.client.service), sent)
        pair.close()

    def test_aside_messages_in_the_gap_between_both_newkeys_go_out_under_the_right_keys(self) -> None:
        for sender in ("client", "server"):
            pair = logged_in(chunk_bytes=64)
            pair.client.rekey()
            end = getattr(pair, sender)
            while pair.wires.step():
                end.sendIgnore(b"")
                if pair.wires.moved_bytes > 100_000:
                    break
            pair.flush()
            self.assertFalse(pair.server.closing or pair.client.closing)
            self.assertEqual(pair.server.exchanges, 2)
            pair.close()

    def test_the_login_is_not_asked_for_again(self) -> None:
        pair = logged_in()
        service = pair.client.service
        pair.client.rekey()
        pair.flush()
        self.assertIs(pair.client.service, service)
        self.assertEqual(len(pair.admission.admitted), 1)
        pair.close()

    def test_so_many_bytes_in_either_direction_bring_new_keys(self) -> None:
        for end, sender in (("client_policy", "client"), ("client_policy", "server"), ("server_policy", "client")):
            pair = logged_in(**{end: Policy(rekey_bytes=20_000)})
            for _ in range(30):
                getattr(pair, sender).sendPacket(94, bytes(1000))
                pair.flush()
            self.assertEqual(pair.server.exchanges, 2, (end, sender))
            pair.close()

    def test_so_many_packets_in_either_direction_bring_new_keys(self) -> None:
        for end, sender in (("client_policy", "client"), ("client_policy", "server"), ("server_policy", "client")):
            pair = logged_in(**{end: Policy(rekey_packets=20)})
            for _ in range(30):
                getattr(pair, sender).sendPacket(94, b"x")
                pair.flush()
            self.assertEqual(pair.server.exchanges, 2, (end, sender))
            pair.close()

    def test_a_fleet_that_logged_in_at_once_does_not_make_new_keys_at_once(self) -> None:
        pairs = [logged_in() for _ in range(20)]
        made = []
        for _ in range(9):
            for pair in pairs:
                pair.clock.advance(100 if made else 2700)
                pair.client.sendPacket(94, b"")
                pair.flush()
            made.append(sum(pair.server.exchanges == 2 for pair in pairs))
        self.assertEqual(made[0], 0)
        self.assertGreater(len(set(made)), 3, made)
        for pair in pairs:
            pair.clock.advance(200)
            pair.client.sendPacket(94, b"")
            pair.flush()
            self.assertGreaterEqual(pair.server.exchanges, 2)
            pair.close()

    def test_an_hour_brings_new_keys_with_the_next_packet(self) -> None:
        pair = logged_in()
        pair.clock.advance(3601)
        self.assertEqual(pair.server.exchanges, 1)
        pair.client.sendPacket(94, b"")
        pair.flush()
        self.assertEqual(pair.server.exchanges, 2)
        pair.close()

    def test_algorithms_may_change_with_the_keys_from_any_to_any(self) -> None:
        pair = logged_in(client_policy=sealed_by(*SEALS[0]))
        chain = [after for before in SEALS for other in SEALS if other != before for after in (before, other)]
        for number, (cipher, mac) in enumerate(chain):
            exchange = tuple(EXCHANGES)[number % len(EXCHANGES)]
            pair.client.policy = sealed_by(cipher, mac, key_exchanges=(exchange,))
            (pair.client, pair.server)[number % 2].rekey()
            pair.client.sendPacket(94, uint32(number))
            pair.server.sendPacket(94, uint32(number))
            pair.flush()
            agreed = pair.server.algorithms
            assert agreed is not None
            self.assertEqual(agreed, pair.client.algorithms)
            self.assertEqual(
                (agreed.key_exchange, agreed.cipher_to_server, agreed.mac_to_client), (exchange, cipher, mac)
            )
        for service in (pair.server.service, pair.client.service):
            self.assertEqual(received(service), [uint32(number) for number in range(len(chain))])
        self.assertEqual(pair.server.exchanges, 1 + len(chain))
        pair.close()

    def test_answers_may_come_in_the_middle_of_an_exchange_that_the_peer_began(self) -> None:
        siege = Siege()
        siege.log_in()
        siege.attacker.sendKexInit()
        answers = [(number, uint32(number)) for number in (81, 82, 91, 92)]
        siege.attacker.say_all(*answers)
        siege.flush()
        self.assertEqual(siege.services[0].received, answers)
        self.assertEqual(siege.server.exchanges, 2)
        siege.end()

    def test_packet_counters_wrap(self) -> None:
        """(S23)"""
        pair = logged_in()
        for end in (pair.server, pair.client):
            end._inbound.sequence = end._outbound.sequence = 2**32 - 2
        self.send_numbered(pair, 5, lambda _: None)
        pair.close()

    def test_every_kilobyte_to_megabyte_under_load_both_ways_whatever_seals_it(self) -> None:
        for cipher, mac in SEALS:
            for rekey_bytes, size in ((1_000, 400), (10_000, 4_000), (100_000, 16_000), (1_000_000, 32_000)):
                policy = sealed_by(cipher, mac, rekey_bytes=rekey_bytes)
                pair = logged_in(client_policy=policy, server_policy=policy, chunk_bytes=size * 2)
                self.send_numbered(pair, 200, lambda _: None, size)
                self.assertGreater(pair.server.exchanges, 5, (cipher, mac, rekey_bytes))
                self.assertEqual(pair.server.exchanges, pair.client.exchanges)
                pair.close()

    def test_a_stream_survives_many_changes_of_keys(self) -> None:
        small = Policy(rekey_bytes=1000)

        def run(identity: Identity) -> RunCat:
            service = RunCat(identity)
            service.queue += bytes(range(256)) * 800
            return service

        pair = Pair(Cat, run, client_policy=small, server_policy=small, chunk_bytes=900)
        pair.flush()
        service = pair.client.service
        assert isinstance(service, RunCat)
        self.assertEqual(self.successResultOf(service.done), bytes(range(256)) * 800)
        self.assertGreater(pair.server.exchanges, 2)
        pair.close()


class StalledExchangeTests(SynchronousTestCase):
    """A peer that begins a change of keys and does not end it (S21)."""

    def stalled(self) -> Siege:
        siege = Siege(policy=Policy(backlog_bytes=50_000))
        siege.log_in()
        siege.attacker.deaf = True
        siege.attacker.say(phases.KEXINIT, Proposal.of(Policy(), client=True).encode(bytes(16)))
        siege.flush()
        return siege

    def test_it_has_a_deadline(self) -> None:
        siege = self.stalled()
        siege.clock.advance(29)
        self.assertFalse(siege.server.closing)
        siege.clock.advance(2)
        siege.flush()
        self.assertTrue(siege.cut)
        self.assertIn("finish a key exchange", siege.server.why)
        siege.end()

    def test_what_waits_is_bounded_and_the_service_is_told(self) -> None:
        siege = self.stalled()
        service = siege.services[0]
        self.assertEqual(service.events, ["started", "paused"])
        for _ in range(49):
            siege.server.sendPacket(94, bytes(1000))
        self.assertFalse(siege.server.closing)
        siege.server.sendPacket(94, bytes(2000))
        self.assertTrue(siege.server.closing)
        siege.flush()
        siege.end()

    def test_anything_but_its_next_message_ends_it(self) -> None:
        """(S20)"""
        kexinit = (phases.KEXINIT, Proposal.of(Policy(), client=True).encode(bytes(16)))
        offer = (phases.KEX_INIT, string(MLKEM768Curve25519().ours))
        newkeys, data = (phases.NEWKEYS, b""), (94, b"data")
        for begun, nexts in (((), (kexinit, newkeys, data)), ((offer,), (kexinit, offer, data))):
            for number, payload in nexts:
                siege = self.stalled()
                siege.attacker.say_all(*begun)
                siege.flush()
                self.assertFalse(siege.cut)
                siege.attacker.say(number, payload)
                siege.flush()
                self.assertTrue(siege.cut, (begun, number))
                self.assertEqual(siege.services[0].received, [])
                siege.end()

    def test_no_new_keys_before_the_peers_kexinit_where_we_began(self) -> None:
        """(S20)"""
        for early in (phases.NEWKEYS, phases.KEX_INIT):
            siege = Siege()
            siege.log_in()
            siege.attacker.deaf = True
            siege.server.rekey()
            siege.flush()
            siege.attacker.say(94, b"data")
            siege.attacker.say(early)
            siege.flush()
            self.assertTrue(siege.cut)
            self.assertEqual(siege.services[0].received, [(94, b"data")])
            siege.end()


class TruncationTests(SynchronousTestCase):
    """What stands at the beginning of a sealed stream cannot be cut off, whatever seals it (S4)."""

    def test_by_whoever_only_cuts(self) -> None:
        for cipher, mac in SEALS:
            for count in (1, 2, 3):
                siege = Siege(policy=sealed_by(cipher, mac))
                for _ in range(count):
                    siege.attacker.say(phases.IGNORE, string(b""))
                siege.wires.right.out.clear()
                siege.attacker.begin()
                siege.flush()
                self.assertTrue(siege.cut, (cipher, mac))
                self.assertEqual(siege.services, [])
                siege.end()

    def test_on_the_way_to_a_client(self) -> None:
        for cipher, mac in SEALS:
            pair = Pair(server_policy=sealed_by(cipher, mac))
            while pair.server.phases.stage is not phases.Stage.LOGIN:
                self.assertTrue(pair.wires.step())
            self.assertTrue(pair.wires.left.out)
            pair.wires.left.out.clear()
            pair.server.sendIgnore(b"")
            pair.flush()
            self.assertIsNone(pair.client.identity)
            self.failureResultOf(pair.client.ready(), PeerError)
            pair.close()

    def put_in_and_cut(self, siege: Siege) -> None:
        """Make the server count a packet that was not sealed, and cut the first sealed one off."""
        siege.wires.right.out += Outbound().seal(bytes((phases.IGNORE,)) + string(b""))
        siege.flush()
        if not siege.cut:
            siege.attacker.say(phases.IGNORE, string(b""))
            siege.wires.right.out.clear()
            siege.attacker.begin()
            siege.attacker.say(*siege.attacker.claim())
            siege.flush()
            siege.clock.advance(31)
            siege.flush()

    def test_by_whoever_puts_something_in_before_it(self) -> None:
        for attacker in (Attacker, OldAttacker):
            for cipher, mac in SEALS:
                siege = Siege(policy=sealed_by(cipher, mac), keyed=False, attacker=attacker)
                self.put_in_and_cut(siege)
                self.assertTrue(siege.cut, (cipher, mac))
                self.assertEqual((siege.services, siege.guests.admitted), ([], []))
                siege.end()

    def test_without_strict_key_exchange_there_is_no_cipher_that_would_not_notice(self) -> None:
        for cipher, mac in SEALS:
            siege = Siege(policy=sealed_by(cipher, mac), keyed=False, attacker=OldAttacker)
            siege.flush()
            self.assertEqual(siege.cut, authenticates(cipher), cipher)
            if not siege.cut:
                siege.log_in()
                self.assertFalse(siege.server.phases.strict)
            siege.end()


class PressureTests(SynchronousTestCase):
    """What is to be sent backs up: the service is told, and what it sends all the same is bounded."""

    def test_the_service_is_paused_and_resumed(self) -> None:
        pair = logged_in()
        service = pair.server.service
        assert isinstance(service, Recorder)
        for _ in range(10):
            pair.server.sendPacket(94, bytes(10_000))
        self.assertEqual(service.events, ["started", "paused"])
        pair.flush()
        self.assertEqual(service.events, ["started", "paused", "resumed"])
        self.assertEqual(len(received(pair.client.service)), 10)
        pair.close()

    def test_a_peer_that_reads_nothing_is_cut_off(self) -> None:
        pair = logged_in(server_policy=Policy(backlog_bytes=100_000))
        for _ in range(30):
            pair.server.sendPacket(94, bytes(10_000))
        self.assertTrue(pair.server.closing)
        self.assertLess(len(pair.wires.left.out), 200_000)
        pair.flush()
        pair.close()

    def test_a_closing_connection_that_is_not_read_is_dropped_after_a_while(self) -> None:
        pair = logged_in()
        pair.server.sendPacket(94, bytes(1000))
        pair.server.close("enough")
        pair.clock.advance(2.1)
        self.assertTrue(pair.wires.left.aborted)
        pair.flush()
        pair.close()

    def test_a_connection_that_is_backed_up_ends_once_it_is_read(self) -> None:
        siege = Siege()
        siege.log_in()
        siege.attacker.closing = True
        for _ in range(10):
            siege.server.sendPacket(94, bytes(10_000))
        siege.server.close("enough")
        siege.flush()
        self.assertTrue(siege.cut)
        self.assertFalse(siege.wires.left.aborted)
        siege.end()

    def test_a_closing_connection_keeps_nothing_of_what_comes(self) -> None:
        for end in ("close", "abortConnection"):
            pair = logged_in()
            stream = pair.client._outbound.seal(b"\x5emore")
            pair.server.close("enough") if end == "close" else pair.server.abortConnection()
            for _ in range(10):
                pair.server.dataReceived(stream)
            self.assertEqual(len(pair.server._inbound), 0)
            self.assertEqual(received(pair.server.service), [])
            pair.flush()
            pair.close()

    def test_messages_stay_in_order_when_more_arrives_during_one(self) -> None:
        class Nested(Recorder):
            more = b""

            @override
            def packetReceived(self, messageNum: int, packet: bytes) -> None:
                more, self.more = self.more, b""
                self.transport.dataReceived(more)
                super().packetReceived(messageNum, packet)

        pair = logged_in(Nested)
        service = pair.server.service
        assert isinstance(service, Nested)
        first, service.more = (pair.client._outbound.seal(b"\x5e" + text) for text in (b"first", b"second"))
        pair.server.dataReceived(first)
        self.assertEqual(received(service), [b"first", b"second"])
        pair.close()
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_nothing_is_sent_on_a_closing_connection(self) -> None:
        pair = logged_in()
        pair.server.close("enough")
        before = bytes(pair.wires.left.out)
        pair.server.sendPacket(94, b"late")
        self.assertEqual(bytes(pair.wires.left.out), before)
        pair.flush()
        self.assertEqual(pair.client.why, "it said: enough")
        pair.close()


class FaultTests(SynchronousTestCase):
    """Their faults cost a line, ours a traceback, and both end the connection."""

    class Faulty(Recorder):
        error: Exception = PeerError("it sent nonsense")

        @override
        def packetReceived(self, messageNum: int, packet: bytes) -> None:
            raise self.error

    def test_a_fault_of_the_peer_leaves_no_traceback(self) -> None:
        pair = logged_in(self.Faulty)
        pair.client.sendPacket(94, b"")
        pair.flush()
        self.assertEqual(pair.client.why, "it said: it sent nonsense")
        self.assertEqual(self.flushLoggedErrors(), [])
        pair.close()

    def test_a_fault_of_ours_is_logged_as_one(self) -> None:
        class Ours(self.Faulty):  # type: ignore[name-defined,misc]
            error = ZeroDivisionError()

        pair = logged_in(Ours)
        pair.client.sendPacket(94, b"")
        pair.flush()
        self.assertEqual(pair.client.why, "it said: an internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        pair.close()


class EarlyAttackTests(SynchronousTestCase):
    """A raw peer that sends what it should not, before there are keys."""

    def cut_off(self, siege: Siege) -> str:
        """The one line that is said of a peer that was cut off."""
        self.assertTrue(siege.cut)
        self.assertEqual(siege.services, [])
        self.assertEqual(siege.guests.admitted, [])
        self.assertEqual(len(siege.refusals), 1)
        self.assertEqual(self.flushLoggedErrors(), [])
        why: str = siege.refusals[0].why
        self.assertLess(len(why), 200)
        self.assertEqual(siege.clock.getDelayedCalls(), [])
        self.assertEqual(siege.factory.logging_in, 0)
        return why

    def raw(self, *parts: bytes, policy: Policy | None = None) -> str:
        """What is said of a peer that sends `parts` without listening."""
        siege = Siege(keyed=False, policy=policy)
        siege.wires.right.out.clear()
        siege.attacker.closing = True
        for part in parts:
            siege.wires.right.write(part)
        siege.flush()
        return self.cut_off(siege)

    def plain(self, *messages: bytes) -> bytes:
        outbound = Outbound()
        return b"".join(map(outbound.seal, messages))

    def kexinit(self, *, strict: bool = True, **changes: Any) -> bytes:
        proposal = Proposal.of(Policy(), client=True)
        exchanges = proposal.key_exchanges if strict else proposal.key_exchanges[:-1]
        fields = {"key_exchanges": exchanges, **changes}
        return bytes((phases.KEXINIT,)) + replace(proposal, **fields).encode(bytes(16))

    def test_what_is_no_ssh(self) -> None:
        for first in (b"GET / HTTP/1.0\r\n", b"\x16\x03\x01\n", b"SSH-1.5-old\n", b"SSH-2.0-\xff\n", b"SSH-2.0-a\0b\n"):
            self.raw(first)
        self.raw(b"S" * 300)

    def test_packets_before_the_exchange(self) -> None:
        """(S1, S2, S3, S9)"""
        bodies = (
            bytes((phases.SERVICE_REQUEST,)) + string(b"ssh-userauth"),
            bytes((phases.EXT_INFO,)) + uint32(0),
            bytes((phases.USERAUTH_REQUEST,)) + bytes(20),
            bytes((phases.USERAUTH_SUCCESS,)),
            bytes((80,)) + bytes(20),
            bytes((90,)) + bytes(20),
            bytes((98,)) + bytes(20),
            bytes((200,)) + bytes(30_000),
            bytes((0,)),
            bytes((phases.NEWKEYS,)),
            bytes((phases.KEX_INIT,)) + string(bytes(32)),
            bytes((22,)),
        )
        for body in bodies:
            self.raw(VERSION, self.plain(body))

    def test_anything_injected_into_a_strict_exchange(self) -> None:
        """(S3, S4)"""
        for number in (*range(1, 20), *range(50, 62), 80, 90, 98, 192, 255):
            if number == phases.DISCONNECT:
                continue
            message = bytes((number,)) + bytes(8)
            self.raw(VERSION, self.plain(self.kexinit(), message))
            if number in (phases.IGNORE, phases.DEBUG, phases.UNIMPLEMENTED):
                self.raw(VERSION, self.plain(message, self.kexinit()))

    def test_malformed_proposals(self) -> None:
        """(S12, S33)"""
        good = self.kexinit()
        for body in (good[:1], good[:17], good[:-1], good + b"\0", good[:17] + b"\xff\xff\xff\xff" + good[21:]):
            self.raw(VERSION, self.plain(body))

    def test_nothing_in_common(self) -> None:
        for field in (
            "key_exchanges",
            "host_keys",
            "ciphers_to_server",
            "ciphers_to_client",
            "macs_to_server",
            "macs_to_client",
            "compressions_to_server",
            "compressions_to_client",
        ):
            for names in ((), (b"unheard-of",), (b"zlib",), (b"kex-strict-s-v00@openssh.com", b"ext-info-s")):
                ctr = {end: (b"aes256-ctr",) for end in ("ciphers_to_server", "ciphers_to_client") if "mac" in field}
                self.assertIn("no ", self.raw(VERSION, self.plain(self.kexinit(**{**ctr, field: names}))))

    def test_keys_of_the_exchange_that_are_none(self) -> None:
        cases = {
            b"curve25519-sha256": (b"", bytes(31), bytes(33), bytes(32), b"\1" + bytes(31)),
            b"mlkem768x25519-sha256": (bytes(32), bytes(1215), bytes(1216), b"\xff" * 1216),
        }
        for exchange, offers in cases.items():
            for offer in offers:
                opening = self.kexinit(key_exchanges=(exchange,))
                self.raw(VERSION, self.plain(opening, bytes((phases.KEX_INIT,)) + string(offer)))
            self.raw(VERSION, self.plain(opening, bytes((phases.KEX_INIT,)) + string(bytes(32)) + b"more"))

    def test_one_offer_for_each_proposal(self) -> None:
        """(S12)"""
        opening, offer = self.kexinit(), bytes((phases.KEX_INIT,)) + string(bytes(32))
        self.raw(VERSION, self.plain(opening, opening))
        self.raw(VERSION, self.plain(self.kexinit(key_exchanges=(b"curve25519-sha256",)), offer, offer))

    def test_bad_headers(self) -> None:
        """(S8, S15)"""
        for length, padding in ((2**20, 4), (35_008, 4), (2**32 - 1, 4), (12, 0), (12, 3), (12, 12), (12, 11), (0, 0)):
            self.raw(VERSION, struct.pack(">IB", length, padding) + bytes(40))

    def test_a_flood_of_small_packets_ends(self) -> None:
        packets = (bytes((phases.IGNORE,)) + string(b""),) * 70
        self.assertIn("too many packets", self.raw(VERSION, self.plain(*packets)))

    def test_silence_a_slow_version_and_a_half_packet_end_with_the_login_time(self) -> None:
        """(S10)"""
        for parts in ((), (b"SSH",), (VERSION,), (VERSION, struct.pack(">IB", 34_996, 4) + bytes(20_000))):
            siege = Siege(keyed=False)
            siege.wires.right.out.clear()
            siege.attacker.closing = True
            for part in parts:
                siege.wires.right.write(part)
            siege.flush()
            for second in range(29):
                siege.clock.advance(1)
                if parts == (b"SSH",):
                    siege.wires.right.write(b"-2.0-slow"[second : second + 1])
                siege.flush()
            self.assertFalse(siege.cut)
            siege.clock.advance(2)
            siege.flush()
            self.assertIn("log in within 30 s", self.cut_off(siege))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=400), st.booleans())
    def test_noise_never_leaves_a_traceback(self, noise: bytes, framed: bool) -> None:
        """(S33)"""
        siege = Siege(keyed=False)
        siege.wires.right.out.clear()
        siege.attacker.closing = True
        siege.wires.right.write(VERSION + (self.plain(noise) if framed and noise else noise))
        siege.flush()
        siege.clock.advance(31)
        siege.flush()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertTrue(siege.cut)
        self.assertEqual(siege.factory.logging_in, 0)

    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_a_flipped_bit_in_the_first_exchange_never_leaves_a_traceback(self, draw: st.DataObject) -> None:
        """(S33)"""
        siege = Siege(keyed=False)
        out = siege.wires.right.out
        at = draw.draw(st.integers(0, len(out) - 1))
        out[at] ^= 1 << draw.draw(st.integers(0, 7))
        siege.flush()
        siege.clock.advance(31)
        siege.flush()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertTrue(siege.cut)


class KeyedAttackTests(SynchronousTestCase):
    """A raw peer that has exchanged keys as it should, and then sends what it should not."""

    def cut_by(self, number: int, payload: bytes = b"", *, begun: bool = False, connected: bool = False) -> Siege:
        """A siege whose attacker sent one message in a phase, and was cut off for it."""
        siege = Siege()
        if connected:
            siege.log_in()
        elif begun:
            siege.attacker.begin()
            siege.flush()
        siege.attacker.deaf = True
        siege.attacker.say(number, payload)
        siege.flush()
        self.assertTrue(siege.cut, number)
        self.assertEqual(len(siege.services), int(connected))
        self.assertEqual([payload for service in siege.services for payload in service.received], [])
        self.assertEqual(len(siege.guests.gone), int(connected))
        self.assertEqual(self.flushLoggedErrors(), [])
        siege.end()
        return siege

    def test_success_said_by_the_client(self) -> None:
        """(S1)"""
        self.cut_by(phases.USERAUTH_SUCCESS)
        self.cut_by(phases.USERAUTH_SUCCESS, begun=True)
        self.cut_by(phases.USERAUTH_SUCCESS, connected=True)

    def test_channels_before_the_login(self) -> None:
        """(S2)"""
        for number in (80, 81, 82, *range(90, 101)):
            self.cut_by(number, bytes(30))
            self.cut_by(number, bytes(30), begun=True)

    def test_a_change_of_keys_before_the_login(self) -> None:
        """(S12)"""
        proposal = Proposal.of(Policy(), client=True).encode(bytes(16))
        self.cut_by(phases.KEXINIT, proposal)
        self.cut_by(phases.KEXINIT, proposal, begun=True)

    def test_ext_info(self) -> None:
        """(S8)"""
        body = uint32(1) + string(b"server-sig-algs") + string(bytes(30_000))
        self.cut_by(phases.EXT_INFO, body)
        self.cut_by(phases.EXT_INFO, body, connected=True)

    def test_other_services(self) -> None:
        for payload in (string(b"ssh-connection"), string(b"\xff" * 2000), string(b"ssh-userauth") + b"x", b"", b"\0"):
            self.cut_by(phases.SERVICE_REQUEST, payload)

    def test_a_second_service_request(self) -> None:
        """(S13)"""
        self.cut_by(phases.SERVICE_REQUEST, string(b"ssh-userauth"), begun=True)
        self.cut_by(phases.SERVICE_REQUEST, string(b"ssh-userauth"), connected=True)

    def test_messages_of_the_exchange_outside_of_one(self) -> None:
        for number in (*range(21, 50),):
            self.cut_by(number, bytes(32), connected=True)

    def test_a_packet_of_a_megabyte_before_the_login(self) -> None:
        """(S8)"""
        self.cut_by(phases.IGNORE, bytes(2**20))

    def test_a_proposal_without_end(self) -> None:
        many = tuple(b"%060d" % number for number in range(700))
        proposal = Proposal.of(Policy(), client=True)
        body = replace(proposal, key_exchanges=(*proposal.key_exchanges, *many)).encode(bytes(16))
        self.cut_by(phases.KEXINIT, body, connected=True)

    def test_a_large_packet_after_the_login_is_taken(self) -> None:
        siege = Siege()
        siege.log_in()
        siege.attacker.say(94, bytes(1_000_000))
        siege.flush()
        self.assertEqual([len(payload) for payload in received(siege.services[0])], [1_000_000])
        siege.end()

    def test_a_packet_over_the_limit_after_the_login(self) -> None:
        self.cut_by(94, bytes(2**20), connected=True)

    def test_a_changed_packet(self) -> None:
        siege = Siege()
        siege.attacker.begin()
        siege.wires.right.out[-1] ^= 1
        siege.flush()
        self.assertTrue(siege.cut)
        self.assertIn("code is wrong", siege.refusals[0].why)
        siege.end()

    def test_unknown_messages_are_answered_counted_and_capped(self) -> None:
        """(S9)"""
        for connected in (False, True):
            siege = Siege()
            if connected:
                siege.log_in()
            siege.attacker.heard.clear()
            for _ in range(16):
                siege.attacker.say(200, bytes(30_000))
            siege.flush()
            self.assertFalse(siege.cut)
            self.assertEqual(siege.attacker.heard_numbers(), [phases.UNIMPLEMENTED] * 16)
            sequences = [struct.unpack(">I", payload)[0] for _, payload in siege.attacker.heard]
            self.assertEqual(sequences, list(range(sequences[0], sequences[0] + 16)))
            self.assertEqual(siege.attacker._outbound.sequence, sequences[-1] + 1)
            siege.attacker.say(200)
            siege.flush()
            self.assertTrue(siege.cut)
            siege.end()

    def test_requests_to_log_in_after_the_login_are_ignored(self) -> None:
        siege = Siege()
        siege.log_in()
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        self.assertFalse(siege.cut)
        self.assertEqual(len(siege.guests.admitted), 1)
        siege.end()

    def test_a_disconnect_is_obeyed_in_every_phase_however_odd(self) -> None:
        for payload in (b"", b"\0\0", uint32(11) + string(b"\xff\x1b[31m" * 2000) + string(b"")):
            for logged in (False, True):
                siege = Siege()
                if logged:
                    siege.log_in()
                siege.attacker.say(phases.DISCONNECT, payload)
                siege.flush()
                self.assertTrue(siege.cut)
                self.assertNotIn("\x1b", siege.server.why)
                self.assertLess(len(siege.server.why), 200)
                siege.end()
