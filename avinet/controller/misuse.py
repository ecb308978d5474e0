"""Refused logins that an operator should see: by a key that is for something else, or by a password.

Anybody can show a public key, and does not have to have the other half. So an alarm says what was tried, and only so
many are recorded of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avinet.controller.sessions import ENGINE_USER
from avinet.enrolment.directory import Directory
from avinet.flow.allowance import Allowance
from avinet.ssh.identity import Refusal
from avinet.wire.trust import Node

BURST, PER_S = 10, 1 / 60
_PASSWORDS = ("password", "keyboard-interactive")


class Alarms:
    """Records alarms by `record(kind, id, source)`: ten of a kind and id at once, and one a minute in the long run."""

    def __init__(self, now: Callable[[], float], record: Callable[[str, str, str], None]) -> None:
        self._allowance = Allowance(now, burst=BURST, per_s=PER_S)
        self._record = record

    def raise_for(self, kind: str, id: str, source: str) -> None:
        """Something that an operator should see, of `id`, which is one of ours or empty."""
        place = f"{kind} {id}"
        if not self._allowance.wait_s(place):
            self._allowance.spend(place)
            self._record(kind, id, source)


class Misuse:
    """Tells the keys of the domain from those of strangers.

    `images` are the image keys, `nodes` those of the trust document, `certified` this node's id and the key of its
    certificate, `former` the keys that nodes had before.
    """

    def __init__(
        self,
        directory: Directory,
        images: Callable[[], frozenset[str]],
        nodes: Callable[[], Sequence[Node]],
        certified: Callable[[], tuple[str, str]],
        former: Callable[[], Sequence[str]],
        alarms: Alarms,
    ) -> None:
        self._directory = directory
        self._former = former
        self._images = images
        self._nodes = nodes
        self._certified = certified
        self._alarms = alarms

    def turned_down(self, refusal: Refusal) -> None:
        """A claim was turned down; see `avinet.ssh.server.Server`."""
        kind, id = self._what(refusal)
        if kind:
            self._alarms.raise_for(kind, id, refusal.address)

    def _what(self, refusal: Refusal) -> tuple[str, str]:
        """The kind of alarm and whose key it was; both empty when it is nothing of ours."""
        key = refusal.public_key
        if refusal.method in _PASSWORDS:
            return "password-as-login", ""
        if not key:
            return "", ""
        if key in self._images():
            return "image-key-as-login", ""
        for node in self._nodes():
            if key in node.ssh_host_keys or key in node.avictlruser_keys:
                return "node-key-as-login", node.id
        if key in self._former():
            return "node-key-as-login", ""
        id, certificate_key = self._certified()
        if key == certificate_key:
            return "node-key-as-login", id
        if refusal.user == ENGINE_USER and self._directory.login(key) is not None:
            return "", ""  # it may log in, and was refused for another reason
        owner = self._directory.owner(key)
        return ("engine-key-as-login", owner) if owner else ("", "")
