"""What follows what in a domain of trust: root CAs, the keys of a node, and how many service engines know it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.message import Count, Fingerprint, Id, Message, Sha256, UnixTime

SHOWN = 100
"""How many service engines are named that do not know something yet."""


class RootCA(Message, frozen=True, kw_only=True):
    """A root CA in the trust document since the epoch `since`; `acknowledged` service engines have that or a later one.

    `state` is `in-use` for the one that the nodes are under, `next` for one whose issuing CA waits to be used, else
    `former`.
    """

    fingerprint: Sha256
    state: Literal["in-use", "next", "former"]
    not_before: UnixTime
    not_after: UnixTime
    since: Count
    acknowledged: Count


class RootList(Message, frozen=True, kw_only=True):
    """The root CAs of the trust document of `epoch`; `enrolled` service engines are to know it."""

    items: list[RootCA]
    epoch: Count
    enrolled: Count


class RootAdd(Message, frozen=True, kw_only=True):
    """An issuing CA as `avictl root new` and `avictl root issue` make it: certificate, key, root CA, all in PEM."""

    issuing_ca: Annotated[str, Meta(max_length=65536)]


class SuccessionOrder(Message, frozen=True, kw_only=True):
    """Take the step, or only say what it would do; `force` takes it though not all service engines are ready for it."""

    dry_run: bool = False
    force: bool = False


class Succession(Message, frozen=True, kw_only=True):
    """A step, whether it was taken, and those that are not ready for it: how many, and the first of them by name.

    These come back all the same until `until`; None where they would be lost.
    """

    done: bool
    waiting: Count
    ids: Annotated[list[Id], Meta(max_length=SHOWN)] = []
    until: UnixTime | None = None


class NodeKeys(Message, frozen=True, kw_only=True):
    """The keys of a node, and those that are to follow.

    `acknowledged` service engines of `enrolled` know the latter, or the former where nothing follows.
    """

    node: Id
    ssh_host_key: Fingerprint
    avictlruser_key: Fingerprint
    next_ssh_host_key: Fingerprint | None = None
    next_avictlruser_key: Fingerprint | None = None
    acknowledged: Count
    enrolled: Count
