"""What must not come, at every moment that there is, between two real ends: said by the peer, or by whoever sits between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Conflict
from avinet.ssh import phases
from avinet.ssh.ciphers import CIPHERS, MACS, authenticates
from avinet.ssh.negotiation import Proposal
from avinet.ssh.policy import Policy
from avinet.ssh.strings import string, uint32
from tests.ssh.attacker import Siege
from tests.ssh.pair import Guests, Pair, Recorder, logged_in

PROPOSAL = Proposal.of(Policy(), client=True).encode(bytes(16))
Message = tuple[int, bytes]


def every_policy() -> Iterator[Policy]:
    """One for each cipher, and for each MAC with those that need one."""
    for cipher in CIPHERS:
        for mac in [b""] if authenticates(cipher) else MACS:
            yield Policy(ciphers=(cipher,), macs=(mac,) if mac else tuple(MACS))


class Moments:
    """A siege that has come to some moment of a connection's life."""

    NAMES = (
        "keyed",
        "asked for the service",
        "after a failure",
        "while it is decided, and then granted",
        "while it is decided, and then refused",
        "logged in",
        "in a change of keys",
        "before the new keys",
    )

    def __init__(self, name: str) -> None:
        slow = name.startswith("while")
        guests = Guests(slow=slow, error=Conflict("no") if name.endswith("refused") else None)
        self.name = name
        self.siege = siege = Siege(admission=guests)
        attacker = siege.attacker
        if name in self.NAMES[1:5]:
            attacker.begin()
            siege.flush()
        if name == "after a failure":
            attacker.say(*attacker.request("nobody", b"password", b"\0" + string(b"x")))
        elif slow:
            attacker.say(*attacker.claim())
        elif name in self.NAMES[5:]:
            siege.log_in()
            attacker.deaf = True
        if name in ("in a change of keys", "before the new keys"):
            attacker.say(phases.KEXINIT, PROPOSAL)
        siege.flush()
        if name == "before the new keys":
            siege.attacker.say(phases.KEX_INIT, string(bytes(1184) + b"\x09" + bytes(31)))
            siege.flush()

    def say(self, *messages: Message) -> None:
        """The attacker says something at this moment, and whatever is being decided is decided after it."""
        self.siege.attacker.say_all(*messages)
        self.siege.flush()
        for asked in self.siege.guests.asked:
            if not asked.called:
                asked.callback(None)
        self.siege.flush()

    @property
    def in_time(self) -> bool:
        """Whether the peer may use channels now."""
        return self.name == "logged in"


class MomentTests(SynchronousTestCase):
    """A raw peer says a message that is not for this moment: it is cut off, and nothing comes of it."""

    def assert_cut(self, moment: Moments, case: object) -> None:
        siege = moment.siege
        self.assertTrue(siege.cut, case)
        self.assertEqual([message for service in siege.services for message in service.received], [], case)
        self.assertEqual(len(siege.guests.gone), len(siege.guests.admitted), case)
        self.assertEqual(self.flushLoggedErrors(), [], case)
        siege.end()

    def test_that_it_has_succeeded(self) -> None:
        """(S1)"""
        for name in Moments.NAMES:
            moment = Moments(name)
            moment.say((phases.USERAUTH_SUCCESS, b""))
            self.assert_cut(moment, name)

    def test_channels_and_requests(self) -> None:
        """(S2)"""
        bodies = {
            90: string(b"session") + bytes(12),
            98: uint32(0) + string(b"exec") + b"\1" + string(b"id"),
            80: string(b"tcpip-forward") + b"\1" + string(b"api") + uint32(80),
            94: uint32(0) + string(b"data"),
        }
        for name in Moments.NAMES:
            for number, body in bodies.items():
                moment = Moments(name)
                moment.say((number, body))
                if moment.in_time:
                    self.assertEqual([payload for _, payload in moment.siege.services[0].received], [body])
                    moment.siege.end()
                else:
                    self.assert_cut(moment, (name, number))

    def test_channels_and_requests_behind_a_claim_that_fails_or_succeeds(self) -> None:
        """(S2)"""
        for error in (None, Conflict("no")):
            for slow in (False, True):
                for number in (80, 90, 94, 98):
                    siege = Siege(admission=Guests(error=error, slow=slow))
                    siege.attacker.begin()
                    siege.flush()
                    siege.attacker.say_all(siege.attacker.claim(), (number, string(b"session") + bytes(20)))
                    siege.flush()
                    for asked in siege.guests.asked:
                        asked.callback(None)
                    siege.flush()
                    self.assertTrue(siege.cut)
                    self.assertEqual([service.received for service in siege.services], [[]] * (error is None))
                    siege.end()

    def test_a_key_exchange_before_the_login_or_within_another(self) -> None:
        """(S12)"""
        for name in Moments.NAMES:
            if name != "logged in":
                moment = Moments(name)
                moment.say((phases.KEXINIT, PROPOSAL))
                self.assert_cut(moment, name)

    def test_one_offer_for_each_key_exchange_however_many_there_are(self) -> None:
        """(S12)"""
        moment = Moments("in a change of keys")
        offer = (phases.KEX_INIT, string(bytes(1184) + b"\x09" + bytes(31)))
        moment.say(*[offer] * 1000)
        answers = moment.siege.attacker.heard_numbers().count(phases.KEX_REPLY)
        self.assertLessEqual(answers, 2, "the login's own, and one")
        self.assert_cut(moment, "offers")


class PatienceTests(SynchronousTestCase):
    """From the connection to the login there are 30 s, whatever is said meanwhile."""

    def test_whoever_has_not_logged_in_after_30_seconds_is_cut_off(self) -> None:
        """(S10)"""
        for name in Moments.NAMES[:5]:
            for drip in ("silence", "messages to ignore", "half a packet, byte by byte"):
                siege = Moments(name).siege
                packet = siege.attacker._outbound.seal(bytes(100)) if drip.startswith("half") else b""
                for second in range(29):
                    siege.clock.advance(1)
                    if drip.startswith("messages"):
                        siege.attacker.say(phases.IGNORE, string(b""))
                    siege.wires.right.write(packet[second : second + 1])
                    siege.flush()
                self.assertFalse(siege.cut, (name, drip))
                siege.clock.advance(1.1)
                siege.flush()
                self.assertTrue(siege.cut, (name, drip))
                self.assertIn("log in within 30 s", siege.server.why)
                self.assertEqual(siege.services, [])
                siege.end()

    def test_a_version_of_a_byte_a_second(self) -> None:
        """(S10)"""
        siege = Siege(keyed=False)
        siege.wires.right.out.clear()
        siege.attacker.closing = True
        for byte in b"SSH-2.0-a_version_that_is_very_long_and_does_not_end"[:29]:
            siege.wires.right.write(bytes((byte,)))
            siege.clock.advance(1)
            siege.flush()
        self.assertFalse(siege.cut)
        siege.clock.advance(1.1)
        siege.flush()
        self.assertTrue(siege.cut)
        self.assertEqual((siege.clock.getDelayedCalls(), siege.factory.logging_in), ([], 0))


class BetweenTests(SynchronousTestCase):
    """Whoever sits between two ends puts a message in, or takes one out, before they have keys (S3, S4)."""

    INJECTED: tuple[Message, ...] = (
        (phases.IGNORE, string(b"")),
        (phases.DEBUG, b"\0" + string(b"") + string(b"")),
        (phases.UNIMPLEMENTED, uint32(0)),
        (phases.EXT_INFO, uint32(0)),
        (phases.SERVICE_REQUEST, string(b"ssh-userauth")),
        (phases.SERVICE_ACCEPT, string(b"ssh-userauth")),
        (phases.USERAUTH_REQUEST, string(b"aviseuser") + string(b"ssh-connection") + string(b"none")),
        (phases.USERAUTH_SUCCESS, b""),
        (90, string(b"session") + bytes(12)),
        (200, b""),
    )

    def packet(self, message: Message) -> bytes:
        """A packet without keys, as anybody can make it."""
        number, payload = message
        padding = 8 - (6 + len(payload)) % 8
        padding += 8 if padding < 4 else 0
        return uint32(2 + len(payload) + padding) + bytes((padding, number)) + payload + bytes(padding)

    def play(self, victim: str, at: int, message: Message) -> tuple[Pair, int]:
        """A login in which `message` is put in for `victim`, before the `at`th packet that it gets; how many it got."""
        pair = Pair()
        source = pair.wires.left if victim == "client" else pair.wires.right
        sink = pair.wires.right if victim == "client" else pair.wires.left
        deliver = sink.protocol.dataReceived  # type: ignore[union-attr]
        seen = 0
        clear = True

        def through(data: bytes) -> None:
            nonlocal seen, clear
            whole = bytearray(data)
            while whole and clear:
                if whole.startswith(b"SSH-"):
                    size = whole.index(b"\n") + 1
                else:
                    size = 4 + int.from_bytes(whole[:4], "big")
                    clear = whole[5] != phases.NEWKEYS
                if seen == at:
                    deliver(self.packet(message))
                seen += 1
                deliver(bytes(whole[:size]))
                del whole[:size]
            if whole:
                deliver(bytes(whole))

        assert source.out
        sink.protocol = Between(sink.protocol, through)
        pair.flush()
        return pair, seen

    def test_every_message_at_every_place_in_both_directions(self) -> None:
        for victim in ("client", "server"):
            _, packets = self.play(victim, 99, (phases.IGNORE, string(b"")))
            self.assertEqual(packets, 4, "a version, KEXINIT, the exchange, NEWKEYS")
            for at in range(1, packets):
                for message in self.INJECTED:
                    pair, _ = self.play(victim, at, message)
                    case = (victim, at, message[0])
                    self.assertIsNone(pair.server.identity, case)
                    self.assertIsNone(pair.client.identity, case)
                    self.assertEqual(pair.admission.admitted, [], case)
                    self.assertFalse(pair.wires.left.connected, case)
                    self.assertEqual(self.flushLoggedErrors(), [], case)
                    self.assertEqual(pair.clock.getDelayedCalls(), [], case)

    def test_packets_are_counted_from_zero_under_new_keys(self) -> None:
        for policy in every_policy():
            pair = logged_in(client_policy=policy)
            packets = 100
            for _ in range(packets):
                pair.client.sendPacket(94, b"")
                pair.server.sendPacket(94, b"")
            pair.flush()
            self.assertGreater(pair.server._outbound.sequence, packets)
            pair.server.rekey()
            pair.flush()
            for end in (pair.server, pair.client):
                self.assertEqual((end._outbound.sequence, end._inbound.sequence), (0, 0), policy.ciphers)
            pair.close()


class Between:
    """A protocol whose bytes somebody else has first."""

    def __init__(self, protocol: object, through: Callable[[bytes], None]) -> None:
        self._protocol = protocol
        self.dataReceived = through

    def connectionLost(self, reason: object) -> None:
        self._protocol.connectionLost(reason)  # type: ignore[attr-defined]


class EveryCipherTests(SynchronousTestCase):
    """What holds for a change of keys, with every cipher."""

    def stalled(self, policy: Policy, until: str) -> Siege:
        """A siege in a change of keys that the attacker began and does not go on with."""
        siege = Siege(policy=Policy(**{**policy.__dict__, "backlog_bytes": 50_000}))
        siege.log_in()
        siege.attacker.deaf = True
        siege.attacker.say(phases.KEXINIT, PROPOSAL)
        siege.flush()
        if until == "its answer":
            siege.attacker.say(phases.KEX_INIT, string(bytes(1184) + b"\x09" + bytes(31)))
            siege.flush()
        return siege

    def test_a_change_of_keys_that_is_begun_and_not_ended(self) -> None:
        """(S21)"""
        for policy in every_policy():
            for until in ("its proposal", "its answer"):
                siege = self.stalled(policy, until)
                service = siege.services[0]
                if until == "its proposal":
                    self.assertEqual(service.events[-1], "paused", "what is sent meanwhile is held back")
                for _ in range(100):
                    siege.server.sendPacket(94, bytes(1000))
                self.assertLessEqual(siege.server._backlog_bytes, 50_000)
                self.assertLessEqual(sum(len(payload) for _, payload in siege.server._waiting), 50_000)
                siege.clock.advance(30.1)
                siege.flush()
                self.assertTrue(siege.cut, (policy.ciphers, until))
                siege.end()

    def test_a_server_that_begins_a_change_of_keys_and_does_not_end_it(self) -> None:
        """(S21)"""
        pair = logged_in(client_policy=Policy(backlog_bytes=50_000))
        pair.server.sendKexInit()
        pair.wires.step()
        pair.wires.left.out.clear()
        pair.wires.left.write = lambda data: None  # type: ignore[method-assign]  # the server falls silent
        pair.flush()
        self.assertFalse(pair.client.closing)
        pair.clock.advance(30.1)
        self.assertTrue(pair.client.closing)
        self.assertIn("finish a key exchange", pair.client.why)
        pair.clock.advance(3)
        pair.flush()

    def test_whatever_is_said_aside_in_the_gap_goes_out_under_the_right_keys(self) -> None:
        """(S22)"""
        for policy in every_policy():
            for sender in ("client", "server"):
                for beginner in ("client", "server"):
                    for number, payload in (
                        (phases.IGNORE, string(b"")),
                        (phases.DEBUG, b"\0" + string(b"text") + string(b"")),
                        (phases.UNIMPLEMENTED, uint32(1)),
                    ):
                        pair = logged_in(client_policy=policy, chunk_bytes=97)
                        getattr(pair, beginner).rekey()
                        say = partial(getattr(pair, sender).sendPacket, number, payload)
                        for _ in range(200):
                            say()
                            pair.wires.step()
                        pair.flush()
                        self.assertFalse(pair.server.closing or pair.client.closing, (policy.ciphers, sender, number))
                        self.assertEqual((pair.server.exchanges, pair.client.exchanges), (2, 2))
                        pair.close()

    def test_a_farewell_at_every_moment_of_a_change_of_keys_is_understood(self) -> None:
        """(S22)"""
        for policy in every_policy():
            for sender, other in (("client", "server"), ("server", "client")):
                steps = 0
                while True:
                    pair = logged_in(client_policy=policy, chunk_bytes=400)
                    pair.client.rekey()
                    for _ in range(steps):
                        pair.wires.step()
                    over = pair.server.exchanges == pair.client.exchanges == 2
                    getattr(pair, sender).close("farewell")
                    pair.flush()
                    self.assertEqual(getattr(pair, other).why, "it said: farewell", (policy.ciphers, sender, steps))
                    pair.close()
                    steps += 1
                    if over:
                        break
                self.assertGreater(steps, 5)

    def test_packet_counters_wrap(self) -> None:
        """(S23)"""
        for policy in every_policy():
            pair = logged_in(client_policy=policy)
            for end in (pair.server, pair.client):
                end._inbound.sequence = end._outbound.sequence = 2**32 - 3
            for number in range(10):
                pair.client.sendPacket(94, uint32(number))
                pair.server.sendPacket(94, uint32(number))
            pair.client.sendPacket(200, b"")
            pair.flush()
            for end in (pair.server, pair.client):
                service = end.service
                assert isinstance(service, Recorder)
                self.assertEqual([payload for _, payload in service.received], [uint32(each) for each in range(10)])
                self.assertLess(end._outbound.sequence, 20)
            pair.close()

    def test_new_keys_come_long_before_a_counter_does(self) -> None:
        """(S23)"""
        self.assertLessEqual(Policy().rekey_packets, 2**32 // 16)
        for policy in every_policy():
            for end, sender in (("_outbound", "client"), ("_inbound", "server")):
                pair = logged_in(client_policy=policy)
                for half in (pair.client._outbound, pair.client._inbound):
                    name = "sealed_packets" if half is pair.client._outbound else "taken_packets"
                    if half is getattr(pair.client, end):
                        setattr(half, name, Policy().rekey_packets - 1)
                getattr(pair, sender).sendPacket(94, b"the last one")
                pair.flush()
                self.assertEqual(pair.server.exchanges, 2, (policy.ciphers, end))
                pair.close()
