"""Brings to each service engine the certificates that its desired configuration names, before that, and no others.

What a service engine holds it says itself: in its hello, in its reports, in its answers. A version that it does not
take is not sent again until it says no longer that it refuses it; the certificate in another version is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import within
from avinet.config.compile import Compiled
from avinet.controller.certificates.vault import Vault
from avinet.errors import Invalid, NotFound, PeerError, TooLarge
from avinet.wire.certificates import (
    CertificatePush,
    CertificateRefusal,
    CertificateState,
    CertificateVersion,
)
from avinet.wire.config import ConfigVersion

PUSH_S = 60.0
"""How long a service engine may take to check and keep some certificates."""
TOGETHER = 16
"""How many certificates go in one push: hundreds of pushes may be under way, each with its keys in memory."""
_REASON_CHARS = 500
_NAMES_KEPT = 256
"""Of how many configurations is remembered which certificates they name."""


class Pusher(Protocol):
    """Sends certificates through the tunnel of a service engine; see `avinet.controller.reverse.Reverse`."""

    async def certificates(self, engine_id: str, push: CertificatePush) -> CertificateState:
        """What it holds then. Raises `NotFound` when it is too old for certificates, and others."""


class Wanted(Protocol):
    """What service engines should run; see `avinet.config.desired.Desired`."""

    def version(self, id: str) -> ConfigVersion | None:
        """The version of a service engine."""

    def compiled(self, id: str) -> Compiled | None:
        """Its configuration; None while that is about to change."""


class _Has:
    """What a service engine said to hold, and to refuse."""

    def __init__(self, state: CertificateState) -> None:
        self.held = {each.name: each for each in state.held}
        self.refused = {each.version: each.reason for each in state.refused}


_NOTHING = _Has(CertificateState())


class Supply:
    """The certificates of the service engines that this node serves, out of `vault`."""

    log = Logger()

    def __init__(self, clock: IReactorTime, pusher: Pusher, wanted: Wanted, vault: Vault) -> None:
        self._clock = clock
        self._pusher = pusher
        self._wanted = wanted
        self._vault = vault
        self._has: dict[str, _Has] = {}
        self._too_old: set[str] = set()
        self._named: OrderedDict[str, frozenset[str]] = OrderedDict()

    # what is known

    def needed(self, id: str) -> frozenset[str]:
        """The names of the certificates that a service engine is to serve."""
        version = self._wanted.version(id)
        if version is None:
            return frozenset()
        known = self._named.get(version.sha256)
        if known is None:
            found = self._wanted.compiled(id)
            if found is None:  # it is about to change
                return frozenset()
            known = self._named[found.sha256] = found.config.certificates
            if len(self._named) > _NAMES_KEPT:
                self._named.popitem(last=False)
        return known

    def holds(self, id: str, version: CertificateVersion) -> bool:
        """Whether a service engine holds this version, by its word."""
        return self._of(id).held.get(version.name) == version

    def holders(self, version: CertificateVersion) -> Iterator[str]:
        """All that hold this version, by their word."""
        return (id for id, has in self._has.items() if has.held.get(version.name) == version)

    def missing(self, id: str) -> list[str]:
        """The names of those that a service engine is to be sent now."""
        if id in self._too_old:
            return []
        has = self._of(id)
        return [
            name
            for name in sorted(self.needed(id))
            if (version := self._vault.version(name)) is not None
            and version not in (has.held.get(name), *has.refused)
            and not self._vault.problem(name)
        ]

    def waits(self, id: str) -> str:
        """Why the configuration of a service engine has to wait; empty when it has all that it needs for it."""
        held = self._of(id).held
        return next((why for name, why in self._problems(id) if name not in held), "")

    def problem(self, id: str) -> str:
        """Why a service engine does not hold what it should; empty when there is nothing to say."""
        return next((why for _, why in self._problems(id)), "")

    def _problems(self, id: str) -> Iterator[tuple[str, str]]:
        """The certificates that a service engine can not be brought, each with the reason."""
        has = self._of(id)
        for name in sorted(self.needed(id)):
            version = self._vault.version(name)
            if version is not None and has.held.get(name) == version:
                continue
            if version is None or self._vault.problem(name):
                yield name, self._vault.problem(name)
            elif id in self._too_old:
                yield name, f"service engine {id} is too old to serve certificate {name}: upgrade avinet on it"
            elif version in has.refused:
                yield name, f"certificate {name} was refused: {has.refused[version]}"

    def _of(self, id: str) -> _Has:
        return self._has.get(id, _NOTHING)

    # what happens

    def opened(self, id: str) -> None:
        """The service engine has a new tunnel: it may be of another version by now."""
        self._too_old.discard(id)

    def said(self, id: str, state: CertificateState) -> None:
        """A service engine told what it holds: only so much of it is remembered as there are certificates."""
        self._has[id] = _Has(
            CertificateState(
                held=[each for each in state.held if self._vault.version(each.name)],
                refused=[
                    CertificateRefusal(version=each.version, reason=each.reason[:_REASON_CHARS])
                    for each in state.refused
                    if self._vault.version(each.version.name)
                ],
            )
        )

    def forget(self, id: str) -> None:
        """The service engine is gone, or begins anew."""
        self._has.pop(id, None)
        self._too_old.discard(id)

    async def bring(self, id: str) -> None:
        """Send what is missing. Raises when the service engine may not have seen it, or has not kept it."""
        names = self.missing(id)
        for first in range(0, len(names), TOGETHER):
            some = names[first : first + TOGETHER]
            await self._push(id, CertificatePush(certificates=[self._vault.material(name) for name in some]))

    async def _push(self, id: str, push: CertificatePush) -> None:
        versions = [each.version for each in push.certificates]
        try:
            asking = self._pusher.certificates(id, push)
            state = await within(self._clock, PUSH_S, asking, f"service engine {id}")
        except NotFound:
            self._too_old.add(id)
            self.log.warn("{id} is too old to serve certificates: upgrade avinet on it", id=id)
            return
        except (Invalid, TooLarge) as error:
            self._refused(id, versions, str(error))
            return
        self.said(id, state)
        has = self._of(id)
        for version in versions:
            if version in has.refused:
                self.log.warn(
                    "{id} has refused certificate {name}: {why}", id=id, name=version.name, why=has.refused[version]
                )
            elif not self.holds(id, version):
                raise PeerError(f"{id} has answered, but does not hold certificate {version.name}")
            else:
                self.log.info(
                    "{id} holds certificate {name} of revision {revision}",
                    id=id,
                    name=version.name,
                    revision=version.revision,
                )

    def _refused(self, id: str, versions: list[CertificateVersion], why: str) -> None:
        """A service engine has refused all of a push."""
        self.log.warn("{id} has refused {count} certificates: {why}", id=id, count=len(versions), why=why)
        has = self._of(id)
        refused = {**has.refused, **dict.fromkeys(versions, why)}
        self.said(
            id,
            CertificateState(
                held=list(has.held.values()),
                refused=[CertificateRefusal(version=version, reason=why) for version, why in refused.items()],
            ),
        )
