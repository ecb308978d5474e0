"""Every message of SSH, drawn: well formed first, then perhaps damaged."""

from __future__ import annotations

from collections.abc import Callable

from avinet.ssh import messages as m
from avinet.ssh import phases
from avinet.ssh.ciphers import CIPHERS, MACS
from avinet.ssh.exchange import EXCHANGES
from avinet.ssh.negotiation import Proposal
from avinet.ssh.policy import HOST_KEY, STRICT_CLIENT, STRICT_SERVER
from avinet.ssh.services import CANCEL, DIRECT, FORWARD, FORWARDED
from avinet.ssh.strings import ED25519, string, uint32
from tests.fuzz.steps import Draw

Message = tuple[int, bytes]
HOSTS = (
    *(b"control", b"api", b"logs", b"ssh", b"reports", b"plain", b"slow", b"relay", b"nobody"),
    *(b"localhost", b"0x7f.1", b"::1", b"", b"a" * 256, b"\xff\0"),
)
PORTS = (80, 22, 0, 1, 65535, 65536)
MOST_DATA_BYTES = 1 << 17


def destination(draw: Draw) -> bytes:
    """A host and a port."""
    return string(draw.pick(HOSTS)) + uint32(draw.pick(PORTS))


def _open(draw: Draw) -> bytes:
    kind = draw.pick((DIRECT, FORWARDED, b"session", b"x11", b"", b"k" * 65))
    terms = uint32(draw.number()) + uint32(draw.number() or 1 << 20) + uint32(draw.number() or 1 << 15)
    body = b"" if kind == b"session" else destination(draw) + destination(draw)
    return string(kind) + terms + body + draw.rest()


def confirmation(draw: Draw) -> bytes:
    """The body of a CHANNEL_OPEN_CONFIRMATION."""
    terms = uint32(draw.number() or 1 << 20) + uint32(draw.number() or 1 << 15)
    return uint32(draw.channel()) + uint32(draw.number()) + terms + draw.rest()


def _global_request(draw: Draw) -> bytes:
    name = draw.pick((FORWARD, CANCEL, m.KEEPALIVE, b"hostkeys-00@openssh.com", b"", b"n" * 65))
    body = destination(draw) if name in (FORWARD, CANCEL) else b""
    return string(name) + bytes((1 - draw.byte() & 255,)) + body + draw.rest()


def _channel_request(draw: Draw) -> bytes:
    name = draw.pick((b"exec", b"subsystem", b"shell", b"env", b"exit-status", b"window-change", b""))
    words = (b"status", b"sftp", b"l" * 5000, b"\xff", b"")
    return uint32(draw.channel()) + string(name) + bytes((draw.byte(),)) + string(draw.pick(words)) + draw.rest()


def _plain_data(draw: Draw) -> bytes:
    channel, size = draw.channel(), min(draw.number(), MOST_DATA_BYTES)
    return uint32(channel) + string((draw.rest() or b"x").ljust(size, b".")[: max(size, 0)])


def _sftp(draw: Draw) -> bytes:
    """A request of SFTP in the data of a channel."""
    channel, kind = draw.channel(), draw.byte()
    body = uint32(draw.byte()) + string(draw.pick((b"/", b"a.log", b"sub", b"..", b"\0"))) + draw.rest()
    return uint32(channel) + string(uint32(len(body) + 1) + bytes((kind,)) + body)


def _extended(draw: Draw) -> bytes:
    return uint32(draw.channel()) + uint32(draw.number()) + string(bytes(min(draw.number(), MOST_DATA_BYTES)))


def _userauth(draw: Draw) -> bytes:
    user = draw.pick((b"aviseuser", b"avictlruser", b"root", b"", b"u" * 2000, b"\xff"))
    service = draw.pick((b"ssh-connection", b"ssh-userauth", b""))
    method = draw.pick((b"publickey", b"none", b"password", b"keyboard-interactive", b"\n" * 300))
    fields = bytes((draw.byte(),)) + string(draw.pick((ED25519, b"ssh-rsa", b"ssh-dss"))) + string(draw.some())
    return string(user) + string(service) + string(method) + fields + draw.rest()


def _proposal(draw: Draw) -> bytes:
    """A KEXINIT, its lists in any order and with anything missing."""
    markers = draw.pick(((STRICT_CLIENT,), (STRICT_SERVER,), (), (STRICT_CLIENT, STRICT_SERVER, b"ext-info-c")))
    kinds = [*EXCHANGES, b"diffie-hellman-group1-sha1", b"x" * 64]
    return Proposal(
        (*_some_of(draw, kinds), *markers),
        _some_of(draw, [HOST_KEY, b"ssh-rsa"]),
        *(_some_of(draw, [*CIPHERS, b"none", b"3des-cbc"]) for _ in range(2)),
        *(_some_of(draw, [*MACS, b"none", b"hmac-md5"]) for _ in range(2)),
        *(_some_of(draw, [b"none", b"zlib"]) for _ in range(2)),
        guessed=bool(draw.byte() & 1),
    ).encode(draw.take(16))


def _some_of(draw: Draw, names: list[bytes]) -> tuple[bytes, ...]:
    """All of `names` for a zero, else those that the bits say, beginning with any."""
    bits = draw.byte()
    if not bits:
        return tuple(names)
    first = bits % len(names)
    turned = names[first:] + names[:first]
    return tuple(name for place, name in enumerate(turned) if bits >> (place % 8) & 1)


def _text(draw: Draw) -> bytes:
    return string(draw.pick((b"bye", b"retry-after=7", b"", b"\x1b[2J\n", b"t" * 5000))) + string(b"")


KINDS: tuple[tuple[int, Callable[[Draw], bytes]], ...] = (
    (m.CHANNEL_OPEN, _open),
    (m.CHANNEL_OPEN_CONFIRMATION, confirmation),
    (m.CHANNEL_OPEN_FAILURE, lambda draw: uint32(draw.channel()) + uint32(draw.number()) + _text(draw)),
    (m.CHANNEL_WINDOW_ADJUST, lambda draw: uint32(draw.channel()) + uint32(draw.number())),
    (m.CHANNEL_DATA, _plain_data),
    (m.CHANNEL_DATA, _sftp),
    (m.CHANNEL_EXTENDED_DATA, _extended),
    (m.CHANNEL_EOF, lambda draw: uint32(draw.channel())),
    (m.CHANNEL_CLOSE, lambda draw: uint32(draw.channel())),
    (m.CHANNEL_REQUEST, _channel_request),
    (m.CHANNEL_SUCCESS, lambda draw: uint32(draw.channel())),
    (m.CHANNEL_FAILURE, lambda draw: uint32(draw.channel())),
    (m.GLOBAL_REQUEST, _global_request),
    (m.REQUEST_SUCCESS, Draw.rest),
    (m.REQUEST_FAILURE, Draw.rest),
    (phases.DISCONNECT, lambda draw: uint32(draw.number()) + _text(draw)),
    (phases.IGNORE, lambda draw: string(bytes(min(draw.number(), MOST_DATA_BYTES)))),
    (phases.UNIMPLEMENTED, lambda draw: uint32(draw.number())),
    (phases.DEBUG, lambda draw: bytes((draw.byte(),)) + _text(draw)),
    (phases.SERVICE_REQUEST, lambda draw: string(draw.pick((b"ssh-userauth", b"ssh-connection", b"s" * 3000)))),
    (phases.SERVICE_ACCEPT, lambda draw: string(draw.pick((b"ssh-userauth", b"ssh-connection", b"")))),
    (phases.EXT_INFO, lambda draw: uint32(draw.number()) + string(b"server-sig-algs") + string(draw.rest())),
    (phases.USERAUTH_REQUEST, _userauth),
    (phases.USERAUTH_FAILURE, lambda draw: string(draw.pick((b"publickey", b"password", b""))) + b"\0"),
    (phases.USERAUTH_SUCCESS, Draw.rest),
    (phases.USERAUTH_BANNER, _text),
    (phases.USERAUTH_PK_OK, lambda draw: string(ED25519) + string(draw.rest())),
    (phases.KEXINIT, _proposal),
    (phases.NEWKEYS, Draw.rest),
    (phases.KEX_INIT, lambda draw: string(draw.take(draw.pick((32, 0, 31, 33, 1216)))) + draw.rest()),
    (phases.KEX_REPLY, lambda draw: string(draw.take(51)) + string(draw.take(32)) + string(draw.rest())),
)
"""The number of a message, and how its body is drawn."""
_KIND = {number: index for index, (number, _) in reversed([*enumerate(KINDS)])}


def message(draw: Draw) -> Message:
    """A message, and after a byte that is not zero what becomes of it on the way."""
    damage = draw.byte()
    number, body = draw.pick(KINDS)
    if not damage:
        return number, body(draw)
    where, what = draw.byte(), draw.some(16)
    return number, damaged(body(draw), damage, where, what)


def damaged(body: bytes, damage: int, where: int, what: bytes) -> bytes:
    """`body` with something cut off, put in, put in place of something, or turned over."""
    at = where * (len(body) + 1) // 256
    match damage % 4:
        case 0:
            return body[:at]
        case 1:
            return body[:at] + what + body[at:]
        case 2:
            return body[:at] + what + body[at + len(what) :]
        case _:
            return body[:at] + bytes(each ^ (damage | 1) for each in body[at : at + 1]) + body[at + 1 :]


def spelled(number: int, *rest: int) -> bytes:
    """The beginning of a step of which `message` makes an undamaged message `number`."""
    return bytes((0, _KIND[number], *rest))
