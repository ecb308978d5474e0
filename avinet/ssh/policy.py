"""What this end offers and accepts, and how much of anything a peer may use: one frozen value with safe defaults."""

from __future__ import annotations

from dataclasses import dataclass

BACKLOG = 4096
"""The listen backlog of a port that a whole fleet dials at once after a restart."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

STRICT_CLIENT = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER = b"kex-strict-s-v00@openssh.com"
INDICATIONS = frozenset({STRICT_CLIENT, STRICT_SERVER, b"ext-info-c", b"ext-info-s"})
"""Names that say something in the list of key exchanges, and are none."""

HOST_KEY = b"ssh-ed25519"

POST_QUANTUM = (b"mlkem768x25519-sha256",)
"""The key exchanges whose secrets a quantum computer could not find out later."""


@dataclass(frozen=True)
class Policy:
    """Algorithms in order of preference, and limits; sizes in bytes, times in seconds.

    The names are those of the tables at the foot of `ciphers` and `exchange`. Compression is `none` and the host key
    Ed25519, always.
    """

    key_exchanges: tuple[bytes, ...] = (
        *POST_QUANTUM,
        b"curve25519-sha256",
        b"curve25519-sha256@libssh.org",
    )
    ciphers: tuple[bytes, ...] = (
        b"aes128-gcm@openssh.com",
        b"aes256-gcm@openssh.com",
        b"chacha20-poly1305@openssh.com",
        b"aes256-ctr",
        b"aes128-ctr",
    )
    macs: tuple[bytes, ...] = (b"hmac-sha2-256-etm@openssh.com", b"hmac-sha2-512-etm@openssh.com")
    """Codes for the ciphers that do not authenticate by themselves."""

    login_s: float = 30.0
    """From the connection to both ends being known."""
    auth_requests: int = 12
    """Authentication requests on a connection, of every method, key queries too."""
    packets_before_login: int = 64
    packet_bytes_before_login: int = 35000
    """The largest packet that RFC 4253 §6.1 obliges an implementation to take."""
    held_bytes: int = 64 * KIB
    """What a peer may send while its key is looked up."""

    packet_bytes: int = 1 * MIB
    unknown_messages: int = 16
    """Messages that this end does not implement, on a connection."""
    backlog_bytes: int = 4 * MIB
    """What may wait to be sent after the service was asked to pause."""
    unsent_bytes: int = 1 * MIB
    """What may wait in the kernel for the network to take it, where a peer of our own kind bounds the rest."""
    stock_unsent_bytes: int = 128 * KIB
    """The same, where a peer of another kind does not."""

    rekey_bytes: int = 4 * GIB
    """New keys after so many bytes in either direction."""
    rekey_packets: int = 1 << 28
    """New keys after so many packets in either direction."""
    rekey_s: float = 3600.0
    """New keys, with the next packet, after so long, or up to a quarter earlier: not a whole fleet at once."""
    rekey_timeout_s: float = 30.0
    close_s: float = 2.0
    """How long a closing connection may take to send what is left."""
