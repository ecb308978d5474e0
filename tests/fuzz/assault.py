"""A program against one end of a connection: what the raw peer says, what becomes of it on the way, what time it is.

The two ends are real, and so is the crypto. After each step the victim is within its bounds, and in the end nothing is
left of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.errors import AvinetError
from avinet.ssh.channel import Channel
from avinet.ssh.connection import Connection
from avinet.ssh.messages import KEEPALIVE, REQUEST_FAILURE
from avinet.ssh.opening import ChannelLimits
from avinet.ssh.packets import OVERHEAD_BYTES
from avinet.ssh.policy import KIB, Policy
from avinet.ssh.transport import Transport
from avinet.ssh.tunnel import Tunnel
from avinet.ssh.writing import BATCH_BYTES
from tests.fuzz.applications import House, act, services
from tests.fuzz.marks import mark
from tests.fuzz.steps import Draw
from tests.fuzz.vocabulary import Message, damaged, message
from tests.fuzz.watch import check
from tests.ssh.attacker import Raw
from tests.ssh.pair import BUFFER_BYTES, LendingWire, Wire, Wires

POLICY = {"key_exchanges": (b"curve25519-sha256",), "backlog_bytes": 256 * KIB}
LIMITS = ChannelLimits(channels=6, offers=2, requests=3, window_bytes=64 * KIB, most_window_bytes=1024 * KIB)
SECONDS = (0.0, 0.001, 0.05, 0.5, 1.0, 3.0, 8.0, 16.0, 31.0, 61.0, 3700.0)
ENGINE = b"SSH-2.0-OpenSSH_9.2p1"
MOST_STEPS = 200


class Road(Wires):
    """A connection of which each direction can be held up; what is under way can be changed."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.held: set[Wire] = set()
        super().__init__(*arguments, **settings)

    @override
    def _move(self, source: Wire, sink: Wire) -> bool:
        return source not in self.held and super()._move(source, sink)


class Assault:
    """One program; `victim` is the end that is attacked, `raw` the peer that attacks it.

    The first step says how far both have come before it begins, and what kind of peer it is.
    """

    clock: Clock
    victim: Transport
    raw: Raw
    road: Road
    wire: Wire
    """The end that the attacker writes to."""
    tap: Wire
    """The end that the victim writes to."""

    def __init__(self, draw: Draw) -> None:
        self.stage, flags = draw.below(4), draw.byte()
        self.lending, self.stock, self.tight = bool(flags & 1), bool(flags & 2), bool(flags & 4)
        self.flags = flags
        self.clock = Clock()
        self.guests: list[Any] = []
        self.services = services(self.guests)
        self.pending: list[Any] = []
        self.policy = Policy(**POLICY, rekey_bytes=64 * KIB if self.tight else 1 << 32)  # type: ignore[arg-type]
        self.make()
        if self.stage == 0:
            self.road.held.add(self.wire)
        self.flush()

    # what a role says

    def make(self) -> None:
        """Join the two ends."""
        raise NotImplementedError

    def honest(self, draw: Draw) -> None:
        """What an honest peer would say now."""
        raise NotImplementedError

    def oracle(self) -> None:
        """What else must hold after each step."""
        raise NotImplementedError

    def over(self) -> None:
        """What else must hold in the end."""

    @property
    def connection(self) -> Connection | None:
        """The victim's connection service, when it is logged in."""
        service = self.victim.service
        return service if isinstance(service, Connection) else None

    def join(self, left: Any, right: Any) -> Road:
        """The connection between the two ends."""
        if self.stock:
            self.raw.ourVersionString = ENGINE
        self.road = Road(left, right, wire=LendingWire if self.lending else Wire)
        return self.road

    # the program

    def run(self, program: Iterator[bytes]) -> None:
        """Take all steps, then end it."""
        for _, step in zip(range(MOST_STEPS), program, strict=False):
            self.step(Draw(step))
            self.flush()
            self.bounds()
            self.oracle()
            self.mark()
        self.end()

    def step(self, draw: Draw) -> None:
        """Take one step."""
        match draw.below(12):
            case 0 | 1:
                self.say(message(draw))
            case 2:
                self.honest(draw)
            case 3:
                self.apply(draw)
            case 4 if self.guests:
                act(draw.pick(self.guests[-256:]), draw)
            case 5:
                self.clock.advance(draw.pick(SECONDS))
            case 6:
                self.road.held ^= {self.wire}
            case 7:
                self.road.held ^= {self.tap}
            case 8:
                self.tamper(draw)
            case 9:
                self.say((draw.byte(), draw.rest()))
            case 10:
                self.wire.write(draw.rest())
            case 11:
                self.hang_up(draw)

    def say(self, *messages: Message) -> None:
        """Say something out of order."""
        if not self.raw.closing:
            self.raw.say_all(*messages)

    def rekey(self) -> None:
        """Begin a key exchange as the attacker."""
        if not self.raw.closing and not self.raw.phases.exchanging and self.stage:
            self.raw.sendKexInit()

    def answer(self, draw: Draw) -> None:
        """Refuse the oldest request."""
        self.say((REQUEST_FAILURE, b""))

    def tamper(self, draw: Draw) -> None:
        """Change what is under way to the victim, or let a part of it arrive."""
        how, where, what = draw.byte(), draw.byte(), draw.some(32)
        out = self.wire.out
        if how % 5 == 4:
            data = bytes(out[: draw.number()])
            del out[: len(data)]
            if data and self.tap.connected and not self.tap.aborted:
                self.tap.deliver(data)
        else:
            out[:] = damaged(bytes(out), how, where, what)

    def hang_up(self, draw: Draw) -> None:
        """End the connection from outside."""
        match draw.below(4):
            case 0:
                self.raw.abortConnection()
            case 1:
                self.wire.lose(ConnectionDone())
                self.tap.lose(ConnectionDone())
            case 2:
                self.raw.deaf = not self.raw.deaf
            case _:
                self.raw.close("over")

    def apply(self, draw: Draw) -> None:
        """What the victim's own side does meanwhile."""
        connection = self.connection
        if connection is None:
            return
        match draw.below(7):
            case 0:
                self.victim.rekey()
            case 1:
                with suppress(AvinetError):
                    self.waits(self.opened(connection, draw))
            case 2:
                self.waits(connection.request(KEEPALIVE))
            case 3 if self.pending:
                draw.pick(self.pending[-256:]).cancel()
            case 4:
                self.victim.close("enough")
            case 5 if isinstance(connection, Tunnel):
                self.waits(connection.probe(draw.byte() / 16))
            case 6 if isinstance(connection, Tunnel):
                self.waits(connection.when_lost())

    def opened(self, connection: Connection, draw: Draw) -> Any:
        """A channel that the victim opens, as a Deferred of its protocol."""
        raise NotImplementedError

    def house(self, draw: Draw) -> House:
        """Who is to talk over a channel that the victim opens."""
        return draw.pick([*self.services.values()])

    def waits(self, result: Any) -> None:
        """Keep the Deferred of something that the victim waits for; it may fail as such things do."""
        deferred = as_deferred(result)
        self.pending.append(deferred)
        deferred.addErrback(lambda failure: check(_usual(failure), f"it failed with {failure.getTraceback()}"))

    def mark(self) -> None:
        """Tell the fuzzer what state the victim is in: its phases, and each of its first channels."""
        phases = self.victim.phases
        mark(phases.stage, phases.exchange, phases.sending_blocked, self.victim._full, self.victim._held)
        connection = self.connection
        if connection is not None:
            for id, entry in connection._table.items():
                mark(min(id, 4), type(entry).__name__, *(_state(entry) if isinstance(entry, Channel) else ()))

    # what must hold

    def flush(self) -> None:
        """Move what is not held up, and let everything happen that is to happen at once."""
        for _ in range(10_000):
            moved = self.road.step()
            self.clock.advance(0)
            due = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()]
            if not moved and not due:
                return
        check(False, "the two ends never fall silent")

    def bounds(self) -> None:
        """What the victim holds for its peer is bounded."""
        victim, policy = self.victim, self.policy
        allowed = max(victim._inbound.packet_bytes + OVERHEAD_BYTES, policy.held_bytes)
        check(len(victim._inbound) <= allowed, f"it keeps {len(victim._inbound)} bytes unread")
        waiting = sum(len(payload) for _, payload in victim._waiting)
        check(waiting <= policy.backlog_bytes, f"{waiting} bytes wait for new keys")
        unsent = len(self.tap.out)
        check(unsent <= policy.backlog_bytes + BUFFER_BYTES + 2 * BATCH_BYTES, f"{unsent} bytes wait for the peer")
        connection = self.connection
        if connection is None:
            return
        limits = connection.limits
        check(connection.channels <= limits.channels, f"there are {connection.channels} channels")
        check(len(connection._requests) <= limits.requests, f"{len(connection._requests)} requests wait")
        check(len(connection._soon) <= 64 * limits.channels, f"{len(connection._soon)} calls wait")
        inboxes = [len(each._inbox) for each in connection._table.values() if isinstance(each, Channel)]
        most = limits.most_window_bytes + limits.channels * limits.window_bytes
        check(sum(inboxes) <= most, f"{sum(inboxes)} bytes are not read")
        windows = [each.window.left for each in connection._table.values() if isinstance(each, Channel)]
        check(all(left >= 0 for left in windows), f"of the windows {windows} is left")

    def end(self) -> None:
        """Let everything arrive, end the connection, and see that nothing is left of it."""
        connection = self.connection
        self.road.held.clear()
        self.flush()
        self.oracle()
        if not self.raw.closing:
            self.raw.close("over")
        self.flush()
        self.clock.advance(self.policy.close_s)
        self.flush()
        if self.tap.connected:
            self.wire.lose(ConnectionDone())
            self.tap.lose(ConnectionDone())
        self.flush()
        self.over()
        check(not self.clock.getDelayedCalls(), f"calls are left: {self.clock.getDelayedCalls()}")
        check(all(each.called for each in self.pending), "somebody still waits")
        met = [each for each in self.guests if each.transport is not None]
        check(all(len(each.lost) == 1 for each in met), "a protocol was not told once that it is over")
        if connection is not None:
            left = (connection._table, connection._requests, connection._soon, connection._loans)
            check(not any(left), f"it leaves {left}")


def _state(channel: Channel) -> tuple[object, ...]:
    ends, outgoing = channel._ends, channel._outgoing
    flags = channel.connected, channel.disconnecting, channel._paused, outgoing.waiting, outgoing.window.left > 0
    return channel._arrived, ends.out, ends.into, *flags, bool(channel._inbox)


def _usual(failure: Any) -> bool:
    """Whether `failure` is one that is part of life."""
    return failure.check(AvinetError) is not None or type(failure.value).__name__ in ("CancelledError", "NoProtocol")
