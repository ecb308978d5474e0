"""A service engine changes its key, through its tunnel: signed by the old and the new one, in one transaction."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from avinet.enrolment.directory import Login
from avinet.enrolment.ratchets import RatchetRecord
from avinet.enrolment.records import (
    AuditRecord,
    EngineRecord,
    engine_key,
    owner_key,
    put_audit,
    put_record,
    ratchet_key,
    with_former,
)
from avinet.errors import Conflict, Gone, Unavailable
from avinet.rest.route import Request
from avinet.store.interface import Delete, Put, Store, Transaction, Unchanged
from avinet.trust import keys, signatures
from avinet.trust.signatures import SignedRequest
from avinet.wire.message import decode_signed
from avinet.wire.session import KeyRotation

_RACES = 10


class Rotations:
    """Changes keys, on the node `node`; `now` is the time of day.

    `reserved` says of a public key that it is for something else, and no service engine's.
    """

    log = Logger()

    def __init__(
        self,
        store: Store,
        node: str,
        now: Callable[[], float],
        reserved: Callable[[str], bool] = lambda key: False,
    ) -> None:
        self._reserved = reserved
        self._store = store
        self._node = node
        self._now = now

    async def rotate(self, login: Login, asked: Request, source: str) -> None:
        """Let the new key of the request take the place of the one of `login`; once more, it changes nothing.

        Raises `Unauthenticated`, `Gone` when `login` is over, and `Conflict` when the new key is another's.
        """
        rotation = decode_signed(asked.body, KeyRotation, limit_bytes=asked.limit_bytes, what="key rotation")
        line = rotation.ssh_public_key
        fingerprint = keys.fingerprint(line)
        for _ in range(_RACES):
            places = place, owner, ratchet = engine_key(login.id), owner_key(fingerprint), ratchet_key(login.id)
            entries = (await self._store.read(places)).entries
            record = msgspec.json.decode(entries[place].value, type=EngineRecord) if place in entries else None
            if record is None or record.state != "enrolled" or record.generation != login.generation:
                raise Gone(f"{login.id} is not enrolled any more in generation {login.generation}")
            if record.fingerprint == fingerprint:
                return
            if record.fingerprint != login.fingerprint:
                raise Gone(f"{login.id} has another key by now")
            self._verify(asked, record.public_key, line)
            if owner in entries or self._reserved(line):
                raise Conflict("this key is for something else, or belongs to another service engine, or did")
            new, gone = with_former(record, record.public_key)
            new = msgspec.structs.replace(new, public_key=line, fingerprint=fingerprint)
            audit = AuditRecord(
                time=self._now(),
                node=self._node,
                kind="rotate",
                source=source,
                id=login.id,
                generation=login.generation,
                image=record.image,
                fingerprint=fingerprint,
                outcome=f"instead of {login.fingerprint}",
                notice=True,
            )
            then: list[Put | Delete] = [
                put_record(place, new),
                Put(owner, login.id.encode("ascii")),
                *gone,
                put_audit(audit),
            ]
            if ratchet in entries:  # its memory goes on with the new key
                turned = msgspec.json.decode(entries[ratchet].value, type=RatchetRecord)
                if turned.fingerprint == login.fingerprint:
                    then.append(put_record(ratchet, msgspec.structs.replace(turned, fingerprint=fingerprint)))
            conditions = tuple(Unchanged(each, entries[each].revision if each in entries else 0) for each in places)
            if (await self._store.transact(Transaction(conditions, tuple(then)))).succeeded:
                self.log.info("{id} has changed its key to {fingerprint}", id=login.id, fingerprint=fingerprint)
                return
        raise Unavailable(f"too many changes of {login.id} race with this one")

    def _verify(self, asked: Request, old: str, new: str) -> None:
        """Both keys must have signed it. Raises `Unauthenticated`."""
        message = SignedRequest(asked.method, asked.authority, asked.target, dict(asked.headers))
        expected = tuple(
            (kind, {keys.fingerprint(line): keys.parse_public_line(line)}.get)
            for kind, line in ((signatures.BY_OLD_KEY, old), (signatures.BY_NEW_KEY, new))
        )
        signatures.verify_all(message, asked.body, expected, now=self._now(), repeated=asked.repeated)
