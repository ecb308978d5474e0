"""The state of a domain moved from one engine to another, whole: wherever that is cut off, one of the two has it all.

A store that is complete in its new place is not used there before it is gone from its old one.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from avinet.errors import LocalError
from avinet.store.copying import Content, TablesAtRest, content_of, copy
from avinet.store.entries import Source
from avinet.store.etcd.moving import EtcdPlace
from avinet.store.resting import FilePlace

Told = Callable[[str], None]


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """What was moved, or would be: `content`, but for what is leased. The revisions go on above `revision`."""

    to: str
    content: Content
    revision: int
    kept: str = ""
    done: bool = False


async def to_etcd(
    file: FilePlace, etcd: EtcdPlace, *, dry_run: bool = False, told: Told = lambda what: None
) -> Migration:
    """Move the store in `file` into `etcd`. Raises `Conflict` where that is not free, `LocalError`, `Unavailable`."""
    tables = file.open()
    try:
        source, revision = TablesAtRest(tables), tables.revision
        await etcd.check_free()
        found = await _look("etcd", source, revision)
        if dry_run:
            return found
        await etcd.begin(revision)
        told(f"copying {found.content.keys} keys")
        await copy(source, etcd.store, lambda keys: told(f"{keys} of {found.content.keys} keys"))
        told("comparing both")
        await _compare(found.content, etcd.store)
    finally:
        tables.close()
    await etcd.arrived()
    kept = file.leave(revision)
    await etcd.use()
    return msgspec.structs.replace(found, kept=str(kept), done=True)


async def to_file(
    etcd: EtcdPlace, file: FilePlace, *, dry_run: bool = False, told: Told = lambda what: None
) -> Migration:
    """Move what `etcd` has into a new store in `file`. Raises `Conflict` where there is one, and as `to_etcd`."""
    file.check_free()
    if (finished := await _finished(etcd, file, dry_run)) is not None:
        return finished
    revision = await etcd.open()
    found = await _look("sqlite", etcd.store, revision)
    if dry_run:
        return found
    tables = file.begin(revision)
    try:
        told(f"copying {found.content.keys} keys")
        await copy(etcd.store, TablesAtRest(tables), lambda keys: told(f"{keys} of {found.content.keys} keys"))
        told("comparing both")
        await _compare(found.content, TablesAtRest(tables))
    finally:
        tables.close()
    seen = await etcd.revision()
    await _compare(found.content, etcd.store)
    file.all_arrived()
    await etcd.leave(seen)
    file.use()
    return msgspec.structs.replace(found, done=True)


async def _finished(etcd: EtcdPlace, file: FilePlace, dry_run: bool) -> Migration | None:
    """A migration that was cut off after etcd was left: all of it is in the file, which only has to be used."""
    origin = await etcd.look()
    if origin is None or origin.state != "left" or not etcd.is_ours(origin) or not file.arrived.exists():
        return None
    tables = file.open_arrived()
    try:
        found = await _look("sqlite", TablesAtRest(tables), tables.revision)
    finally:
        tables.close()
    if dry_run:
        return found
    file.use()
    return msgspec.structs.replace(found, done=True)


async def _look(to: str, source: Source, revision: int) -> Migration:
    return Migration(to=to, content=await content_of(source), revision=revision)


async def _compare(content: Content, with_: Source) -> None:
    there = await content_of(with_)
    if not there.same(content):
        raise LocalError(
            f"{there.keys} keys are there, SHA-256 {there.sha256[:12]}, and {content.keys} should be, "
            f"SHA-256 {content.sha256[:12]}: the source is left as it was",
            hint="does another process write to one of the two? then end it, and migrate again",
        )
