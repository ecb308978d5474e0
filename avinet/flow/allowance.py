"""How often each of many sources may do something: a bucket of tokens for each, and only so many buckets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from avinet.errors import TooMany

_SOURCES = 10_000


@lru_cache(maxsize=_SOURCES)
def source_of(host: str) -> str:
    """The source that the address `host` counts for; empty when it is none, as inside a tunnel."""
    if not host:
        return ""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped is not None else f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return host


class Allowance:
    """`burst` times at once, `per_s` in the long run; the latest `sources` are remembered.

    What is spent beyond that is owed, `debt` at most, and has to be earned back first.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        burst: float,
        per_s: float,
        debt: float = 0.0,
        sources: int = _SOURCES,
    ) -> None:
        self._now, self._burst, self._per_s, self._debt, self._most = now, burst, per_s, debt, sources
        self._sources: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def _left(self, source: str) -> float:
        now = self._now()
        left, since = self._sources.get(source, (self._burst, now))
        return min(self._burst, left + max(0.0, now - since) * self._per_s)

    def wait_s(self, source: str) -> float:
        """How long until `source` may do it; 0.0 when it may now."""
        return max(0.0, 1 - self._left(source)) / self._per_s

    def spend(self, source: str) -> None:
        """`source` has done it once, whether or not it might."""
        self._sources[source] = (max(-self._debt, self._left(source) - 1), self._now())
        self._sources.move_to_end(source)
        if len(self._sources) > self._most:
            self._sources.popitem(last=False)

    def take(self, source: str) -> None:
        """Let `source` do it once. Raises `TooMany`."""
        wait_s = self.wait_s(source)
        if wait_s:
            raise TooMany("too many requests", retry_after_s=wait_s)
        self.spend(source)
