"""What a peer is and says, as it is put into logs and errors."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address

_SHOWN = 160


def host_of(address: object) -> str:
    """The IP address in `address`; empty when it has none, as inside a tunnel."""
    return address.host if isinstance(address, (IPv4Address, IPv6Address)) else ""


def shown_address(address: object) -> str:
    """`address` as it is logged."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    return "a tunnel"


def shortened(text: str, limit_bytes: int) -> str:
    """`text`, cut where it takes more than `limit_bytes`."""
    data = text.encode("utf-8")
    if len(data) <= limit_bytes:
        return text
    return data[: limit_bytes - 3].decode("utf-8", "ignore") + "…"


def printable(data: bytes) -> str:
    """What a peer said, cut and escaped so that it fits into a line of a log."""
    text = data[: _SHOWN + 1].decode("utf-8", "replace")
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
