"""Which server is next, and which pool a request belongs to: pure rules over values that the proxy keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from avinet.wire.config import Route, VirtualService


class Candidate(Protocol):
    """What balancing needs of a server; `current` belongs to the round robin."""

    active: int
    current: int

    @property
    def weight(self) -> int:
        """Its share; 0 takes nothing."""


C = TypeVar("C", bound=Candidate)


def round_robin(candidates: Sequence[C]) -> C | None:
    """The next server, each as often as its weight says, and evenly spread (smooth weighted round robin)."""
    best: C | None = None
    total = 0
    for each in candidates:
        each.current += each.weight
        total += each.weight
        if best is None or each.current > best.current:
            best = each
    if best is not None:
        best.current -= total
    return best


def least_connections(candidates: Sequence[C]) -> C | None:
    """The server with the fewest connections for its weight; those that are equal take turns."""
    load = [(each.active + 1) / each.weight for each in candidates]
    least = min(load, default=0.0)
    return round_robin([each for each, here in zip(candidates, load, strict=True) if here == least])


BALANCE = {"round-robin": round_robin, "least-connections": least_connections}


def route(service: VirtualService, host: str, path: str) -> str | None:
    """The pool for a request; `host` is its Host header, `path` its target. The first route wins."""
    name = _host(host)
    plain = _path(path)
    for each in service.routes:
        if _takes(each, name, plain):
            return each.pool
    return service.pool


def _host(header: str) -> str:
    """The host in a Host header, without its port, in lower case."""
    name = header.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0].lstrip("[")
    return name.partition(":")[0]


def _path(target: str) -> str:
    """The path in a request's target, in origin form or in absolute form (RFC 9112, section 3.2)."""
    plain = target.partition("?")[0]
    if not plain.startswith("/") and "://" in plain:
        _, slash, rest = plain.partition("://")[2].partition("/")
        return slash + rest
    return plain


def _takes(each: Route, host: str, path: str) -> bool:
    if each.host.startswith("*."):
        if not host.endswith(each.host[1:]) or len(host) <= len(each.host) - 1:
            return False
    elif each.host and host != each.host:
        return False
    below = each.path.rstrip("/")
    return path == below or path.startswith(below + "/") or not below


@dataclass(frozen=True)
class Rise:
    """Counts checks of one server: `up` changes after `rise` successes, or `fall` failures, in a row."""

    up: bool | None = None
    streak: int = 0

    def checked(self, passed: bool, rise: int, fall: int) -> Rise:
        """The state after one more check; the first check decides at once."""
        if self.up is None:
            return Rise(passed)
        if passed == self.up:
            return Rise(self.up)
        streak = self.streak + 1
        return Rise(passed) if streak >= (rise if passed else fall) else Rise(self.up, streak)


def in_service(servers: Iterable[C]) -> list[C]:
    """Those that take new connections by their weight."""
    return [each for each in servers if each.weight > 0]
