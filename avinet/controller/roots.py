"""Root CAs follow one another: shown to the fleet, counted, used, and the old ones retired."""

from __future__ import annotations

import msgspec
from cryptography import x509
from twisted.logger import Logger

from avinet.controller.standing import pem
from avinet.controller.steps import Steps
from avinet.errors import Conflict, Invalid, LocalError, NotFound
from avinet.trust.authority import IssuingCA
from avinet.trust.image import fingerprint
from avinet.trust.path import believed
from avinet.trust.succession import check_successor, drop_successor, keep_successor, take_successor
from avinet.wire.succession import RootCA, RootList, Succession, SuccessionOrder
from avinet.wire.trust import MOST_ROOTS

_UNKNOWN = "the root CA that follows"


class Roots:
    """The root CAs that the fleet believes, and the one that this node is under."""

    log = Logger()

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._standing = steps.standing

    def shown(self) -> RootList:
        """The root CAs of the trust document."""
        _, enrolled = self._steps.count(0)
        items = [self._shown(each) for each in self._standing.roots()]
        return RootList(items=items, epoch=self._standing.document.epoch, enrolled=enrolled)

    def _shown(self, root: x509.Certificate) -> RootCA:
        domain, since = self._standing.domain, self._standing.since(fingerprint(root))
        following = domain.next_issuing
        acknowledged, _ = self._steps.count(since)
        return RootCA(
            fingerprint=fingerprint(root),
            state="in-use" if root == domain.root else "next" if following and following.root == root else "former",
            not_before=root.not_valid_before_utc.timestamp(),
            not_after=root.not_valid_after_utc.timestamp(),
            since=since,
            acknowledged=acknowledged,
        )

    def _root(self, begins: str) -> x509.Certificate:
        found = [each for each in self._standing.roots() if fingerprint(each).startswith(begins.lower())]
        if len(found) != 1 or not begins:
            many = "several root CAs begin" if found and begins else "no root CA begins"
            raise NotFound(f"{many} with {begins[:64]}", hint="see avictl root list")
        return found[0]

    async def add(self, issuing_ca: str, actor: str) -> RootList:
        """Have the fleet believe a root CA that is to follow; an issuing CA under the one in use is used at once.

        Raises `Invalid` for what this domain cannot use, `Conflict` when another one waits already.
        """
        try:
            following = IssuingCA.parse(issuing_ca.encode("ascii", "replace"), "what was sent")
        except LocalError as error:
            raise Invalid(
                f"that is no issuing CA: {error.what}", hint="see avictl root new, avictl root issue"
            ) from error
        return await self._steps.alone(lambda: self._add(following, actor))

    async def _add(self, following: IssuingCA, actor: str) -> RootList:
        domain = self._standing.domain
        following = check_successor(domain, following, self._steps.time())
        waits = domain.next_issuing
        if waits is not None and waits.certificate != following.certificate:
            raise Conflict(
                f"the root CA {fingerprint(waits.root)} waits to be used already",
                hint="use it first, or retire it: avictl root list",
            )
        known = self._standing.document.roots
        if pem(following.root) not in known and len(known) >= MOST_ROOTS:
            raise Conflict(f"there are {MOST_ROOTS} root CAs already", hint="retire one: avictl root list")
        self._standing.replace(keep_successor(domain, following))
        if following.root == domain.root:
            await self._take("issuing-ca-used", actor)
        else:
            await self._standing.publish(audit=self._steps.audit("root-added", actor, fingerprint(following.root)))
        return self.shown()

    async def use(self, root: str, order: SuccessionOrder, actor: str) -> Succession:
        """Put this node under the root CA that waits. Raises `Conflict` while service engines do not know it."""
        return await self._steps.alone(lambda: self._use(root, order, actor))

    async def _use(self, begins: str, order: SuccessionOrder, actor: str) -> Succession:
        root, domain = self._root(begins), self._standing.domain
        if root == domain.root:
            return Succession(done=True, waiting=0)
        if domain.next_issuing is None or domain.next_issuing.root != root:
            raise Conflict(
                f"this node has no issuing CA under the root CA {fingerprint(root)}",
                hint="make one with that root's key: avictl root issue, avictl root add",
            )
        step = self._step(root, domain.root, domain.next_issuing)
        if not self._steps.goes(step, order, _UNKNOWN):
            return step
        await self._take("root-used", actor)
        return msgspec.structs.replace(step, done=True)

    async def _take(self, kind: str, actor: str) -> None:
        self._standing.replace(take_successor(self._standing.domain, self._steps.time()))
        root = fingerprint(self._standing.domain.root)
        self.log.info("this node has another issuing CA, under the root CA {root}", root=root)
        await self._standing.publish(audit=self._steps.audit(kind, actor, root))

    async def retire(self, root: str, order: SuccessionOrder, actor: str) -> Succession:
        """Have the fleet believe a root CA no longer. Raises `Conflict` for the one in use, and as `use`."""
        return await self._steps.alone(lambda: self._retire(root, order, actor))

    async def _retire(self, begins: str, order: SuccessionOrder, actor: str) -> Succession:
        root, domain = self._root(begins), self._standing.domain
        if root == domain.root:
            raise Conflict(
                f"this node is under the root CA {fingerprint(root)}", hint="use another one first: avictl root use"
            )
        drops = domain.next_issuing is not None and domain.next_issuing.root == root
        step = Succession(done=False, waiting=0) if drops else self._step(domain.root, root, domain.issuing)
        if not self._steps.goes(step, order, _UNKNOWN):
            return step
        voucher = self._voucher(root)
        if voucher is not None and not drops and not order.force:
            raise Conflict(
                f"the root CA {fingerprint(voucher)[:16]} vouches for it, and is believed still",
                hint="retire that one first: as long as it is believed, so is this one",
            )
        if drops:
            self._standing.replace(drop_successor(domain))
        kind = "root-dropped" if drops else "root-retired"
        await self._standing.publish(without=pem(root), audit=self._steps.audit(kind, actor, fingerprint(root)))
        return msgspec.structs.replace(step, done=True)

    def _voucher(self, root: x509.Certificate) -> x509.Certificate | None:
        """Another root CA that is believed, and vouches for `root` in a certificate that this node has."""
        now, crossed = self._steps.time(), self._standing.domain.issuing.crossed
        for each in self._standing.roots():
            vouched = [other.public_key() for other in believed([each], crossed, now)[1:]]
            if each != root and root.public_key() in vouched:
                return each
        return None

    def _step(self, known: x509.Certificate, without: x509.Certificate, issuing: IssuingCA) -> Succession:
        """Who does not know the root `known`, and until when such come back by what the root `without` vouches for."""
        now, until = self._steps.time(), without.not_valid_after_utc
        key = issuing.root.public_key()
        vouched = until > now and any(each.public_key() == key for each in believed([without], issuing.crossed, now))
        since, before = (self._standing.since(fingerprint(each)) for each in (known, without))
        return self._steps.step(since, until.timestamp() if vouched else None, before)
