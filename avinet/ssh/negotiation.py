"""What two ends agree on: the KEXINIT message as a value, and the choice that both make from it (RFC 4253 §7.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from avinet.errors import PeerError
from avinet.ssh.ciphers import authenticates
from avinet.ssh.policy import HOST_KEY, INDICATIONS, STRICT_CLIENT, STRICT_SERVER, Policy
from avinet.ssh.strings import Reader, name_list, uint32

_COOKIE_BYTES = 16
_NONE = b"none"


@dataclass(frozen=True)
class Proposal:
    """One end's KEXINIT; `guessed` says that its first packet of the exchange follows unasked."""

    key_exchanges: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers_to_server: tuple[bytes, ...]
    ciphers_to_client: tuple[bytes, ...]
    macs_to_server: tuple[bytes, ...]
    macs_to_client: tuple[bytes, ...]
    compressions_to_server: tuple[bytes, ...]
    compressions_to_client: tuple[bytes, ...]
    guessed: bool = False

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, policy: Policy, *, client: bool) -> Proposal:
        """What `policy` proposes as this role: strict key exchange always, extensions never."""
        return cls(
            (*policy.key_exchanges, STRICT_CLIENT if client else STRICT_SERVER),
            (HOST_KEY,),
            policy.ciphers,
            policy.ciphers,
            policy.macs,
            policy.macs,
            (_NONE,),
            (_NONE,),
        )

    @classmethod
    def decode(cls, body: bytes) -> Proposal:
        """The proposal in the `body` of a KEXINIT. Raises `PeerError`."""
        Reader(body, "KEXINIT").take(_COOKIE_BYTES)
        return cls._after_cookie(body[_COOKIE_BYTES:])

    @classmethod
    @lru_cache(maxsize=64)
    def _after_cookie(cls, body: bytes) -> Proposal:
        """The same without its cookie: a fleet proposes the same over and over, so the last ones are remembered."""
        reader = Reader(body, "KEXINIT")
        lists = [reader.name_list() for _ in range(10)]
        exchanges, host_keys, ciphers_out, ciphers_in, macs_out, macs_in, packers_out, packers_in = lists[:8]
        guessed = reader.boolean()
        reader.uint32()
        reader.end()
        return cls(exchanges, host_keys, ciphers_out, ciphers_in, macs_out, macs_in, packers_out, packers_in, guessed)

    def encode(self, cookie: bytes) -> bytes:
        """The body of the KEXINIT with 16 random bytes as `cookie`; languages are left empty."""
        return cookie + self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        """All that comes after the cookie."""
        lists = (
            self.key_exchanges,
            self.host_keys,
            self.ciphers_to_server,
            self.ciphers_to_client,
            self.macs_to_server,
            self.macs_to_client,
            self.compressions_to_server,
            self.compressions_to_client,
            (),
            (),
        )
        return b"".join(map(name_list, lists)) + bytes((self.guessed,)) + uint32(0)


@dataclass(frozen=True, slots=True)
class Algorithms:
    """What was agreed, for both directions; a MAC is empty where the cipher needs none."""

    key_exchange: bytes
    host_key: bytes
    cipher_to_server: bytes
    cipher_to_client: bytes
    mac_to_server: bytes
    mac_to_client: bytes


def agree(client: Proposal, server: Proposal, *, strict: bool) -> Algorithms:
    """From each list the client's first name that the server has too. Raises `PeerError` where there is none.

    Ciphers that authenticate by themselves are only for ends whose first key exchange was `strict`: without it,
    chacha20-poly1305 does not notice that packets were cut off its beginning.
    """
    exchanges = tuple(name for name in client.key_exchanges if name not in INDICATIONS)
    _first(client.compressions_to_server, server.compressions_to_server, "compression")
    _first(client.compressions_to_client, server.compressions_to_client, "compression")
    to_server = _first_cipher(client.ciphers_to_server, server.ciphers_to_server, strict)
    to_client = _first_cipher(client.ciphers_to_client, server.ciphers_to_client, strict)
    return Algorithms(
        _first(exchanges, server.key_exchanges, "key exchange"),
        _first(client.host_keys, server.host_keys, "kind of host key"),
        to_server,
        to_client,
        b"" if authenticates(to_server) else _first(client.macs_to_server, server.macs_to_server, "MAC"),
        b"" if authenticates(to_client) else _first(client.macs_to_client, server.macs_to_client, "MAC"),
    )


def _first_cipher(client: tuple[bytes, ...], server: tuple[bytes, ...], strict: bool) -> bytes:
    if strict:
        return _first(client, server, "cipher")
    chained = tuple(name for name in client if not authenticates(name))
    return _first(chained, server, "cipher to be used without strict key exchange")


def guessed_wrong(client: Proposal, server: Proposal) -> bool:
    """Whether a guess could not have been right: the first choices differ."""
    return client.key_exchanges[:1] != server.key_exchanges[:1] or client.host_keys[:1] != server.host_keys[:1]


def _first(client: tuple[bytes, ...], server: tuple[bytes, ...], what: str) -> bytes:
    for name in client:
        if name in server:
            return name
    raise PeerError(f"there is no {what} that both ends have")
