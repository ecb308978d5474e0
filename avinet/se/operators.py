"""Who may log in to a service engine's SSH service: the nodes, and operators for as long as a node vouched for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avinet.errors import Forbidden, Invalid, TooMany
from avinet.ssh.identity import Identity
from avinet.wire.command import OperatorKey
from avinet.wire.trust import Node

USER = "avictlruser"
LIFE_S = 300.0
KEYS = 100


class OperatorKeys:
    """The admission of the SSH service; see `avinet.ssh.auth.Admission`. What it admits is the name of who logs in."""

    def __init__(self, nodes: Callable[[], Sequence[Node]], now: Callable[[], float]) -> None:
        self._nodes = nodes
        self._now = now
        self._keys: dict[str, OperatorKey] = {}

    def admit_until(self, key: OperatorKey) -> None:
        """Let `key` log in until it expires, at most 5 minutes from now. Raises `Invalid` or `TooMany`."""
        now = self._now()
        self._keys = {line: each for line, each in self._keys.items() if each.expires > now}
        if not now < key.expires <= now + LIFE_S + 30:
            raise Invalid(f"a key can be admitted for at most {LIFE_S:g} s")
        if len(self._keys) >= KEYS and key.public_key not in self._keys:
            raise TooMany("too many keys of operators are admitted at this moment", retry_after_s=60)
        self._keys[key.public_key] = key

    def _holder(self, public_key: str) -> str | None:
        for node in self._nodes():
            if public_key in node.avictlruser_keys:
                return f"node {node.id}"
        key = self._keys.get(public_key)
        return (key.operator or "an operator") if key is not None and key.expires > self._now() else None

    def known(self, user: str, public_key: str) -> bool:
        """See `Admission`."""
        return user == USER and self._holder(public_key) is not None

    async def admit(self, user: str, public_key: str, address: str) -> str:
        """See `Admission`."""
        holder = self._holder(public_key) if user == USER else None
        if holder is None:
            raise Forbidden("this key may not log in")
        return holder

    def left(self, identity: Identity) -> None:
        """See `Admission`."""
