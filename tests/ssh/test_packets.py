"""Packets: sealed on one side, opened on the other, and refused when they are not what they should be."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import PeerError
from avinet.ssh import ciphers
from avinet.ssh.ciphers import CIPHERS, MACS, Keys, Material, Padding, authenticates
from avinet.ssh.packets import Inbound, Outbound

LIMIT = 35000
LARGE = 1 << 20
SPLIT = 64 * 1024
PAIRS = [(cipher, mac) for cipher in CIPHERS for mac in (MACS if not authenticates(cipher) else [b""])]


def ends(cipher: bytes, mac: bytes) -> tuple[Outbound, Inbound]:
    """Two ends with the same keys."""
    keys = Keys(cipher, cipher, mac, mac)
    material = [bytes((number,)) * 128 for number in range(3)]
    keys.derive(Material(*material), Material(*material))
    outbound, inbound = Outbound(), Inbound(LIMIT)
    outbound.switch(keys.sealing, restart=False)
    inbound.switch(keys.opening, restart=False)
    return outbound, inbound


def feed(inbound: Inbound, data: bytes) -> None:
    """All of `data` arrives, for which there is room."""
    inbound.space()[: len(data)] = data
    inbound.filled(len(data))


class PacketTests(SynchronousTestCase):
    """Whatever the cipher, and however the bytes arrive."""

    @settings(deadline=None)
    @given(
        st.sampled_from([None, *PAIRS]),
        st.lists(st.binary(min_size=1, max_size=300), max_size=8),
        st.integers(1, 700),
        st.integers(0, 2**32 - 1),
    )
    def test_payloads_arrive_in_order_in_pieces_of_any_size(
        self, algorithms: tuple[bytes, bytes] | None, payloads: list[bytes], piece: int, sequence: int
    ) -> None:
        outbound, inbound = ends(*algorithms) if algorithms else (Outbound(), Inbound(LIMIT))
        outbound.sequence = inbound.sequence = sequence
        stream = b"".join(map(outbound.seal, payloads))
        got = []
        for at in range(0, len(stream), piece):
            feed(inbound, stream[at : at + piece])
            while (payload := inbound.next_packet()) is not None:
                got.append(bytes(payload))
            inbound.settle()
        self.assertEqual(got, payloads)
        self.assertEqual(inbound.sequence, (sequence + len(payloads)) % 2**32)
        self.assertEqual(len(inbound), 0)

    @settings(deadline=None)
    @given(
        st.sampled_from([None, *PAIRS]),
        st.lists(st.one_of(st.binary(min_size=1, max_size=50), st.integers(60_000, 500_000).map(bytes)), max_size=6),
        st.lists(st.integers(1, 600_000), min_size=1, max_size=20),
    )
    def test_the_rest_of_a_large_packet_is_read_to_where_it_begins(
        self, algorithms: tuple[bytes, bytes] | None, payloads: list[bytes], pieces: list[int]
    ) -> None:
        payloads = [b"\x5e" + payload for payload in payloads]
        outbound, inbound = ends(*algorithms) if algorithms else (Outbound(), Inbound(LIMIT))
        inbound.packet_bytes = LARGE
        stream = memoryview(b"".join(map(outbound.seal, payloads)))
        got, at, turn = [], 0, 0
        while at < len(stream):
            memory = inbound.space()
            self.assertGreaterEqual(len(memory), inbound.missing)
            piece = stream[at : at + min(len(memory), pieces[turn % len(pieces)])]
            turn += 1
            memory[: len(piece)] = piece
            inbound.filled(len(piece))
            at += len(piece)
            while (payload := inbound.next_packet()) is not None:
                got.append(bytes(payload))
            inbound.settle()
            self.assertLessEqual(inbound.missing, len(stream) - at + 1, "it waits for nothing that does not come")
            self.assertGreater(inbound.missing, 0)
        self.assertEqual(got, payloads)
        self.assertEqual((len(inbound), inbound.missing), (0, 1))

    def test_a_line_goes_out_with_the_first_packet(self) -> None:
        outbound, inbound = Outbound(), Inbound(LIMIT)
        outbound.begin(b"SSH-2.0-x\r\n")
        feed(inbound, outbound.seal(b"payload"))
        self.assertEqual(inbound.next_line(), b"SSH-2.0-x")
        self.assertEqual(bytes(inbound.next_packet() or b""), b"payload")

    @settings(deadline=None, max_examples=30)
    @given(st.sampled_from(PAIRS), st.lists(st.integers(1, 34_000), min_size=1, max_size=25))
    def test_payloads_stay_good_until_all_is_settled(self, algorithms: tuple[bytes, bytes], sizes: list[int]) -> None:
        outbound, inbound = ends(*algorithms)
        payloads = [bytes((number % 251,)) * size for number, size in enumerate(sizes)]
        feed(inbound, b"".join(map(outbound.seal, payloads)))
        views = [inbound.next_packet() for _ in payloads]
        self.assertEqual([bytes(view) for view in views if view is not None], payloads)

    @settings(deadline=None, max_examples=50)
    @given(st.sampled_from(PAIRS), st.binary(max_size=40), st.binary(min_size=1, max_size=3000), st.booleans())
    def test_the_end_of_a_payload_may_lie_in_its_place_already(
        self, algorithms: tuple[bytes, bytes], before: bytes, data: bytes, second: bool
    ) -> None:
        outbound, inbound = ends(*algorithms)
        if second:
            outbound.add((b"first",), 5)
        place = outbound.space(1 + len(before), 4000)[: len(data)]
        place[:] = data
        outbound.add((b"x", before, place), 1 + len(before) + len(data))
        feed(inbound, bytes(outbound.view()))
        if second:
            self.assertEqual(inbound.next_packet(), b"first")
        self.assertEqual(inbound.next_packet(), b"x" + before + data)

    def test_only_much_of_a_packet_holds_memory(self) -> None:
        outbound, inbound = Outbound(), Inbound(LARGE)
        packet = outbound.seal(bytes(200_000))
        for count, held in ((100, False), (SPLIT - 101, False), (1, True), (100_000, True)):
            feed(inbound, packet[:count])
            packet = packet[count:]
            self.assertIsNone(inbound.next_packet())
            inbound.settle()
            self.assertEqual(inbound._memory is not None, held)
            self.assertEqual(inbound.missing, len(packet))
        feed(inbound, packet)
        self.assertIsNotNone(inbound.next_packet())
        inbound.settle()
        self.assertIsNone(inbound._memory)

    def test_without_the_library_doing_so_in_place_packets_are_the_same(self) -> None:
        self.assertTrue(ciphers.IN_PLACE, "this build of cryptography is slower than it could be")
        sealed = [ends(*algorithms)[0] for algorithms in PAIRS]
        self.patch(ciphers, "_padding", Padding(bytes))
        packets = [outbound.seal(b"payload") for outbound in sealed]
        self.patch(ciphers, "IN_PLACE", False)
        for algorithms, packet in zip(PAIRS, packets, strict=True):
            outbound, inbound = ends(*algorithms)
            self.assertEqual(outbound.seal(b"payload"), packet)
            feed(inbound, packet)
            self.assertEqual(inbound.next_packet(), b"payload")

    @settings(deadline=None)
    @given(st.sampled_from(PAIRS), st.binary(min_size=1, max_size=100), st.data())
    def test_no_changed_bit_gets_through(
        self, algorithms: tuple[bytes, bytes], payload: bytes, draw: st.DataObject
    ) -> None:
        outbound, inbound = ends(*algorithms)
        packet = bytearray(outbound.seal(payload))
        packet[draw.draw(st.integers(0, len(packet) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
        feed(inbound, bytes(packet))
        try:
            self.assertIsNone(inbound.next_packet())
        except PeerError:
            return

    def test_a_packet_out_of_sequence_is_refused(self) -> None:
        for algorithms in PAIRS:
            outbound, inbound = ends(*algorithms)
            outbound.seal(b"lost")
            feed(inbound, outbound.seal(b"hello"))
            self.assertRaises(PeerError, inbound.next_packet)

    def test_new_keys_can_start_the_count_again(self) -> None:
        for restart, sequence in ((True, 0), (False, 3)):
            outbound, inbound = Outbound(), Inbound(LIMIT)
            for _ in range(3):
                feed(inbound, outbound.seal(b"plain"))
                inbound.next_packet()
            outbound.switch(outbound._sealing, restart=restart)
            inbound.switch(inbound._opening, restart=restart)
            self.assertEqual((outbound.sequence, inbound.sequence), (sequence, sequence))


class HeaderTests(SynchronousTestCase):
    """Lengths that cannot be (S8, S15)."""

    def refused(self, length: int, padding: int, body: bytes) -> None:
        inbound = Inbound(LIMIT)
        feed(inbound, struct.pack(">IB", length, padding) + body)
        with self.assertRaises(PeerError, msg=f"{length} {padding}"):
            inbound.next_packet()

    def test_a_packet_over_the_limit_is_refused_before_its_body_came(self) -> None:
        for length in (LIMIT + 1, 2**20, 2**31, 2**32 - 1):
            self.refused(length, 4, b"")

    def test_a_packet_that_is_no_whole_number_of_blocks_is_refused(self) -> None:
        for length in (0, 1, 4, 11, 13, 21):
            self.refused(length, 4, bytes(length))

    def test_padding_that_is_too_short_or_too_long_is_refused(self) -> None:
        for padding in (0, 1, 3, 12, 13, 255):
            self.refused(12, padding, bytes(11))

    def test_an_empty_payload_is_refused(self) -> None:
        self.refused(12, 11, bytes(11))

    def test_the_padding_of_packets_differs(self) -> None:
        padding = Padding(block_bytes=256)
        self.assertEqual(len({padding.take(16) for _ in range(100)}), 100)


class GreetingTests(SynchronousTestCase):
    """Lines, before there are packets."""

    def test_lines_end_with_a_line_feed_and_perhaps_a_carriage_return(self) -> None:
        inbound = Inbound(LIMIT)
        feed(inbound, b"one\r\ntwo\nthr")
        self.assertEqual([inbound.next_line(), inbound.next_line(), inbound.next_line()], [b"one", b"two", None])

    def test_a_line_that_is_too_long_is_refused(self) -> None:
        inbound = Inbound(LIMIT)
        feed(inbound, b"SSH-2.0-" + b"x" * 247)
        self.assertRaises(PeerError, inbound.next_line)

    def test_a_greeting_without_end_is_refused(self) -> None:
        inbound = Inbound(LIMIT)
        feed(inbound, (b"x" * 200 + b"\n") * 21)
        with self.assertRaises(PeerError):
            for _ in range(21):
                inbound.next_line()
