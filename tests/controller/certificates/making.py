"""A vault over a store in memory, and certificates to put into it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.controller.certificates.seals import Seals
from avinet.controller.certificates.vault import Vault
from avinet.store.interface import Unchanged
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.certificates import CertificatePut, CertificateStored
from tests.issuing import Issuer
from tests.store.memory import MemoryStore

T = TypeVar("T")
ISSUER = Issuer()


def put_of(found: ServerCertificate, *, force: bool = False) -> CertificatePut:
    return CertificatePut(chain=found.chain_pem, key=found.key_pem, force=force)


def secret_of(found: ServerCertificate) -> str:
    """A line of the private key that stands nowhere else."""
    return found.key_pem.splitlines()[2]


async def at_once(work: Callable[[], T]) -> T:
    return work()


class Documents:
    """Documents that name certificates; see `avinet.controller.certificates.vault.Using`."""

    def __init__(self) -> None:
        self.named: dict[str, list[str]] = {}
        self.asked: Callable[[], None] = lambda: None

    async def naming(self, certificate: str) -> tuple[list[str], Unchanged]:
        found = self.named.get(certificate, []), Unchanged(b"config/changed", 0)
        self.asked()
        return found


class VaultCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.tasks, self.documents = Clock(), Tasks(), Documents()
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.tasks.stop)
        self.time = time.time()
        self.changes: list[str] = []
        self.secrets_key = Path(self.mktemp())
        self.vault = self.opened()

    def opened(self) -> Vault:
        """The vault of a node that starts."""
        self.seals = Seals(self.secrets_key)
        vault = Vault(
            self.clock,
            self.store,
            self.tasks,
            self.seals,
            "node-1",
            lambda: self.documents,
            self.changes.append,
            at_once,
            lambda: self.time,
        )
        self.result(vault.start())
        self.clock.advance(0)
        return vault

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def put(self, name: str, *names: str, **options: Any) -> ServerCertificate:
        found = ISSUER.serve(*(names or (f"{name}.example.com",)))
        self.stored(name, found, **options)
        return found

    def stored(self, name: str, found: ServerCertificate, **options: Any) -> CertificateStored:
        stored: CertificateStored = self.result(self.vault.put(name, put_of(found), "ann", **options))
        return stored
