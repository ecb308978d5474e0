"""What one end sends on a channel: data that waits for its window and its turn, and the producer that it comes from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from avinet.flow.chunks import Chunks
from avinet.flow.turns import Priority
from avinet.flow.window import CHAT_BYTES, ReceiveWindow, SendWindow
from avinet.relay import Reading
from avinet.sockets import arrived
from avinet.ssh.messages import CHANNEL_EXTENDED_DATA, STDERR
from avinet.ssh.strings import uint32

HIGH_BYTES = 64 * 1024
"""What may wait to be sent before a producer is paused."""
LOW_BYTES = 16 * 1024
"""What is left when it is resumed."""
_LEAST_BYTES = 4096
"""What is worth a call to read, with less window too."""


class Carrier(Protocol):
    """What a channel needs of its connection."""

    flowing: bool
    """Whether what is sent now goes out at once, and nobody waits for a turn."""

    @property
    def batch_bytes(self) -> int:
        """How much one channel may send at once now."""

    @property
    def heard_at(self) -> float:
        """When the peer was last heard."""

    def send(self, number: int, channel: int, *fields: bytes | memoryview) -> None:
        """Send a message to the peer's `channel`."""

    def send_data(self, channel: int, data: bytes | memoryview, packet_bytes: int) -> int:
        """Send `data` to the peer's `channel` in packets of `packet_bytes`; returns how much of it."""

    def place(self, size: int) -> memoryview | None:
        """Where `size` bytes that `send_data` sends next may be put, so that they are not copied."""

    def chatted(self) -> None:
        """A little thing was said."""

    def cork(self) -> None:
        """What is sent until `uncork` goes out as one."""

    def uncork(self) -> None:
        """The end of what `cork` began."""

    def ready(self, outgoing: Outgoing) -> None:
        """`outgoing` has something to send, and window for it: call its `send_some` when it is its turn."""

    def soon(self, call: Callable[[], None]) -> None:
        """Call back when whatever is going on has ended."""

    def resize(self, channel: int, window: ReceiveWindow, priority: Priority) -> None:
        """Give our `channel` the window that it should have, now that data which arrived on it has been consumed.

        The `window` that it had is open again: its peer may have us hold that much.
        """

    def over(self, channel: int) -> None:
        """CLOSE has gone both ways on our `channel`."""


def _call(call: Callable[[], object]) -> None:
    call()


def _nobody() -> None:
    """There is nobody to be told."""


class Outgoing:
    """The outgoing half of an open channel.

    `guard` calls the producer, and takes care of its faults; `emptied` is called when nothing waits any more, and no
    producer has to be asked for more.
    """

    __slots__ = (
        "_carrier",
        "_emptied",
        "_errors",
        "_errors_bytes",
        "_guard",
        "_lender",
        "_outbox",
        "_paused",
        "_streaming",
        "_taken",
        "far_id",
        "priority",
        "producer",
        "queued",
        "window",
    )

    def __init__(
        self,
        carrier: Carrier,
        far_id: int,
        window: SendWindow,
        priority: Priority,
        guard: Callable[[Callable[[], object]], None],
        emptied: Callable[[], None],
    ) -> None:
        self.far_id = far_id
        self.window = window
        self.priority = priority
        self.queued = False
        self.producer: Any = None
        self._carrier = carrier
        self._guard = guard
        self._emptied = emptied
        self._outbox = Chunks()
        self._errors: deque[tuple[int, bytes]] | None = None
        self._errors_bytes = 0
        self._taken = 0
        self._streaming = False
        self._paused = False
        self._lender = False

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be sent."""
        return self._outbox.size > 0 or self._errors is not None

    @property
    def _waiting_bytes(self) -> int:
        return self._outbox.size + self._errors_bytes

    # what is to be sent

    def write(self, data: bytes) -> None:
        """Send `data`, as much as can be at once."""
        sent = self._send_now(memoryview(data))
        if sent < len(data):
            self._outbox.append(data[sent:] if sent else data)
            self._offer()
        elif self.producer is not None and not self._streaming:
            self.drained()

    def lend(self, data: memoryview) -> None:
        """Send `data`, which is good only during the call."""
        sent = self._send_now(data)
        if sent < len(data):
            self._outbox.append(bytes(data[sent:]))
            self._offer()

    def write_error(self, data: bytes) -> None:
        """Send `data` as the standard error of a command, after all that was written before."""
        if data:
            if self._errors is None:
                self._errors, self._taken = deque(), 0
            self._errors.append((self._taken + self._outbox.size, data))
            self._errors_bytes += len(data)
            self._offer()

    def buffer(self) -> memoryview | None:
        """Where to read what can be sent at once; when nothing can, the producer waits until it can."""
        window, carrier = self.window, self._carrier
        if self.waiting or not window.left or not carrier.flowing:
            self._pause()
            self._take_turn()
            return None
        size = min(window.left, carrier.batch_bytes)
        place = carrier.place(size) if _LEAST_BYTES <= size <= window.packet_bytes else None
        return arrived()[: max(size, _LEAST_BYTES)] if place is None else place

    def _send_now(self, data: memoryview) -> int:
        """Send what nothing stands in the way of; returns how much that was."""
        window, carrier = self.window, self._carrier
        if self.waiting or self.queued or not carrier.flowing:
            return 0
        size = len(data)
        if 0 < size < CHAT_BYTES and self.priority.waited_for and window.chats(size):
            carrier.chatted()
        if size > window.left:
            data = data[: window.left]
        sent = carrier.send_data(self.far_id, data, window.packet_bytes)
        window.sent(sent)
        return sent

    def _offer(self) -> None:
        """Something waits to be sent: take a turn, and have the producer wait when it is much."""
        self._take_turn()
        if self._waiting_bytes > HIGH_BYTES:
            self._pause()

    def _take_turn(self) -> None:
        if self.window.left and not self.queued:
            self._carrier.ready(self)

    def _pause(self) -> None:
        if self._streaming and not self._paused:
            self._paused = True
            self.producer.pauseProducing()

    def send_some(self) -> bool:
        """Send one packet of what waits; whether there is more that the window has room for."""
        size = min(self._outbox.size, self.window.room)
        if self._errors is not None:
            size = min(size, self._errors[0][0] - self._taken)
        if size:
            self.window.sent(size)
            self._taken += size
            pieces = self._outbox.take(size)
            self._carrier.send_data(self.far_id, pieces[0] if len(pieces) == 1 else b"".join(pieces), size)
        elif self._errors is not None and self.window.room:
            self._send_error(self._errors)
        self.drained()
        return bool(self.window.left and self.waiting)

    def _send_error(self, errors: deque[tuple[int, bytes]]) -> None:
        """Send one packet of the standard error, whose turn it is."""
        at, data = errors.popleft()
        size = min(len(data), self.window.room)
        if size < len(data):
            errors.appendleft((at, data[size:]))
        self.window.sent(size)
        self._errors_bytes -= size
        self._carrier.send(CHANNEL_EXTENDED_DATA, self.far_id, uint32(STDERR), uint32(size), data[:size])
        if not errors:
            self._errors = None

    def adjusted(self, count: int) -> None:
        """The peer has opened its window by `count` bytes. Raises `PeerError`."""
        self.window.add(count, self._carrier.heard_at)
        if count and (self.waiting or self._paused):
            self._take_turn()

    def drained(self) -> None:
        """Less waits than before: let the producer go on, or tell that nothing waits any more."""
        if self._paused and self._waiting_bytes <= LOW_BYTES and self.window.left:
            if self._lender:  # it only begins to read, and lends nothing before the reactor's next turn
                self._resume()
            else:
                self._carrier.soon(self._resume)
        if self.waiting:
            return
        if self.producer is not None and not self._streaming:
            self._carrier.soon(self._pull)
        elif not self._paused:
            self._emptied()

    def _resume(self) -> None:
        if self._paused and self._waiting_bytes <= LOW_BYTES:
            self._paused = False
            self._guard(self.producer.resumeProducing)
            if not self.waiting and not self._paused:
                self._emptied()

    def _pull(self) -> None:
        if self.producer is not None and not self._streaming and not self._outbox.size:
            self._guard(self.producer.resumeProducing)

    # where it comes from

    def register(self, producer: Any, streaming: bool) -> None:
        """Have `producer` write as fast as the peer takes it."""
        if self.producer is not None:
            raise RuntimeError(f"cannot register {producer} while {self.producer} is registered")
        self.producer, self._streaming, self._paused = producer, streaming, False
        self._lender = isinstance(producer, Reading) and producer.lends
        if not streaming:
            producer.resumeProducing()
        elif self._waiting_bytes > HIGH_BYTES:
            self._offer()

    def unregister(self) -> Any:
        """There is no producer any more; returns the one that there was."""
        producer, self.producer = self.producer, None
        self._streaming = self._paused = False
        return producer

    def retire(self) -> Any:
        """Call nobody any more, and keep nobody from going; returns the producer that there was."""
        self._guard, self._emptied = _call, _nobody
        return self.unregister()

    def clear(self) -> None:
        """What waits will not be sent."""
        self._outbox.clear()
        self._errors, self._errors_bytes = None, 0
