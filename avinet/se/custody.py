"""The certificates that nodes deliver: checked, served where they are named, kept for the next start, forgotten again.

What is held is what is kept on the disk: after a crash at any moment the nodes hear of no more than that, and deliver
again. A certificate is forgotten `GRACE_S` after the configuration that named it is gone: until then a node that has
not heard of it yet may go back to that configuration.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from avinet.aio import Tasks
from avinet.errors import AvinetError, Invalid
from avinet.se.keystore import Held, Keystore, checked
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.certificates import (
    HELD,
    CertificateMaterial,
    CertificatePush,
    CertificateRefusal,
    CertificateState,
    CertificateVersion,
)
from avinet.wire.config import Config

T = TypeVar("T")
GRACE_S = 60.0
_REASON_CHARS = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class InThread(Protocol):
    """Runs what blocks, away from the reactor."""

    def __call__(self, call: Callable[[], T]) -> Awaitable[T]:
        """What `call` returns."""


class Dataplane(Protocol):
    """What is needed of the load balancer; see `avinet.dataplane.interface.Dataplane`."""

    async def take_certificate(self, name: str, certificate: ServerCertificate) -> None:
        """Serve it where it is named. Raises `Invalid`, and then the one before goes on."""

    def drop_certificate(self, name: str) -> None:
        """Have none of that name any more."""


class Custody:
    """The certificates in `keystore`, served by `dataplane`. `changed` is called when the state has changed."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        keystore: Keystore,
        dataplane: Dataplane,
        in_thread: InThread,
        tasks: Tasks,
        changed: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._keystore = keystore
        self._dataplane = dataplane
        self._in_thread = in_thread
        self._tasks = tasks
        self._changed = changed
        self._held: dict[str, CertificateVersion] = {}
        self._refused: dict[str, CertificateRefusal] = {}
        self._named: frozenset[str] | None = None
        self._new: set[str] = set()
        self._turn = DeferredLock()
        self._sweep: IDelayedCall | None = None

    @property
    def state(self) -> CertificateState:
        """What is held and wanted, or was only just delivered; and what was refused."""
        held = [version for name, version in sorted(self._held.items()) if self._is_wanted(name)]
        return CertificateState(held=held, refused=[each for _, each in sorted(self._refused.items())])

    def _is_wanted(self, name: str) -> bool:
        return self._named is None or name in self._named or name in self._new

    async def start(self) -> None:
        """Give the data plane what is on the disk, before it is started. Raises `LocalError` as `Keystore.read`."""
        for name, held in (await self._in_thread(self._keystore.read)).items():
            await self._dataplane.take_certificate(name, held.certificate)
            self._held[name] = held.version

    def stop(self) -> None:
        """Forget nothing more."""
        sweep, self._sweep = self._sweep, None
        if sweep is not None:
            sweep.cancel()

    async def take(self, push: CertificatePush) -> CertificateState:
        """Take what is delivered; the state afterwards says what is held and what was refused.

        It goes on when the caller is cancelled. Raises `LocalError` when one cannot be kept, `Unavailable` when the
        data plane gave no answer: then it may be delivered again.
        """
        done: Deferred[CertificateState] = Deferred()
        self._tasks.spawn(self._take_all(push, done), "taking certificates", done.errback)
        return await done

    async def _take_all(self, push: CertificatePush, done: Deferred[CertificateState]) -> None:
        async with self._turn:
            try:
                for material in push.certificates:
                    await self._take(material)
            finally:
                self._changed()
        done.callback(self.state)

    async def _take(self, material: CertificateMaterial) -> None:
        version = material.version
        before = self._held.get(version.name)
        try:
            if before != version:
                self._check_place(version, before)
                await self._serve(await self._in_thread(lambda: checked(material)))
        except Invalid as error:
            why = _CONTROL.sub(" ", str(error))[:_REASON_CHARS]
            self.log.warn("certificate {name} was refused: {why}", name=version.name, why=why)
            self._refused[version.name] = CertificateRefusal(version=version, reason=why)
            return
        self._refused.pop(version.name, None)
        if self._named is None or version.name not in self._named:
            self._new.add(version.name)

    def _check_place(self, version: CertificateVersion, before: CertificateVersion | None) -> None:
        """Raises `Invalid` for what was overtaken, and when there is no room."""
        if before is not None and before.revision > version.revision:
            raise Invalid(f"its revision {version.revision} is older than {before.revision}, which is held")
        if before is None and len(self._held) >= HELD:
            raise Invalid(f"{HELD} certificates are held already")

    async def _serve(self, held: Held) -> None:
        """Serve a version, and keep it: what the disk has no room for is not served."""
        name = held.version.name
        await self._in_thread(lambda: self._keystore.lay_out(held))
        try:
            await self._dataplane.take_certificate(name, held.certificate)
        except AvinetError:
            await self._in_thread(lambda: self._keystore.discard(name))
            raise
        await self._in_thread(lambda: self._keystore.keep(name))
        self._held[name] = held.version
        self.log.info("certificate {name} of revision {revision} taken", name=name, revision=held.version.revision)

    def applied(self, config: Config) -> None:
        """`config` runs now, and is remembered: what it does not name will be forgotten."""
        self._named = config.certificates
        self._new -= self._named
        self._refused = {name: each for name, each in self._refused.items() if name in self._named}
        self.stop()
        if any(not self._is_wanted(name) for name in self._held):
            self._sweep = self._clock.callLater(GRACE_S, self._due)
        self._changed()

    def _due(self) -> None:
        self._sweep = None
        self._tasks.spawn(self._forget(), "forgetting certificates")

    async def _forget(self) -> None:
        async with self._turn:
            for name in [each for each in self._held if not self._is_wanted(each)]:
                await self._remove(name)

    async def wipe(self) -> None:
        """Forget all: this service engine is being deleted, and its data plane has ended."""
        self.stop()
        async with self._turn:
            for name in list(self._held):
                await self._remove(name)
            await self._in_thread(self._keystore.remove_damaged)

    async def _remove(self, name: str) -> None:
        await self._in_thread(lambda: self._keystore.remove(name))
        self._dataplane.drop_certificate(name)
        del self._held[name]
        self._new.discard(name)
        self.log.info("certificate {name} forgotten", name=name)
