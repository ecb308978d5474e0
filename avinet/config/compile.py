"""From the documents of operators to what one service engine runs: pure, and the same bytes for the same documents."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from typing_extensions import override

from avinet.errors import Invalid
from avinet.wire.config import ByEngine, Config, Document, Pool, VirtualService
from avinet.wire.message import encode

CONFIG_LIMIT_BYTES = 4 * 1024 * 1024
ITEMS = 500
"""The most virtual services, the most pools, and the most certificates, of one service engine."""
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z"
)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address | None


@dataclass(frozen=True)
class Target:
    """A service engine, as far as documents select it."""

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """A configuration, its exact encoding, and the SHA-256 of that."""

    config: Config
    text: str
    sha256: str


@dataclass(frozen=True)
class _From:
    """A virtual service or pool, and the document that it stands in."""

    document: str
    item: VirtualService | Pool

    @override
    def __str__(self) -> str:
        kind = "pool" if isinstance(self.item, Pool) else "virtual service"
        return f"{kind} {self.item.name} of document {self.document}"


def applies(document: Document, target: Target) -> bool:
    """Whether `document` selects `target`."""
    if isinstance(document.applies_to, ByEngine):
        return document.applies_to.id == target.id
    return document.applies_to.labels.items() <= target.labels.items()


def compile_for(engine_id: str, labels: Mapping[str, str], documents: Iterable[Document]) -> Config:
    """What the service engine `engine_id` with `labels` runs. Raises `Invalid`, naming the documents in conflict."""
    target = Target(engine_id, labels)
    return merge([document for document in documents if applies(document, target)])


def merge(documents: Sequence[Document]) -> Config:
    """All of `documents` as one configuration, sorted by name.

    Raises `Invalid` for what contradicts itself or another document, naming both.
    """
    in_order = sorted(documents, key=lambda document: document.name)
    pools = _unique(_From(document.name, pool) for document in in_order for pool in document.pools)
    services = _unique(_From(document.name, each) for document in in_order for each in document.virtual_services)
    merged = Config(
        virtual_services=[_checked_service(each, pools) for _, each in sorted(services.items())],
        pools=[_checked_pool(each) for _, each in sorted(pools.items())],
    )
    _check_listeners(services.values())
    if len(merged.certificates) > ITEMS:
        raise Invalid(f"one service engine would have {len(merged.certificates)} certificates, more than {ITEMS}")
    return merged


def compiled(documents: Sequence[Document]) -> Compiled:
    """`merge`, with the encoding. Raises `Invalid`."""
    config = merge(documents)
    encoded = encode(config)
    if len(encoded) > CONFIG_LIMIT_BYTES:
        raise Invalid(f"the configuration has {len(encoded)} bytes, more than {CONFIG_LIMIT_BYTES}")
    return Compiled(config, encoded.decode(), hashlib.sha256(encoded).hexdigest())


def _unique(found: Iterable[_From]) -> dict[str, _From]:
    """`found` by name. Raises `Invalid` for a name that stands twice, and for more than `ITEMS`."""
    by_name: dict[str, _From] = {}
    for each in found:
        first = by_name.setdefault(each.item.name, each)
        if first is not each:
            where = f"and again in document {each.document}" if first.document != each.document else "twice"
            raise Invalid(f"{first} is defined {where}", hint="give one of them another name")
    if len(by_name) > ITEMS:
        kind = "pools" if isinstance(next(iter(by_name.values())).item, Pool) else "virtual services"
        raise Invalid(f"one service engine would have {len(by_name)} {kind}, more than {ITEMS}")
    return by_name


def _checked_service(each: _From, pools: Mapping[str, _From]) -> VirtualService:
    service = each.item
    assert isinstance(service, VirtualService)
    for name in (service.pool, *(route.pool for route in service.routes)):
        if name is not None and name not in pools:
            raise Invalid(
                f"the {each} refers to pool {name}, which no document defines where it applies",
                hint="define the pool in the same document, or in one that applies wherever this one does",
            )
    if service.mode == "tcp" and service.routes:
        raise Invalid(f"the {each} has routes, which only HTTP has", hint="set its mode to http")
    if service.mode == "tcp" and service.pool is None:
        raise Invalid(f"the {each} has no pool", hint="name the pool that its connections go to")
    certificates = service.tls.certificates if service.tls else []
    for name in certificates:
        if certificates.count(name) > 1:
            raise Invalid(f"the {each} names certificate {name} twice", hint="name each certificate once")
    return service


def _checked_pool(each: _From) -> Pool:
    pool = each.item
    assert isinstance(pool, Pool)
    names: set[str] = set()
    for server in pool.servers:
        if server.name in names:
            raise Invalid(f"the {each} has two servers named {server.name}", hint="give one of them another name")
        names.add(server.name)
        if not _is_host(server.address):
            raise Invalid(f"server {server.name} in the {each} has no valid address: {server.address}")
    return msgspec.structs.replace(pool, servers=sorted(pool.servers, key=lambda server: server.name))


def _is_host(text: str) -> bool:
    """Whether `text` is an IP address or a host name; digits and dots alone are an address or nothing."""
    if ":" in text or text.replace(".", "").isdigit():
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True
    return _HOST.match(text) is not None


def _check_listeners(services: Iterable[_From]) -> None:
    """Raises `Invalid` when two virtual services would listen on the same address and port."""
    listening: dict[int, list[tuple[_Address, _From]]] = {}
    for each in services:
        service = each.item
        assert isinstance(service, VirtualService)
        address = _listen_address(each, service.address)
        others = listening.setdefault(service.port, [])
        for taken, other in others:
            if _overlap(address, taken):
                raise Invalid(
                    f"the {other} and the {each} both listen on port {service.port}",
                    hint="give one of them another port or address",
                )
        others.append((address, each))


def _listen_address(each: _From, text: str) -> _Address:
    """`text` in its one form; None stands for every address."""
    if text == "*":
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Invalid(f"the {each} listens on {text}, which is no IP address", hint="* is every address") from None
    return getattr(address, "ipv4_mapped", None) or address


def _overlap(one: _Address, other: _Address) -> bool:
    """Whether sockets on both cannot be open at once; a socket on `::` takes IPv4 too, as Linux has it."""
    if one is None or other is None or one == other:
        return True
    for wild, exact in ((one, other), (other, one)):
        if int(wild) == 0 and (wild.version == 6 or exact.version == 4):
            return True
    return False
