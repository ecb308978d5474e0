"""Steps that make sense, of which seeds are made, and which the fuzzer puts in between others."""

from __future__ import annotations

from avinet.ssh import messages as m
from tests.fuzz.steps import EDGES
from tests.fuzz.vocabulary import spelled

SAY, HONEST, APPLY, ACT, WAIT, HOLD, STALL, TAMPER, OTHER, BYTES, END = 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
OPEN = bytes((SAY,)) + spelled(m.CHANNEL_OPEN)
"""A direct-tcpip to control:80 with number 0, and a mebibyte of window."""


EDGE_4096, EDGE_16384, EDGE_65535 = (192 + EDGES.index(size) for size in (4096, 16384, 65535))


def channel(number: int, id: int, *rest: int) -> bytes:
    """A message for a channel."""
    return bytes((SAY,)) + spelled(number, id, *rest)


def open_to(host: int, id: int = 0, port: int = 0) -> bytes:
    """Open a channel to the service of a host and a port of the vocabulary."""
    return OPEN + bytes((0, id, 0, 0, host, port))


TALK = (
    open_to(0),
    channel(m.CHANNEL_DATA, 0, 5) + b"hello",
    channel(m.CHANNEL_WINDOW_ADJUST, 0, 100),
    channel(m.CHANNEL_REQUEST, 0),
    channel(m.CHANNEL_EOF, 0),
    channel(m.CHANNEL_CLOSE, 0),
    open_to(2, 1),
    open_to(3, 2, 1),
    open_to(4, 3),
    channel(m.CHANNEL_EXTENDED_DATA, 1, 1, 5),
    bytes((SAY,)) + spelled(m.CHANNEL_DATA) + b"\1\xce",
    bytes((ACT, 0, 0, 200)),
    bytes((ACT, 0, 2)),
    bytes((ACT, 0, 4)),
    bytes((ACT, 0, 5)),
    bytes((WAIT, 4)),
    bytes((STALL,)),
    bytes((HOLD,)),
)
"""What is said over a connection that is open, and beside it."""
SEVERAL = (
    *(open_to(0, id) for id in range(4)),
    channel(m.CHANNEL_DATA, 2, 5) + b"hello",
    channel(m.CHANNEL_EOF, 1),
    channel(m.CHANNEL_WINDOW_ADJUST, 2, 100),
    channel(m.CHANNEL_EXTENDED_DATA, 3, 1, 5),
    channel(m.CHANNEL_REQUEST, 1),
    bytes((ACT, 2, 0, 200)),
    bytes((ACT, 1, 2)),
    channel(m.CHANNEL_EOF, 3),
    channel(m.CHANNEL_CLOSE, 0),
    bytes((ACT, 3, 1)),
    open_to(0, 0),
    channel(m.CHANNEL_CLOSE, 3),
)
"""Channels beside one another, each further than the next."""
REQUESTS = (
    bytes((SAY,)) + spelled(m.GLOBAL_REQUEST),
    bytes((SAY,)) + spelled(m.GLOBAL_REQUEST, 0, 0, 2),
    bytes((SAY,)) + spelled(m.GLOBAL_REQUEST, 1),
    bytes((SAY,)) + spelled(m.GLOBAL_REQUEST, 2),
    bytes((APPLY, 1, 0)),
    bytes((HONEST, 5)),
    bytes((HONEST, 4)),
    bytes((APPLY, 2)),
    bytes((APPLY, 0)),
    bytes((HONEST, 3)),
)
SESSION = (
    bytes((SAY,)) + spelled(m.CHANNEL_OPEN, 2),
    channel(m.CHANNEL_REQUEST, 0, 0, 1),
    bytes((SAY,)) + spelled(m.CHANNEL_OPEN, 2, 1),
    channel(m.CHANNEL_REQUEST, 1, 1, 1, 1),
    bytes((SAY, 0, 5, 1, 1)) + b"\0\0\0\3",
    bytes((SAY, 0, 5, 1, 11, 0, 0)),
    bytes((WAIT, 6)),
)
LOGIN = (bytes((HONEST, 0)), bytes((HONEST, 2)), bytes((HONEST, 1)), bytes((APPLY,)))
BULK = (
    *(open_to(host, id, port) for id, (host, port) in enumerate(((0, 0), (3, 1), (7, 0), (7, 0), (6, 0), (4, 0)))),
    *(channel(m.CHANNEL_DATA, id, size) for size in (EDGE_4096, EDGE_16384, EDGE_16384, 9) for id in range(6)),
    *(channel(m.CHANNEL_WINDOW_ADJUST, id, EDGE_16384) for id in range(6)),
    bytes((WAIT, 2)),
    *(channel(m.CHANNEL_DATA, id, EDGE_16384) for id in (1, 1, 1, 1, 2, 2, 3, 3, 0, 0)),
    bytes((APPLY, 5, 99)),
    *(bytes((ACT, id, 0, EDGE_16384)) for id in (2, 3, 3)),
    *(channel(m.CHANNEL_DATA, id, EDGE_65535) for id in (1, 3)),
    *(channel(m.CHANNEL_EOF, id) for id in (2, 3, 4)),
)
"""Much data, to and fro, and through."""
SILENCE = (bytes((APPLY, 6)), *(bytes((WAIT, 5)),) * 8)
CLAIMS = (
    *((1,), (0, 1), (0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0, 3, 128), (2, 1, 1)),
    *((0, 0, 0, 0, kind, where) for kind in (4, 5, 6, 7) for where in (0, 90, 200, 255)),
)
"""Ways to ask to be let in that must not do."""
