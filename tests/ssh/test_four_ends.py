"""Two TCP connections joined by a channel: FIN, RST and CLOSE at its four ends in every order, with data in flight (S26).

The TCP connections are Twisted's and ours over sockets in memory, between them are the real relays and the real channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import tcp
from twisted.internet.error import ConnectionDone
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.relay import Relay
from avinet.sockets import _Direct
from avinet.ssh.connection import Connection
from avinet.ssh.messages import (
    CHANNEL_CLOSE,
    CHANNEL_DATA,
    CHANNEL_EOF,
    CHANNEL_OPEN,
    CHANNEL_OPEN_CONFIRMATION,
    CHANNEL_WINDOW_ADJUST,
)
from avinet.ssh.opening import Accepted, ChannelLimits
from avinet.ssh.strings import string, uint32
from tests.sockets import CAPACITY, Net, Person
from tests.ssh.joined import ADDRESS, Joined, connect
from tests.ssh.test_connection import Lone, open_message

EVENTS = ("left fin", "left rst", "right fin", "right rst", "left close", "right close")
"""`fin` and `rst` are of the TCP connections, `close` is a channel's end that gives up."""
BETWEEN = ("nothing", "a step")
"""What moves between two events."""
SMALL = ChannelLimits(window_bytes=4000, packet_bytes=1500)


class Inside(Relay):
    """The side of a relay that is the channel: joined to the TCP connection as soon as it is there."""

    def __init__(self, outside: Relay) -> None:
        super().__init__()
        self.outside = outside

    @override
    def connectionMade(self) -> None:
        super().connectionMade()
        self.join(self.outside)


class Dialling(Connection):
    """Joins every channel of the peer to a new TCP connection to `person`."""

    person: Person
    inside: Inside

    def __init__(self, net: Net, kind: type[tcp.Connection]) -> None:
        super().__init__(net, SMALL)  # type: ignore[arg-type]
        self.net, self.kind = net, kind

    def dial(self) -> Inside:
        self.person, outside = Person(), Relay()
        self.net.connect(self.person, outside, self.kind)
        self.inside = Inside(outside)
        return self.inside

    @override
    async def accept(self, kind: bytes, body: bytes) -> Accepted:
        return Accepted(self.dial(), ADDRESS)


class Chain:
    """Two persons, each with a TCP connection to one end of a tunnel, and a channel between the two."""

    def __init__(self, kind: type[tcp.Connection], *, stuck: bool) -> None:
        self.net = Net()
        self.joined = Joined(Dialling(self.net, kind), Dialling(self.net, kind), clock=self.net)
        connect(self.joined.left, self.joined.left.dial())
        self.settle()
        self.ends: dict[str, Dialling] = {"left": self.joined.left, "right": self.joined.right}
        self.channels = {side: end.inside.transport for side, end in self.ends.items()}
        self.sent = {"left": b"", "right": b""}
        self.finished: set[str] = set()
        self.gave_up: set[str] = set()
        if stuck:
            for side in self.ends:
                self.person(side).transport.pauseProducing()
                self.say(side, b"x" * 3 * CAPACITY)
            self.settle()

    def person(self, side: str) -> Person:
        return self.ends[side].person

    def say(self, side: str, data: bytes) -> None:
        """A person sends something, as long as it may."""
        person = self.person(side)
        if side not in self.finished and person.lost is None:
            self.sent[side] += data
            person.transport.write(data)

    def do(self, event: str) -> None:
        for side in self.ends:
            self.say(side, b"%d|" % len(self.sent[side]))
        side, _, what = event.partition(" ")
        if what == "close":
            self.channels[side].abortConnection()
        elif what == "fin":
            self.finish(side)
        elif self.person(side).lost is None:
            self.finished.add(side)
            self.gave_up.add(side)
            self.person(side).transport.abortConnection()

    def finish(self, side: str) -> None:
        """A person has said everything."""
        self.finished.add(side)
        if self.person(side).lost is None:
            self.person(side).transport.loseWriteConnection()

    def step(self) -> bool:
        """One turn of the sockets, and one packet each way."""
        return any([self.net.turn(), self.joined.move(self.joined.left), self.joined.move(self.joined.right)])

    def settle(self) -> None:
        for _ in range(100_000):
            if not self.step():
                return
        raise AssertionError("it does not come to rest")

    def end(self) -> None:
        """Everybody reads what there is, says that this was all, and closes when it has heard so."""
        for side in self.ends:
            if self.person(side).lost is None:
                self.person(side).transport.resumeProducing()
        self.settle()
        for side in self.ends:
            self.finish(side)
        self.settle()
        for side in self.ends:
            if self.person(side).heard_all and self.person(side).lost is None:
                self.person(side).transport.loseConnection()
        self.settle()


class OrderTests(SynchronousTestCase):
    def play(self, events: tuple[str, ...], between: tuple[str, ...], kind: type[tcp.Connection], stuck: bool) -> None:
        chain = Chain(kind, stuck=stuck)
        for event, move in zip(events, (*between, "nothing"), strict=False):
            chain.do(event)
            if move == "a step":
                chain.step()
            elif move == "everything":
                chain.settle()
        chain.end()
        said = (events, between, kind.__name__, stuck)
        self.assertEqual(
            (chain.net.getReaders(), chain.net.getWriters(), chain.net.getDelayedCalls()), ([], [], []), said
        )
        chain.joined.check_clean()
        for connection in (chain.joined.left, chain.joined.right):
            self.assertEqual((connection.strays, connection.refused), (0, 0), said)
        for side, other in (("left", "right"), ("right", "left")):
            writer, reader = chain.person(side), chain.person(other)
            assert writer.lost is not None, said
            assert reader.lost is not None, said
            self.assertTrue(chain.sent[side].startswith(reader.heard), said)
            if reader.heard != chain.sent[side]:
                self.assertFalse(reader.heard_all, ("bytes were lost, and the reader was told that this was all", said))
                told = reader.lost.check(ConnectionDone) is None or writer.lost.check(ConnectionDone) is None
                self.assertTrue(told or chain.gave_up, ("bytes were lost, and nobody was told", said))
        if not chain.gave_up and not any(event.endswith("close") for event in events):
            for side, other in (("left", "right"), ("right", "left")):
                self.assertEqual(chain.person(other).heard, chain.sent[side], said)

    def every(self, length: int, moves: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        for events in permutations(EVENTS, length):
            for between in product(moves, repeat=length - 1):
                yield events, between

    def test_every_order_of_up_to_three_whatever_moves_between_them(self) -> None:
        for kind in (tcp.Connection, _Direct):
            for stuck in (False, True):
                for length in (0, 1, 2, 3):
                    for events, between in self.every(length, (*BETWEEN, "everything")) if length else [((), ())]:
                        self.play(events, between, kind, stuck)

    def test_every_order_of_four(self) -> None:
        for events, between in self.every(4, BETWEEN):
            self.play(events, between, _Direct, True)

    @settings(deadline=None, max_examples=300)
    @given(
        st.permutations(EVENTS),
        st.lists(st.sampled_from((*BETWEEN, "everything")), min_size=5, max_size=5),
        st.sampled_from((tcp.Connection, _Direct)),
        st.booleans(),
    )
    def test_all_six_in_any_order(
        self, events: list[str], between: list[str], kind: type[tcp.Connection], stuck: bool
    ) -> None:
        self.play(tuple(events), tuple(between), kind, stuck)


class RawPeerTests(SynchronousTestCase):
    """The far end is a peer that says EOF and CLOSE when it likes, in the right order or not."""

    EVENTS = ("eof", "close", "data", "adjust", "fin", "rst", "say")

    def play(self, events: tuple[str, ...], moves: bool) -> None:
        net = Net()
        connection = Dialling(net, _Direct)
        lone = Lone(connection)
        lone.clock = net
        ((number, payload),) = lone.say(CHANNEL_OPEN, open_message(7, window=10, packet=1000))
        self.assertEqual(number, CHANNEL_OPEN_CONFIRMATION)
        id, person = payload[4:8], connection.person
        said: list[str] = []
        answers: list[tuple[int, bytes]] = []

        def settle() -> None:
            while net.turn():
                pass
            answers.extend(lone.below.out)
            lone.below.out.clear()

        def do(event: str) -> None:
            match event:
                case "eof":
                    answers.extend(lone.say(CHANNEL_EOF, id))
                case "close":
                    answers.extend(lone.say(CHANNEL_CLOSE, id))
                case "data":
                    answers.extend(lone.say(CHANNEL_DATA, id + string(b"from the peer")))
                case "adjust":
                    answers.extend(lone.say(CHANNEL_WINDOW_ADJUST, id + uint32(1000)))
                case "fin" if person.lost is None:
                    person.transport.loseWriteConnection()
                case "rst" if person.lost is None:
                    person.transport.abortConnection()
                case "say" if person.lost is None:
                    person.transport.write(b"more than the window")
            said.append(event)

        for event in events:
            do(event)
            if moves:
                settle()
        settle()
        for event in ("adjust", "eof", "fin", "close"):
            do(event)
            settle()
        if person.lost is None:
            person.transport.loseConnection()
        settle()
        case = (events, moves)
        self.assertEqual(
            (connection.channels, net.getReaders(), net.getWriters(), net.getDelayedCalls()), (0, [], [], [])
        )
        self.assertIsNotNone(person.lost, case)
        self.assertIsNone(lone.below.failed, case)
        numbers = [number for number, _ in answers]
        self.assertEqual(numbers.count(CHANNEL_CLOSE), 1, case)
        self.assertLessEqual(numbers.count(CHANNEL_EOF), 1, case)
        self.assertFalse({CHANNEL_EOF, CHANNEL_DATA} & set(numbers[numbers.index(CHANNEL_CLOSE) :]), case)
        in_order = said.index("eof") < said.index("close")
        over = min(said.index("eof"), said.index("close"))
        data = b"from the peer" if "data" in said[:over] else b""
        self.assertTrue(data.startswith(person.heard), case)
        if person.heard_all:
            self.assertTrue(in_order, ("a CLOSE without an EOF was taken for an end in order", case))
            self.assertEqual(person.heard, data, case)
        elif "rst" not in events:
            assert person.lost is not None
            self.assertIsNone(person.lost.check(ConnectionDone), ("what was cut off was no error", case))

    def test_every_order_of_four(self) -> None:
        for length in range(5):
            for events in permutations(self.EVENTS, length):
                for moves in (False, True):
                    self.play(events, moves)
