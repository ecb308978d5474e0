"""Which store a node has: a file of its own, or etcd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from avinet.errors import LocalError
from avinet.settings import Settings
from avinet.store.interface import Store
from avinet.store.resting import FilePlace
from avinet.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from avinet.store.etcd.health import ClusterHealth
    from avinet.store.etcd.members import MutualTLS
    from avinet.store.etcd.moving import EtcdPlace
    from avinet.store.migration import Migration, Told

Endpoint = Annotated[str, Meta(pattern=r"^https://[A-Za-z0-9.\[\]:-]{1,255}:[0-9]{1,5}$(?!\n)")]

LARGE_ATTEMPT_S, LARGE_PATIENCE_S = 10.0, 60.0
"""For what is read and written many keys at a time, where nobody waits for an answer."""


class StoreSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the state of the domain is: in `store.sqlite` below the state folder, or in etcd.

    `endpoints` are where etcd's members listen for clients. They and this node know each other by certificates of the
    CA in `ca`; `certificate` and `key` are this node's. What the domain has in etcd stands below `prefix`. A member is
    given up after `attempt_s` without an answer, and the store after `patience_s`.
    """

    engine: Literal["sqlite", "etcd"] = "sqlite"
    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=16)] = ()
    ca: str = "etcd/ca.pem"
    certificate: str = "etcd/client.pem"
    key: str = "etcd/client.key"
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._/-]{1,64}$(?!\n)")] = "avinet"
    attempt_s: Annotated[float, Meta(ge=0.1, le=30)] = 1.0
    patience_s: Annotated[float, Meta(ge=0.5, le=60)] = 5.0


def choose_store(
    reactor: Any,
    settings: StoreSettings,
    folder: Path,
    state: Path,
    *,
    domain: str,
    node: str,
    now: Callable[[], float],
) -> Store:
    """The store that `settings`, which are in `folder`, name for a node whose files are in `state`.

    `now` is the time of day in seconds since 1970, at which certificates are judged. Raises `LocalError`.
    """
    file = FilePlace(state)
    if settings.engine == "sqlite":
        file.check_used()
        return SQLiteStore(reactor, file.path)
    file.check_unused()
    from avinet.store.etcd.gateway import Gateway  # etcd's client is for those that have one
    from avinet.store.etcd.store import EtcdStore

    policy = _policy(settings, folder, now)
    gateway = Gateway(reactor, settings.endpoints, policy, attempt_s=settings.attempt_s, patience_s=settings.patience_s)
    return EtcdStore(reactor, gateway, prefix=f"{settings.prefix}/{domain}", node=node, place=file)


def _policy(settings: StoreSettings, folder: Path, now: Callable[[], float]) -> MutualTLS:
    """The TLS to etcd's members. Raises `LocalError`."""
    from avinet.store.etcd.members import MutualTLS

    if not settings.endpoints:
        raise LocalError(
            "the settings name no endpoint of etcd",
            hint='set endpoints = ["https://HOST:2379", ...] under [store]',
        )
    return MutualTLS.load(folder / settings.ca, folder / settings.certificate, folder / settings.key, now)


async def check_etcd(
    reactor: Any, settings: StoreSettings, folder: Path, domain: str, now: Callable[[], float]
) -> ClusterHealth:
    """What is seen of the etcd that `settings`, which are in `folder`, name. Raises `LocalError`."""
    from avinet.store.etcd.examine import check_cluster

    policy = _policy(settings, folder, now)
    prefix = f"{settings.prefix}/{domain}"
    return await check_cluster(reactor, settings.endpoints, policy, prefix, now(), attempt_s=settings.attempt_s)


async def migrate_store(
    reactor: Any,
    settings: StoreSettings,
    folder: Path,
    state: Path,
    *,
    to: Literal["sqlite", "etcd"],
    domain: str,
    node: str,
    now: Callable[[], float],
    dry_run: bool,
    told: Told,
) -> Migration:
    """Move the state of a node that does not run, whose state folder this process holds the lock of, to one engine.

    The rest is as in `choose_store`, but for `settings.engine`. Raises as `avinet.store.migration` does.
    """
    from avinet.store.migration import to_etcd, to_file

    file = FilePlace(state)
    etcd = _etcd_place(reactor, settings, folder, domain, node, now)
    try:
        if to == "etcd":
            return await to_etcd(file, etcd, dry_run=dry_run, told=told)
        return await to_file(etcd, file, dry_run=dry_run, told=told)
    finally:
        await etcd.store.close()


async def copy_etcd(
    reactor: Any, settings: StoreSettings, folder: Path, to: Path, *, domain: str, node: str, now: Callable[[], float]
) -> None:
    """Write what the domain has in etcd, as it is at one revision, into a store in a new file. Raises `LocalError`.

    Also `Unavailable`, and `Compacted` where it takes so long that etcd has forgotten that revision.
    """
    from avinet.store.copying import TablesAtRest, content_of, copy
    from avinet.store.etcd.moving import AsOf
    from avinet.store.tables import Tables

    etcd = _etcd_place(reactor, settings, folder, domain, node, now)
    try:
        revision = await etcd.open()
        source, tables = AsOf(etcd.store, revision), Tables(to)
        try:
            tables.hasten()
            with tables.committed():
                tables.go_on(revision)
            await copy(source, TablesAtRest(tables))
            if not (await content_of(TablesAtRest(tables))).same(await content_of(source)):
                raise LocalError(f"the copy of the store {to} is not what etcd holds", hint="try it again")
        finally:
            tables.close()
    finally:
        await etcd.store.close()


async def used_in_etcd(
    reactor: Any, settings: StoreSettings, folder: Path, *, domain: str, node: str, now: Callable[[], float]
) -> bool:
    """Whether the domain has its state in etcd, whole. Raises `LocalError`, and `Unavailable`."""
    etcd = _etcd_place(reactor, settings, folder, domain, node, now)
    try:
        origin = await etcd.look()
    finally:
        await etcd.store.close()
    return origin is not None and origin.state in ("used", "arrived")


def _etcd_place(
    reactor: Any, settings: StoreSettings, folder: Path, domain: str, node: str, now: Callable[[], float]
) -> EtcdPlace:
    from avinet.store.etcd.gateway import Gateway
    from avinet.store.etcd.moving import EtcdPlace

    policy = _policy(settings, folder, now)
    gateway = Gateway(reactor, settings.endpoints, policy, attempt_s=LARGE_ATTEMPT_S, patience_s=LARGE_PATIENCE_S)
    return EtcdPlace(reactor, gateway, f"{settings.prefix}/{domain}", node, f"the SQLite file of {node}")
