"""The keys of this node follow one another: shown to the fleet, and used as soon as all of it knows them."""

from __future__ import annotations

from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.logger import Logger

from avinet.aio import pause
from avinet.controller.steps import Steps
from avinet.errors import AvinetError, Conflict
from avinet.trust import keys
from avinet.trust.domain import Domain
from avinet.trust.succession import make_next_keys, take_next_keys
from avinet.wire.succession import NodeKeys, Succession, SuccessionOrder

LOOK_S = 5.0
"""How often it is looked whether the whole fleet knows the keys that are to follow."""


class KeySuccession:
    """The SSH host key of this node and its `avictlruser` key."""

    log = Logger()

    def __init__(self, reactor: Any, steps: Steps) -> None:
        self._reactor = reactor
        self._steps = steps
        self._standing = steps.standing

    def shown(self) -> NodeKeys:
        """The keys of this node, and those that are to follow."""
        domain = self._standing.domain
        host, own = domain.next_ssh_host_key, domain.next_avictlruser_key
        acknowledged, enrolled = self._steps.count(self._known_since(domain))
        return NodeKeys(
            node=domain.node,
            ssh_host_key=_print(domain.ssh_host_key),
            avictlruser_key=_print(domain.avictlruser_key),
            next_ssh_host_key=_print(host) if host else None,
            next_avictlruser_key=_print(own) if own else None,
            acknowledged=acknowledged,
            enrolled=enrolled,
        )

    def _known_since(self, domain: Domain) -> int:
        """The epoch in which the last key to follow, or in use where none follows, came into the trust document."""
        following = [each for each in (domain.next_ssh_host_key, domain.next_avictlruser_key) if each]
        since = [self._standing.since(keys.public_line(each)) for each in following]
        return max(since, default=self._standing.keys_since)

    async def rotate(self, actor: str) -> NodeKeys:
        """Make keys that are to follow, and show them to the fleet; they are used once all of it knows them."""
        return await self._steps.alone(lambda: self._rotate(actor))

    async def _rotate(self, actor: str) -> NodeKeys:
        before, made = self._standing.domain, make_next_keys(self._standing.domain)
        if None in (before.next_ssh_host_key, before.next_avictlruser_key):  # one of them may be left of a step before
            self._standing.replace(made)
            await self._standing.publish(audit=self._steps.audit("node-keys-made", actor, made.node))
        return self.shown()

    async def finish(self, order: SuccessionOrder, actor: str) -> Succession:
        """Use the keys that are to follow, and retire those in use. Raises `Conflict` while not all know them."""
        return await self._steps.alone(lambda: self._finish(order, actor))

    async def _finish(self, order: SuccessionOrder, actor: str) -> Succession:
        domain = self._standing.domain
        if domain.next_ssh_host_key is None and domain.next_avictlruser_key is None:
            raise Conflict("no keys of this node are to follow", hint="make some: avictl node rotate-keys")
        # Who comes too late for them reads the trust document over HTTPS, where the node has a certificate.
        step = self._steps.step(self._known_since(domain), domain.root.not_valid_after_utc.timestamp())
        if self._steps.goes(step, order, "the keys that follow"):
            self._standing.replace(take_next_keys(domain))
            self.log.info("this node uses its new keys now")
            await self._standing.publish(audit=self._steps.audit("node-keys-used", actor, domain.node))
            return msgspec.structs.replace(step, done=True)
        return step

    async def keep(self) -> None:
        """Use keys that follow as soon as the whole fleet knows them, and publish what could not be; for ever."""
        said = ""
        while True:
            await pause(self._reactor, LOOK_S)
            try:
                await self._steps.alone(self._look)
                said = ""
            except AvinetError as error:
                if str(error) != said:
                    said = str(error)
                    self.log.warn("the trust document could not be brought up to date yet: {why}", why=said)

    async def _look(self) -> None:
        if not self._standing.current:
            await self._standing.publish()
        await self._steps.catch_up()
        domain = self._standing.domain
        if domain.next_ssh_host_key is None and domain.next_avictlruser_key is None:
            return
        known, enrolled = self._steps.count(self._known_since(domain))
        if known == enrolled:
            await self._finish(SuccessionOrder(), domain.node)


def _print(key: Ed25519PrivateKey) -> str:
    return keys.fingerprint(keys.public_line(key))
