"""Sealed packets of each construction, changed on their way and in any pieces, give the payloads that they give at once.

What was lent stays as it is until all is settled.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from avinet.errors import PeerError
from avinet.ssh.ciphers import (
    MACS,
    ChaChaOpening,
    ChaChaSealing,
    CtrOpening,
    CtrSealing,
    GcmOpening,
    GcmSealing,
    PlainOpening,
    PlainSealing,
)
from avinet.ssh.packets import OVERHEAD_BYTES, Inbound, Outbound
from tests.fuzz.steps import Draw, joined, steps
from tests.fuzz.vocabulary import damaged
from tests.fuzz.watch import check, watched

_KEY, _IV, _MAC_KEY = bytes(range(64)), bytes(range(16)), bytes(64)
_LIMITS = (35000, 1 << 20, 16, 300)
_MOST_BYTES = 1 << 18


def _ctr(make: Any, name: bytes) -> Any:
    mac = MACS[name]
    return make(_KEY[:16], _IV, mac, _MAC_KEY[: mac.code_bytes])


CONSTRUCTIONS = (
    (PlainSealing, PlainOpening),
    (partial(GcmSealing, _KEY[:16], _IV[:12]), partial(GcmOpening, _KEY[:16], _IV[:12])),
    (partial(GcmSealing, _KEY[:32], _IV[:12]), partial(GcmOpening, _KEY[:32], _IV[:12])),
    (partial(ChaChaSealing, _KEY, b""), partial(ChaChaOpening, _KEY, b"")),
    *((partial(_ctr, CtrSealing, name), partial(_ctr, CtrOpening, name)) for name in MACS),
)


def opened(opening: Any, limit: int, pieces: list[bytes], *, greeting: bool) -> tuple[list[bytes], str]:
    """What comes out of the pieces, and what ends it."""
    inbound = Inbound(limit)
    inbound.switch(opening(), restart=True)
    out: list[bytes] = []
    for piece in pieces:
        left = memoryview(piece)
        while left:
            space = inbound.space()
            count = min(len(left), len(space))
            check(count, "there is no room")
            space[:count] = left[:count]
            left = left[count:]
            inbound.filled(count)
            try:
                _take(inbound, out, greeting=greeting)
            except PeerError as error:
                inbound.clear()
                inbound.settle()
                check(len(inbound) == 0, "something is kept in the end")
                return out, str(error)
            inbound.settle()
            kept = limit + OVERHEAD_BYTES if out or not greeting else 255
            check(len(inbound) <= kept, f"{len(inbound)} bytes are kept where a packet has {limit}")
            check(inbound.missing >= 1, "it waits for nothing")
    return out, ""


def _take(inbound: Inbound, out: list[bytes], *, greeting: bool) -> None:
    """Take all that is there, as a connection does; what was taken stays good until all is settled."""
    if greeting and not out:
        line = inbound.next_line()
        if line is None:
            return
        out.append(line)
    lent: list[tuple[memoryview, bytes]] = []
    try:
        while (payload := inbound.next_packet()) is not None:
            lent.append((payload, bytes(payload)))
    finally:
        check(all(payload == copy for payload, copy in lent), "what was lent has changed")
        out += [copy for _, copy in lent]


def expected(stream: bytes, limit: int) -> tuple[list[bytes], bool]:
    """The payloads of packets without keys, as RFC 4253 §6 has them, and whether something there is none."""
    out: list[bytes] = []
    while len(stream) >= 4:
        size = int.from_bytes(stream[:4], "big")
        if size > limit or size < 12 or (size + 4) % 8:
            return out, True
        if len(stream) < 4 + size:
            break
        padding = stream[4]
        payload = stream[5 : max(5, 4 + size - padding)]
        if padding < 4 or not payload:
            return out, True
        out.append(payload)
        stream = stream[4 + size :]
    return out, False


def run(data: bytes) -> None:
    """Run one program: what is sent and what becomes of it first, then into what pieces it falls."""
    program = steps(data)
    first = Draw(next(program, b""))
    sealing, opening = first.pick(CONSTRUCTIONS)
    limit, flags = first.pick(_LIMITS), first.byte()
    greeting = bool(flags & 1)
    outbound = Outbound()
    outbound.switch(sealing(), restart=True)
    stream = bytearray(b"SSH-2.0-x\r\n" if greeting else b"")
    sizes: list[int] = []
    honest: list[bytes] | None = [b"SSH-2.0-x"] if greeting else []
    for step in program:
        draw = Draw(step)
        match draw.below(4):
            case 0:
                payload = bytes((draw.byte() or 94,)) + draw.rest()
                payload = payload.ljust(min(draw.number(), 40000)) if draw.byte() & 1 else payload
                stream += outbound.seal(payload)
                if honest is not None:
                    honest.append(payload)
            case 1:
                stream[:] = damaged(bytes(stream), draw.byte(), draw.byte(), draw.some(32))
                honest = None
            case 2:
                stream += draw.rest()
                honest = None
            case _:
                sizes += [draw.number() + 1 for _ in range(1 + draw.below(8))]
        if len(stream) > _MOST_BYTES:
            break
    pieces, at = [], 0
    for size in sizes * (1 + len(stream) // max(1, sum(sizes))) or [1]:
        pieces.append(bytes(stream[at : at + size]))
        at += size
    pieces.append(bytes(stream[at:]))
    with watched():
        whole = opened(opening, limit, [bytes(stream)], greeting=greeting)
        split = opened(opening, limit, pieces, greeting=greeting)
        check(split == whole, f"in pieces {split}, at once {whole}")
        if sealing is PlainSealing and not greeting:
            payloads, broken = expected(bytes(stream), limit)
            check((whole[0], bool(whole[1])) == (payloads, broken), f"it should be {payloads}, and is {whole}")
        if honest is not None and all(2 <= len(each) <= limit - OVERHEAD_BYTES for each in honest[greeting:]):
            check(whole == (honest, ""), f"sent {honest}, arrived {whole}")


SEEDS = [
    joined(
        [bytes((kind, limit, greeting)), b"\0\x5ehello", bytes((0, 94, 0, 0, 1, 200)), cut, b"\0\1\2\3", b"\3\2\0\7\20"]
    )
    for kind in range(6)
    for limit, greeting, cut in ((0, 0, b""), (0, 1, b"\1\3\x80"), (3, 0, b"\2junk"), (1, 1, b"\1\0\xe0"))
]
