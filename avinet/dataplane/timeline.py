"""What the built-in proxy sees of a request, or of a connection of a TCP service, until it is a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from avinet.dataplane.records import TCP, UNANSWERED, Record, host, milliseconds, new_id, path_and_query, text

Take = Callable[[Record], None]
"""Is given each record."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, and under which TLS."""

    address: str
    port: int
    tls_version: str = ""
    tls_cipher: str = ""
    sni: str = ""

    @classmethod
    def of(cls, address: Any, transport: Any = None) -> Client:
        """The client at an address of Twisted's; `transport` is one of TLS whose handshake is done."""
        peer = str(getattr(address, "host", "")), int(getattr(address, "port", 0))
        if transport is None:
            return cls(*peer)
        shown = transport.getHandle()
        return cls(
            *peer,
            tls_version=shown.get_protocol_version_name(),
            tls_cipher=shown.get_cipher_name() or "",
            sni=text(shown.get_servername() or b""),
        )


@dataclass(slots=True)
class Timeline:
    """Times are in seconds of the reactor's; they are None until they come. `dialled` are servers."""

    client: Client
    began: float
    asked: float | None = None
    connected: float | None = None
    answered: float | None = None
    pool: str = ""
    dialled: list[str] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0
    status: int = UNANSWERED
    method: str = ""
    host: str = ""
    path: str = ""
    query: str = ""
    protocol: str = ""
    user_agent: str = ""
    referer: str = ""
    request_id: str = field(default_factory=new_id)

    def ask(self, now: float, method: bytes, target: bytes, version: bytes, headers: dict[bytes, bytes]) -> None:
        """The head of a request has come."""
        self.asked = now
        self.method, self.protocol = text(method), f"HTTP/{text(version)}"
        self.path, self.query = path_and_query(target)
        self.host = host(headers.get(b"host", b""))
        self.user_agent, self.referer = (text(headers.get(name, b"")) for name in (b"user-agent", b"referer"))

    def ended_by(self, who: str) -> str:
        """How a request ends that `who` breaks off now, in HAProxy's letters."""
        if self.asked is None:
            return who + "R"
        if self.connected is None:
            return who + "C"
        return who + ("H" if self.answered is None else "D")

    def record(self, now: float, service: str, termination: str) -> Record:
        """All of it, when it has ended."""
        http = self.status != TCP
        return Record(
            time=round(1000 * (self.began if self.asked is None else self.asked)),
            service=service,
            pool=self.pool,
            server=self.dialled[-1] if self.dialled else "",
            client=self.client.address,
            client_port=self.client.port,
            method=self.method,
            host=self.host,
            path=self.path,
            query=self.query,
            protocol=self.protocol,
            status=self.status,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            request_ms=milliseconds(self.began, self.asked) if http else -1,
            queue_ms=0 if self.dialled else -1,
            connect_ms=milliseconds(self.asked, self.connected),
            response_ms=milliseconds(self.connected, self.answered),
            total_ms=milliseconds(self.began, now),
            tls_version=self.client.tls_version,
            tls_cipher=self.client.tls_cipher,
            sni=self.client.sni,
            termination=termination,
            retries=max(0, len(self.dialled) - 1),
            server_queue=0,
            pool_queue=0,
            user_agent=self.user_agent,
            referer=self.referer,
            request_id=self.request_id,
        )
