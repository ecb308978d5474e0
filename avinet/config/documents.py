"""The configuration documents: each change a version with author and time, refused before it does harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.config.catalogue import Catalogue
from avinet.config.compile import Target
from avinet.config.reach import Reach, overlaps
from avinet.config.rollout import RolloutRecord
from avinet.config.rollouts import Audit, begun, former_of, superseded
from avinet.config.versions import CHANGED, TRIES, Versions, put_version
from avinet.errors import Conflict, Invalid, NotFound, Precondition, TooLarge, Unavailable
from avinet.store.interface import Delete, Put, Store, Unchanged
from avinet.wire.config import DOCUMENT_LIMIT_BYTES, Document, DocumentVersion, certificates_of
from avinet.wire.fleet import DocumentApplied, DocumentList
from avinet.wire.message import encode
from avinet.wire.rollout import RolloutPlan

DOCUMENTS = 1000
PAGE_LIMIT_BYTES = 768 * 1024


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
        audit: Audit,
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._certificates = certificates
        self._now = now
        self._audit = audit
        self.versions = Versions(store)

    async def apply(
        self,
        document: Document,
        author: str,
        *,
        expected: int | None = None,
        plan: RolloutPlan | None = None,
        force: bool = False,
    ) -> DocumentApplied:
        """Create or replace a document, everywhere at once or in the batches of a `plan`.

        `expected` is the version that the author has seen, 0 for none. With `force` it may take the place of one that
        is being rolled out: that one is taken back. Raises `Invalid` in a line for what contradicts itself or another
        document on any service engine, `Precondition` when another version is current, `Conflict` where one is being
        rolled out, `TooLarge`; nothing is changed then.
        """
        size = len(encode(document))
        if size > DOCUMENT_LIMIT_BYTES:
            raise TooLarge(f"document {document.name} has {size} bytes, more than {DOCUMENT_LIMIT_BYTES}")
        return await self._change(document.name, document, author, expected, plan, force)

    async def delete(
        self, name: str, author: str, *, expected: int | None = None, force: bool = False
    ) -> DocumentApplied:
        """Delete a document; its versions stay. Raises `NotFound`, and as `apply`: others may refer to its pools."""
        return await self._change(name, None, author, expected, None, force)

    async def _change(
        self,
        name: str,
        document: Document | None,
        author: str,
        expected: int | None,
        plan: RolloutPlan | None,
        force: bool,
    ) -> DocumentApplied:
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
            if not force:
                _refuse_while_rolling(before, name)
            version = DocumentVersion(
                name=name,
                version=(last.version if last else 0) + 1,
                author=author,
                time=self._now(),
                document=document,
            )
            after, then = self._made(before, version, plan)
            named = await self._named(document)
            reached = await self._reached(before, after, name)
            if await self.versions.change(before, after, name, then, named):
                self.log.info(
                    "document {name} is at version {version} by {author}, for {count} service engines{how}",
                    name=name,
                    version=version.version,
                    author=author,
                    count=reached,
                    how=", in batches" if plan else "",
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

    def _made(
        self, before: Catalogue, version: DocumentVersion, plan: RolloutPlan | None
    ) -> tuple[Catalogue, list[Put | Delete]]:
        """What the catalogue is after `version`, and what is written for that."""
        rolling = before.rolling.get(version.name)
        over = superseded(rolling, version, self._audit, kept=plan is None) if rolling is not None else []
        if plan is None:
            return before.with_version(version), [*put_version(version), *over]
        former = former_of(before, version.name)
        record = RolloutRecord(
            name=version.name,
            version=version.version,
            former=former.version if former else 0,
            plan=plan,
            author=version.author,
            started=version.time,
            changed=version.time,
            by=version.author,
        )
        after, then = begun(before, version, record, self._audit)
        return after, [*then, *over]

    async def _reached(self, before: Catalogue, after: Catalogue, name: str) -> int:
        reach = Reach(before, after, name)
        for target in self._fleet.targets():
            reach.add(target)
        return await reach.reached(self._clock)

    async def check(self, target: Target) -> None:
        """Raises `Invalid` when the documents for `target` contradict one another: ask before it gets its labels."""
        catalogue = await self.catalogue()
        selecting = catalogue.selecting(target)
        for turns in overlaps(catalogue, selecting):
            catalogue.compiled(catalogue.chosen(selecting, turns))

    async def catalogue(self) -> Catalogue:
        """All documents as they are now."""
        return await self.versions.catalogue()

    async def get(self, name: str, version: int | None = None) -> DocumentVersion:
        """The current version of a document, or an earlier one. Raises `NotFound`."""
        if version is not None:
            return await self.versions.version(name, version)
        found = (await self.catalogue()).versions.get(name)
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
        versions = await self.versions.history(name)
        if not versions:
            raise NotFound(f"there is no document {name}")
        items, more = _page([each for each in versions if before is None or each.version < before], limit)
        return DocumentList(items=items, next=str(items[-1].version) if more else "")


def _refuse_while_rolling(catalogue: Catalogue, name: str) -> None:
    """Raises `Conflict` while a version of document `name` is being rolled out."""
    rolling = catalogue.rolling.get(name)
    if rolling is not None:
        record = rolling.record
        raise Conflict(
            f"version {record.version} of document {name} is being rolled out ({record.state}, batch {record.batch})",
            hint=f"wait, or take it back: avictl config rollout abort {name}; or say --force to replace it",
        )


def _page(items: Sequence[DocumentVersion], limit: int) -> tuple[list[DocumentVersion], bool]:
    """The first of `items`, as many as a page takes, at least one; and whether there are more."""
    size = 0
    for count, item in enumerate(items):
        size += len(encode(item))
        if count and (count >= limit or size > PAGE_LIMIT_BYTES):
            return list(items[:count]), True
    return list(items), False
