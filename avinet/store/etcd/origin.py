"""Where the revisions of a domain begin: where those of another store have ended, whatever etcd's own are."""

from __future__ import annotations

import msgspec

from avinet.store.etcd.messages import KeyValue
from avinet.store.interface import Entry

_NEVER = -1
"""No key was changed at this revision."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of it: `revision` added to one of etcd's makes one of the domain."""

    format: int
    revision: int

    def of(self, revision: int) -> int:
        """etcd's revision as one of the domain."""
        return revision + self.revision

    def etcd(self, revision: int) -> int:
        """A revision of the domain as etcd's; 0 for all from before this store."""
        return max(0, revision - self.revision)

    def condition(self, revision: int) -> int:
        """The revision of a condition as etcd's: 0 stays 0, and one from before this store is none that a key has."""
        return 0 if revision == 0 else self.etcd(revision) or _NEVER

    def entry(self, found: KeyValue, place: bytes) -> Entry:
        """A key as it is, without the `place` that it is below."""
        return Entry(
            found.key.removeprefix(place), found.value, self.of(found.mod_revision), self.of(found.create_revision)
        )
