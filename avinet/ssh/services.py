"""The names that are offered through a tunnel, and how they look in the forwarding messages of RFC 4254 §7.

A name is `HOST:PORT` and nothing more: it is looked up in a table, never resolved, and nothing listens for it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from avinet.errors import Invalid
from avinet.flow.turns import Priority
from avinet.ssh.strings import Reader, string, uint32

DIRECT, FORWARDED = b"direct-tcpip", b"forwarded-tcpip"
FORWARD, CANCEL = b"tcpip-forward", b"cancel-tcpip-forward"

ALIASES = {"api:80": "control:80"}
"""Other names of services, as stock clients may use them."""
ENGINE_SERVICES = frozenset({"control:80", "logs:80", "ssh:22"})
"""What a service engine may offer to a node."""

PRIORITIES = {"logs:80": Priority.LOGS}
"""The services whose channels do not go first."""

_HOST_BYTES = 255
_ORIGINATOR = string(b"127.0.0.1") + uint32(0)


@dataclass(frozen=True, slots=True)
class Destination:
    """A host and a port as a peer writes them."""

    host: bytes
    port: int

    @classmethod
    def named(cls, service: str) -> Destination:
        """The destination for a name like `control:80`. Raises `Invalid`."""
        host, colon, port = service.rpartition(":")
        if not (host and colon and host.isascii() and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise Invalid(f"{service!r} is no name of a service", hint="write it as control:80")
        return cls(host.encode("ascii"), int(port))

    @classmethod
    def read(cls, reader: Reader) -> Destination:
        """The destination that comes next in a message."""
        return cls(reader.string(_HOST_BYTES), reader.uint32())

    @classmethod
    def of_request(cls, body: bytes) -> Destination:
        """The destination in the body of a `tcpip-forward` or its cancellation. Raises `PeerError`."""
        reader = Reader(body, "request to forward")
        destination = cls.read(reader)
        reader.end()
        return destination

    @classmethod
    def of_open(cls, body: bytes) -> Destination:
        """The destination in the body of a channel's opening; its originator says nothing. Raises `PeerError`."""
        reader = Reader(body, "CHANNEL_OPEN")
        destination = cls.read(reader)
        reader.string(_HOST_BYTES)
        reader.uint32()
        reader.end()
        return destination

    def encode(self) -> bytes:
        """As it is sent in a request."""
        return string(self.host) + uint32(self.port)

    def encode_open(self) -> bytes:
        """As it is sent to open a channel."""
        return self.encode() + _ORIGINATOR

    @property
    def service(self) -> str:
        """The name that this may be the destination of, aliases resolved; anything may come out, so look it up."""
        name = f"{self.host.decode('latin-1')}:{self.port}"
        return ALIASES.get(name, name)


def priority_of(service: str) -> Priority:
    """What channels of `service` have to let go first."""
    return PRIORITIES.get(service, Priority.COMMANDS)


def canonical(service: str) -> str:
    """`service` by its first name. Raises `Invalid` for what is no name at all."""
    return Destination.named(service).service


class Offers:
    """What one peer offers: names out of `allowed`, at most `limit`, each of them once."""

    def __init__(self, allowed: Collection[str], limit: int) -> None:
        self._allowed = frozenset(allowed)
        self._limit = limit
        self._offered: dict[str, Destination] = {}

    @property
    def names(self) -> frozenset[str]:
        """The services on offer."""
        return frozenset(self._offered)

    def add(self, destination: Destination) -> bool:
        """Take an offer; False when it is not allowed, a duplicate or one too many."""
        name = destination.service
        if name not in self._allowed or name in self._offered or len(self._offered) >= self._limit:
            return False
        self._offered[name] = destination
        return True

    def remove(self, destination: Destination) -> bool:
        """Take an offer back; False when there is none, written in just this way."""
        if self._offered.get(destination.service) != destination:
            return False
        del self._offered[destination.service]
        return True

    def find(self, service: str) -> Destination | None:
        """The destination to ask for, byte for byte as it was offered."""
        return self._offered.get(service)
