"""What a service engine needs of a load balancer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from avinet.dataplane.records import Record
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Config
from avinet.wire.report import ServerHealth, ServiceTraffic

ServerState = Literal["ready", "drain", "maint"]
Lines = Callable[[Sequence[bytes]], None]
"""Is given the records of requests and connections that have ended, each a line (`avinet.wire.log`) without its end."""
Records = Callable[[Sequence[Record], Sequence[bytes]], None]
"""Is given the same lines, with what is in them."""
Why = Literal["parse", "dropped", "crash"]


class Missed(Protocol):
    """Is told how many records are missing behind the lines before, None where nobody knows: they are none, there was
    no room on their way, or who had them died. They are of between these times (milliseconds since 1970; at first:
    now).
    """

    def __call__(
        self, reason: Why, records: int | None, from_ms: int | None = None, to_ms: int | None = None
    ) -> None: ...


def nobody_listens(reason: Why, records: int | None, from_ms: int | None = None, to_ms: int | None = None) -> None:
    """A `Missed` that does nothing."""


class Dataplane(Protocol):
    """A load balancer. `changed` is called at once when the health of a server changes; `lines`, `records` and
    `missed` are called as requests end. Nobody listens to any of them at first.
    """

    name: str
    changed: Callable[[], None]
    lines: Lines
    records: Records
    missed: Missed

    async def start(self, config: Config) -> None:
        """Attach to what runs already, or start it, and bring it to `config`.

        Raises `Invalid` when it cannot run that; it then runs nothing, and `apply` may be tried.
        """

    async def check(self, config: Config) -> None:
        """Raises `Invalid`, saying in a line why `config` cannot run."""

    async def apply(self, config: Config) -> None:
        """Change to `config` without losing a request. Raises `Invalid`, and then the last good one goes on."""

    async def take_certificate(self, name: str, certificate: ServerCertificate) -> None:
        """Have `certificate` under `name` from now on; services that name it serve it to new connections at once.

        Those that are open stay as they are. Raises `Invalid`, and then the one before goes on.
        """

    def drop_certificate(self, name: str) -> None:
        """Have no certificate of that name any more: the configuration that runs names it not."""

    def health(self) -> Sequence[ServerHealth]:
        """Every server of every pool."""

    async def traffic(self) -> Sequence[ServiceTraffic]:
        """What happened since this was last asked; virtual services without traffic are left out."""

    def lost_records(self) -> int:
        """How many requests were never counted, since this was last asked."""

    async def set_server(self, pool: str, server: str, state: ServerState) -> None:
        """Take a server out of the balancing or back into it, until the next start. Raises `NotFound`."""

    def describe(self) -> dict[str, object]:
        """Its state, for people."""

    async def detach(self) -> None:
        """The service engine's process ends: what outlives it goes on."""

    async def shut_down(self, drain_s: float) -> None:
        """Accept nothing more, let what is open end by itself for `drain_s`, and end."""
