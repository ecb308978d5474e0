"""The settings of a controller (`controller.toml`). Relative paths are below the folder that the file is in."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from avinet.enrolment.door import BURST, PER_S
from avinet.settings import Settings
from avinet.store.choose import StoreSettings
from avinet.telemetry.rollups.settings import RollupSettings

Seconds = Annotated[float, Meta(gt=0, le=864000)]
LongSeconds = Annotated[float, Meta(gt=0, le=315_360_000)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Addresses = Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)]


class Ssh(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The door for tunnels. `dead_after_s` is how long a silent tunnel is believed.

    `logins_per_second` is how fast a fleet that lost the node is asked to come back, one after the other.
    `unauthenticated` bounds the connections that have not logged in, in all and from one source (/32 or /64);
    `channels` those of one tunnel, in both directions. With `post_quantum_only` no peer gets in whose key exchange a
    quantum computer could open later.
    """

    listen: Addresses = ("0.0.0.0",)  # noqa: S104 (service engines dial from anywhere)
    port: Port = 22
    dead_after_s: Seconds = 15.0
    login_s: Seconds = 30.0
    logins_per_second: Annotated[float, Meta(ge=1, le=100000)] = 300.0
    unauthenticated: int = 1000
    unauthenticated_from_one: int = 200
    channels: Annotated[int, Meta(ge=8, le=65536)] = 256
    post_quantum_only: bool = False


class Https(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The door for enrolment and trust."""

    listen: Addresses = ("0.0.0.0",)  # noqa: S104 (service engines dial from anywhere)
    port: Port = 8443


class Enrolment(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`claim_s` is how long a service engine has to enrol after it was created.

    One source (an IPv4 address or an IPv6 /64) may make `calls_at_once` requests of the door, and
    `calls_per_second` in the long run; an enrolment is two.
    """

    claim_s: Seconds = 3600.0
    calls_at_once: Annotated[float, Meta(ge=2, le=1_000_000)] = BURST
    calls_per_second: Annotated[float, Meta(ge=1, le=1_000_000)] = PER_S


class Certificates(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long before its end a certificate of a virtual service is to be renewed, and when that is urgent."""

    soon_s: LongSeconds = 2592000.0
    urgent_s: LongSeconds = 604800.0


class Cloud(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The local driver: where its instances live, and what is written into their `se.toml` beside the paths."""

    folder: str = "instances"
    engine: str = "auto"


class Archive(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where segments of request logs are kept; empty: in `archive` below the state folder.

    They take `limit_mib` at most, beyond that the first go of the service engine that has most, and none stays that
    came longer ago than `age_s`. Nothing is fetched that would leave less than `spare_mib` on that file system.
    """

    folder: str = ""
    limit_mib: Annotated[int, Meta(ge=1, le=1 << 40)] = 51_200
    age_s: Annotated[float, Meta(ge=60, le=315_360_000)] = 2_592_000.0
    spare_mib: Annotated[int, Meta(ge=0, le=1 << 40)] = 512


class Pulls(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pulls of request logs fetch `at_once` segments, each from another service engine.

    One that sends nothing for `stalled_s` is asked once more.
    """

    at_once: Annotated[int, Meta(ge=1, le=64)] = 4
    stalled_s: Annotated[float, Meta(ge=1, le=600)] = 30.0


class Queries(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a query of request logs may take; one is answered at a time, and so many wait for their turn."""

    memory_mib: Annotated[int, Meta(ge=64, le=1_048_576)] = 512
    threads: Annotated[int, Meta(ge=1, le=256)] = 2
    deadline_s: Annotated[float, Meta(gt=0, le=600)] = 30.0
    waiting: Annotated[int, Meta(ge=1, le=10000)] = 32


class ControllerSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`node` is this node's id; `addresses` is where service engines reach it, as they see it (hosts, no ports)."""

    node: str = "node-1"
    state: str = "/var/lib/avinet/controller"
    socket: str = "/run/avinet/controller.sock"
    addresses: Addresses = ("127.0.0.1",)
    ssh: Ssh = Ssh()
    https: Https = Https()
    enrolment: Enrolment = Enrolment()
    certificates: Certificates = Certificates()
    cloud: Cloud = Cloud()
    archive: Archive = Archive()
    pulls: Pulls = Pulls()
    queries: Queries = Queries()
    store: StoreSettings = StoreSettings()
    rollups: RollupSettings = RollupSettings()
