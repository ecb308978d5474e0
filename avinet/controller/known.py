"""The service engines of a node's directory, as what configuration is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from avinet.config.compile import Target
from avinet.enrolment.directory import Directory


class Known:
    """See `avinet.config.documents.Fleet`. The directory may be made later than this."""

    def __init__(self, directory: Callable[[], Directory]) -> None:
        self._directory = directory

    def targets(self) -> Iterable[Target]:
        """All of them."""
        return [Target(each.id, each.labels) for each in self._directory() if each.state != "revoked"]

    def enrolled(self) -> Iterable[Target]:
        """Those that have enrolled."""
        return [Target(each.id, each.labels) for each in self._directory().records() if each.state == "enrolled"]

    def target(self, id: str) -> Target | None:
        """One of them."""
        record = self._directory().get(id)
        return Target(id, record.labels) if record is not None and record.state != "revoked" else None
