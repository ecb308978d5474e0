"""The configuration documents in the store: each change a version with author and time, refused before it does harm.

`config/doc/NAME` is the current version, `config/version/NAME/NUMBER` each of the last ones. `config/changed` is
written by every change: its revision names the state of all documents, and no change can overlook another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import pause
from avinet.config.catalogue import Catalogue, Pick
from avinet.config.compile import Compiled, Target
from avinet.errors import Invalid, LocalError, NotFound, Precondition, TooLarge, Unavailable
from avinet.store.interface import VALUE_LIMIT_BYTES, Delete, Entry, Put, Store, Transaction, Unchanged
from avinet.wire.config import DOCUMENT_LIMIT_BYTES, Document, DocumentVersion, certificates_of
from avinet.wire.fleet import DocumentApplied, DocumentList
from avinet.wire.message import decode, encode

CHANGED = b"config/changed"
CURRENT, VERSIONS = b"config/doc/", b"config/version/"
DOCUMENTS = 1000
KEPT_VERSIONS = 100
PAGE_LIMIT_BYTES = 768 * 1024
TRIES = 10
BREATH = 20
"""How many configurations are compiled before the reactor gets its turn."""


class Fleet(Protocol):
    """The service engines that the domain knows, expected or enrolled."""

    def targets(self) -> Iterable[Target]:
        """All of them."""

    def target(self, id: str) -> Target | None:
        """One of them."""


class Certificates(Protocol):
    """The certificates that documents may name; see `avinet.controller.certificates.vault.Vault`."""

    async def names(self) -> tuple[frozenset[str], Unchanged]:
        """All of their names, and the condition that these are still all."""


class Documents:
    """The documents of the domain. `now` is the time of day in seconds since 1970."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        fleet: Fleet,
        certificates: Certificates,
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._store = store
        self._fleet = fleet
        self._certificates = certificates
        self._now = now
        self._catalogue = Catalogue(0, {})

    async def apply(self, document: Document, author: str, *, expected: int | None = None) -> DocumentApplied:
        """Create or replace a document.

        `expected` is the version that the author has seen, 0 for none. Raises `Invalid` in a line for what contradicts
        itself or another document on any service engine, `Precondition` when another version is current, `TooLarge`;
        nothing is changed then.
        """
        size = len(encode(document))
        if size > DOCUMENT_LIMIT_BYTES:
            raise TooLarge(f"document {document.name} has {size} bytes, more than {DOCUMENT_LIMIT_BYTES}")
        return await self._change(document.name, document, author, expected)

    async def delete(self, name: str, author: str, *, expected: int | None = None) -> DocumentApplied:
        """Delete a document; its versions stay. Raises `NotFound`, and as `apply`: others may refer to its pools."""
        return await self._change(name, None, author, expected)

    async def _change(self, name: str, document: Document | None, author: str, expected: int | None) -> DocumentApplied:
        for _ in range(TRIES):
            before = await self.catalogue()
            last, old = before.versions.get(name), before.documents.get(name)
            current = last.version if last and old else 0
            if expected is not None and expected != current:
                raise Precondition(
                    f"document {name} is at version {current}, not {expected}"
                    if old
                    else f"there is no document {name}",
                    hint="read it again, and apply your change to that",
                )
            if document is None and old is None:
                raise NotFound(f"there is no document {name}")
            if document == old:
                return DocumentApplied(name=name, version=current, changed=False, service_engines=0)
            if old is None and len(before.documents) >= DOCUMENTS:
                raise TooLarge(f"there are {DOCUMENTS} documents already")
            version = DocumentVersion(
                name=name,
                version=(last.version if last else 0) + 1,
                author=author,
                time=self._now(),
                document=document,
            )
            # What was built here, and not read, was never validated; and what is written must be readable.
            encoded = encode(version)
            decode(encoded, DocumentVersion, limit_bytes=VALUE_LIMIT_BYTES, what=f"document {name}")
            after = before.with_version(version)
            named = await self._named(document)
            reached = await self._reached(before, after, name)
            if (revision := await self._write(before.revision, version, encoded, named)) is not None:
                after.revision = revision
                self._catalogue = after
                self.log.info(
                    "document {name} is at version {version} by {author}, for {count} service engines",
                    name=name,
                    version=version.version,
                    author=author,
                    count=reached,
                )
                return DocumentApplied(name=name, version=version.version, changed=True, service_engines=reached)
        raise Unavailable("the configuration is being changed by others all the time", hint="try again")

    async def _named(self, document: Document | None) -> tuple[Unchanged, ...]:
        """The condition that the certificates that a document names are there. Raises `Invalid` when one is not."""
        wanted = certificates_of(document) if document else frozenset()
        if not wanted:
            return ()
        names, unchanged = await self._certificates.names()
        if missing := sorted(wanted - names):
            raise Invalid(
                f"there is no certificate {missing[0]}, which document {document.name if document else ''} names",
                hint=f"put it first: avictl certificate put {missing[0]} --chain FILE --key FILE",
            )
        return (unchanged,)

    async def naming(self, certificate: str) -> tuple[list[str], Unchanged]:
        """The documents that name a certificate, in a version that is in use; and the condition that this is so."""
        catalogue = await self.catalogue()
        return catalogue.naming(certificate), Unchanged(CHANGED, catalogue.revision)

    async def _write(
        self, seen: int, version: DocumentVersion, encoded: bytes, named: tuple[Unchanged, ...]
    ) -> int | None:
        """Write `version` unless any document has changed since revision `seen`; the new revision, or None."""
        outcome = await self._store.transact(
            Transaction(
                (Unchanged(CHANGED, seen), *named),
                (
                    Put(CHANGED, version.name.encode()),
                    Put(CURRENT + version.name.encode(), encoded),
                    Put(_version_key(version.name, version.version), encoded),
                    Delete(_version_key(version.name, max(0, version.version - KEPT_VERSIONS))),
                ),
            )
        )
        return outcome.revision if outcome.succeeded else None

    async def _reached(self, before: Catalogue, after: Catalogue, name: str) -> int:
        """How many service engines run something else by the change of document `name`.

        Raises `Invalid` when one of them, or the smallest that a document selects, could run its documents before and
        cannot any more.
        """
        groups: dict[tuple[tuple[Pick, ...], tuple[Pick, ...]], int] = {}

        def add(target: Target, count: int) -> None:
            key = before.applying(target), after.applying(target)
            if any(pick[0] == name for pick in (*key[0], *key[1])):
                groups[key] = groups.get(key, 0) + count

        labels = {}
        for target in self._fleet.targets():
            labels[target.id] = target.labels
            add(target, 1)
        for target in after.smallest_targets(labels):
            add(target, 0)
        reached = 0
        for index, ((old_picks, new_picks), count) in enumerate(groups.items()):
            if index % BREATH == BREATH - 1:
                await pause(self._clock, 0)
            old = _compiled(before, old_picks)
            try:
                new = after.compiled(new_picks)
            except Invalid:
                if old is not None:
                    raise
            else:
                if old is None or old.sha256 != new.sha256:
                    reached += count
        return reached

    async def check(self, target: Target) -> None:
        """Raises `Invalid` when the documents for `target` contradict one another: ask before it gets its labels."""
        catalogue = await self.catalogue()
        catalogue.compiled(catalogue.applying(target))

    async def get(self, name: str, version: int | None = None) -> DocumentVersion:
        """The current version of a document, or an earlier one. Raises `NotFound`."""
        found = (await self.catalogue()).versions.get(name)
        if version is not None:
            key = _version_key(name, version)
            entry = (await self._store.read([key])).entries.get(key)
            if entry is None:
                raise NotFound(f"there is no version {version} of document {name}", hint="see its history")
            return _decoded(entry)
        if found is None or found.document is None:
            raise NotFound(f"there is no document {name}")
        return found

    async def list(self, *, limit: int = 100, after: str = "") -> DocumentList:
        """A page of the documents, by name."""
        catalogue = await self.catalogue()
        names = sorted(name for name in catalogue.documents if name > after)
        items, more = _page([catalogue.versions[name] for name in names], limit)
        return DocumentList(items=items, next=items[-1].name if more else "")

    async def history(self, name: str, *, limit: int = 100, after: str = "") -> DocumentList:
        """A page of the versions of a document, the newest first, also of one that was deleted. Raises `NotFound`."""
        before = int(after) if after.isdecimal() else None
        entries = (await self._store.range(VERSIONS + name.encode() + b"/", limit=KEPT_VERSIONS + 1)).entries
        if not entries:
            raise NotFound(f"there is no document {name}")
        versions = [_decoded(entry) for entry in reversed(entries)]
        items, more = _page([each for each in versions if before is None or each.version < before], limit)
        return DocumentList(items=items, next=str(items[-1].version) if more else "")

    async def catalogue(self) -> Catalogue:
        """All documents as they are now."""
        revision = await self._revision()
        for _ in range(TRIES):
            if self._catalogue.revision == revision:
                return self._catalogue
            versions = await self._read_all()
            read, revision = revision, await self._revision()
            if read == revision:
                self._catalogue = Catalogue(revision, versions)
        raise Unavailable("the configuration is being changed by others all the time", hint="try again")

    async def _revision(self) -> int:
        entry = (await self._store.read([CHANGED])).entries.get(CHANGED)
        return entry.revision if entry else 0

    async def _read_all(self) -> dict[str, DocumentVersion]:
        versions: dict[str, DocumentVersion] = {}
        after, more = b"", True
        while more:
            page = await self._store.range(CURRENT, limit=50, after=after)
            for entry in page.entries:
                version = _decoded(entry)
                versions[version.name] = version
                after = entry.key
            more = page.more
        return versions


def _version_key(name: str, version: int) -> bytes:
    return VERSIONS + f"{name}/{version:08d}".encode()


def _compiled(catalogue: Catalogue, picks: tuple[Pick, ...]) -> Compiled | None:
    try:
        return catalogue.compiled(picks)
    except Invalid:
        return None


def _decoded(entry: Entry) -> DocumentVersion:
    try:
        return msgspec.json.decode(entry.value, type=DocumentVersion)
    except msgspec.ValidationError as error:
        raise LocalError(
            f"{entry.key.decode()} in the store cannot be read: {error}", hint="was it written by a newer version?"
        ) from error


def _page(items: Sequence[DocumentVersion], limit: int) -> tuple[list[DocumentVersion], bool]:
    """The first of `items`, as many as a page takes, at least one; and whether there are more."""
    size = 0
    for count, item in enumerate(items):
        size += len(encode(item))
        if count and (count >= limit or size > PAGE_LIMIT_BYTES):
            return list(items[:count]), True
    return list(items), False
