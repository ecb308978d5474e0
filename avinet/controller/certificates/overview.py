"""What operators see of certificates: what they are, who names them, who is to serve them, who holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

import msgspec
from twisted.internet.interfaces import IReactorTime

from avinet.aio import pause
from avinet.config.catalogue import Catalogue
from avinet.config.documents import Documents
from avinet.controller.certificates.supply import Supply
from avinet.controller.certificates.vault import Vault
from avinet.wire.certificates import HOLDERS, Certificate, CertificateList, CertificateStored, CertificateUse

BREATH = 500
"""How many service engines are looked through before the reactor gets its turn."""


class CertificateOverview:
    """Views of the certificates in `vault`; `ids` are those of all service engines."""

    def __init__(
        self,
        clock: IReactorTime,
        vault: Vault,
        supply: Supply,
        documents: Documents,
        ids: Callable[[], Iterable[str]],
    ) -> None:
        self._clock = clock
        self._vault = vault
        self._supply = supply
        self._documents = documents
        self._ids = ids

    async def one(self, name: str) -> Certificate:
        """A certificate, with all that is known of it. Raises `Invalid` and `NotFound`."""
        self._vault.require(name)
        catalogue, (needed, held) = await self._documents.catalogue(), await self._counts()
        return self._shown(name, catalogue, needed[name], held[name], whole=True)

    async def page(self, limit: int, after: str) -> CertificateList:
        """Some of them, in the order of their names, without earlier versions and holders."""
        catalogue, (needed, held) = await self._documents.catalogue(), await self._counts()
        names = [name for name in self._vault if name > after]
        items = [self._shown(name, catalogue, needed[name], held[name], whole=False) for name in names[:limit]]
        return CertificateList(items=items, next=items[-1].name if len(names) > limit else "")

    async def stored(self, done: CertificateStored) -> CertificateStored:
        """What became of a change, with how many service engines are sent it."""
        if not done.changed:
            return done
        needed, _ = await self._counts()
        return msgspec.structs.replace(done, service_engines=needed[done.name])

    async def _counts(self) -> tuple[Counter[str], Counter[str]]:
        """By the name of a certificate, how many service engines are to serve it, and how many of them hold it."""
        needed: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for index, id in enumerate(list(self._ids())):
            if index % BREATH == BREATH - 1:
                await pause(self._clock, 0)
            for name in self._supply.needed(id):
                version = self._vault.version(name)
                needed[name] += 1
                held[name] += version is not None and self._supply.holds(id, version)
        return needed, held

    def _shown(self, name: str, catalogue: Catalogue, needed: int, held: int, *, whole: bool) -> Certificate:
        kept = self._vault.require(name)
        return msgspec.structs.replace(
            kept.shown,
            used_by=[
                CertificateUse(document=document, virtual_services=services)
                for document, services in catalogue.serving(name)
            ],
            needed=needed,
            held=held,
            holders=sorted(islice(self._supply.holders(kept.version), HOLDERS)) if whole else [],
            earlier=kept.shown.earlier if whole else [],
            problem=self._vault.problem(name),
        )
