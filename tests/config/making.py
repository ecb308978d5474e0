"""Documents, pools and virtual services in a few words, and hypothesis strategies for them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from itertools import count
from typing import Any, TypeVar

from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred

from avinet.config.compile import Target, compiled
from avinet.store.interface import Put, Unchanged
from avinet.wire.config import (
    ByEngine,
    ByLabels,
    Config,
    ConfigPush,
    ConfigVersion,
    Document,
    HealthCheck,
    Pool,
    Route,
    Server,
    VirtualService,
)

T = TypeVar("T")
_audited = count()


def pool(name: str, *servers: str) -> Pool:
    named = [Server(name=each, address="10.0.0.1", port=8000 + index) for index, each in enumerate(servers)]
    return Pool(name=name, servers=named)


def service(name: str, port: int, pool: str | None = None, **fields: Any) -> VirtualService:
    return VirtualService(name=name, port=port, pool=pool, **fields)


def document(name: str, *items: Pool | VirtualService, engine: str = "", **labels: str) -> Document:
    return Document(
        name=name,
        applies_to=ByEngine(id=engine) if engine else ByLabels(labels=labels),
        pools=[each for each in items if isinstance(each, Pool)],
        virtual_services=[each for each in items if isinstance(each, VirtualService)],
    )


def web(name: str, port: int, **selected: str) -> Document:
    """A document that is whole: a virtual service and its pool."""
    return document(name, pool(f"{name}-pool", "a", "b"), service(f"{name}-web", port, f"{name}-pool"), **selected)


def push_of(*documents: Document, revision: int) -> ConfigPush:
    """What a node would send."""
    made = compiled(documents)
    return ConfigPush(version=ConfigVersion(revision=revision, sha256=made.sha256), config=made.text)


class Fleet:
    """Some service engines; see `avinet.config.documents.Fleet`."""

    def __init__(self, **engines: dict[str, str]) -> None:
        self.engines = {id.replace("_", "-"): labels for id, labels in engines.items()}

    def targets(self) -> Iterable[Target]:
        return [Target(id, labels) for id, labels in self.engines.items()]

    def target(self, id: str) -> Target | None:
        return Target(id, self.engines[id]) if id in self.engines else None


class Certificates:
    """The certificates that there are; see `avinet.config.documents.Certificates`."""

    def __init__(self, *names: str) -> None:
        self.there = frozenset(names)
        self.revision = 0

    async def names(self) -> tuple[frozenset[str], Unchanged]:
        return self.there, Unchanged(b"certificates", self.revision)


def audited(kind: str, actor: str, name: str, outcome: str) -> Put:
    """The record of a change in the store; see `avinet.config.rollouts.Audit`."""
    place = f"audit/{next(_audited):06d}"
    return Put(place.encode(), f"{kind} {name} by {actor}: {outcome}".encode())


class Supply:
    """What service engines are to hold before their configuration; see `avinet.config.distribute.Supply`.

    `bringing` are those that are under way, for the test to end; `waiting` says why a configuration has to wait.
    """

    def __init__(self) -> None:
        self.wanting: dict[str, list[str]] = {}
        self.bringing: list[tuple[str, Deferred[None]]] = []
        self.waiting: dict[str, str] = {}

    def missing(self, id: str) -> list[str]:
        return self.wanting.get(id, [])

    async def bring(self, id: str) -> None:
        brought: Deferred[None] = Deferred()
        self.bringing.append((id, brought))
        await brought

    def brought(self) -> None:
        """The service engine that was sent to last holds all of it."""
        id, deferred = self.bringing[-1]
        self.wanting.pop(id)
        deferred.callback(None)

    def waits(self, id: str) -> str:
        return self.waiting.get(id, "")

    def problem(self, id: str) -> str:
        return self.waits(id)


def fired(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    return ensureDeferred(coroutine)


ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}", fullmatch=True)
few_ids = st.sampled_from(["a", "b", "c"])
labels = st.dictionaries(st.sampled_from(["site", "tier"]), st.sampled_from(["x", "y"]))
addresses = st.sampled_from(["*", "0.0.0.0", "::", "10.0.0.1", "10.0.0.2", "fd00::1", "FD00:0::1"])
servers = st.builds(
    Server,
    name=ids,
    address=st.sampled_from(["10.0.0.1", "fd00::1", "web.example"]),
    port=st.integers(1, 65535),
    weight=st.integers(0, 256),
)
pools = st.builds(
    Pool,
    name=few_ids,
    servers=st.lists(servers, max_size=4, unique_by=lambda each: each.name),
    balance=st.sampled_from(["round-robin", "least-connections"]),
    health_check=st.builds(HealthCheck, kind=st.sampled_from(["tcp", "http"])),
)
routes = st.builds(Route, pool=few_ids, host=st.sampled_from(["", "example.com", "*.example.com"]))
services = st.builds(
    VirtualService,
    name=few_ids,
    address=addresses,
    port=st.integers(80, 83),
    mode=st.sampled_from(["http", "tcp"]),
    pool=st.none() | few_ids,
    routes=st.lists(routes, max_size=2),
)
documents = st.builds(
    Document,
    name=few_ids,
    applies_to=st.builds(ByLabels, labels=labels) | st.builds(ByEngine, id=few_ids),
    pools=st.lists(pools, max_size=2),
    virtual_services=st.lists(services, max_size=2),
)
catalogues = st.lists(documents, max_size=4, unique_by=lambda each: each.name)
reading: Callable[[Config], list[str]] = lambda config: [each.name for each in config.virtual_services]  # noqa: E731
