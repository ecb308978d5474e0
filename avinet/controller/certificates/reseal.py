"""Another key for what is sealed: made beside the one before, which is forgotten when nothing needs it any more."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from avinet.controller.certificates.records import CertificateRecord, about, certificate_key, sealed
from avinet.controller.certificates.seals import InThread, Seals
from avinet.controller.certificates.vault import Vault
from avinet.enrolment.records import AuditRecord, put_audit, put_record
from avinet.errors import LocalError, Unavailable
from avinet.store.interface import Store, Transaction, Unchanged
from avinet.wire.certificates import Resealed

_RACES = 10


class Resealing:
    """Seals what is in `vault` with the successor of the seal in use, on the node `node`. `now` is the time of day.

    Whatever cuts it off, each key can be opened, by the one seal or by the other, and it can go on.
    """

    log = Logger()

    def __init__(
        self, store: Store, vault: Vault, seals: Seals, node: str, in_thread: InThread, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._vault = vault
        self._seals = seals
        self._node = node
        self._in_thread = in_thread
        self._now = now

    async def go_on(self) -> None:
        """Finish what was cut off when the node ended."""
        if self._seals.succeeding:
            await self.reseal(self._node)

    async def reseal(self, author: str) -> Resealed:
        """Seal all private keys with a new key, and forget the one before.

        Raises `LocalError`, and what the store raises.
        """
        async with self._seals.turn:
            await self._in_thread(self._seals.succeed)
            count = 0
            names, _ = await self._vault.names()  # not those that are known here: it may be some time ago
            for name in sorted(names):
                count += await self._seal_anew(name)
            closed = sum(bool(self._vault.problem(name)) for name in self._vault)
            audit = AuditRecord(
                time=self._now(),
                node=self._node,
                kind="certificates-resealed",
                source=author,
                outcome=f"{count} certificates",
            )
            await self._store.transact(Transaction((), (put_audit(audit),)))
            await self._in_thread(self._seals.finish)
            return Resealed(certificates=count, closed=closed)

    async def _seal_anew(self, name: str) -> bool:
        """Seal the key of one certificate with the new seal; whether there was one to be sealed."""
        place = certificate_key(name)
        for _ in range(_RACES):
            entry = (await self._store.read([place])).entries.get(place)
            if entry is None:
                return False
            try:
                record = msgspec.json.decode(entry.value, type=CertificateRecord)
            except (msgspec.DecodeError, ValueError) as error:  # of a newer version, and its key must not be lost
                raise LocalError(f"certificate {name} in the store cannot be read: {error}") from error
            seal = self._seals.of(record.sealed_by)
            if seal is None or seal is self._seals.current:
                return False
            try:
                key = seal.open(record.sealed, about(name, record))
            except LocalError as error:
                self.log.error("certificate {name} stays closed: {why}", name=name, why=str(error))
                return False
            # To service engines it is the same version: they are not sent it again.
            record = msgspec.structs.replace(record, revision=record.revision or entry.revision)
            record = sealed(name, record, key, self._seals.current)
            done = await self._store.transact(
                Transaction((Unchanged(place, entry.revision),), (put_record(place, record),))
            )
            if done.succeeded:
                self._vault.wrote(name, record, done.revision)
                return True
        raise Unavailable(f"too many changes of certificate {name} race with this one")
