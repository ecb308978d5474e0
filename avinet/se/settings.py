"""The settings of a service engine (`se.toml`). Relative paths are below the folder that the file is in."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.logs.export.settings import Export
from avinet.logs.spool.settings import SpoolSettings
from avinet.se.programs import Program
from avinet.settings import Settings
from avinet.wire.report import EXPORTS

Seconds = Annotated[float, Meta(gt=0, le=86400)]


class Tunnel(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dead_after_s` is how long a silent tunnel is believed; `retry_cap_s` the longest wait between two tries."""

    dead_after_s: Seconds = 15.0
    login_s: Seconds = 30.0
    retry_first_s: Seconds = 0.25
    retry_cap_s: Seconds = 3.0


class DataplaneSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`engine` is `auto` (HAProxy where it is installed, else the built-in proxy) or one of the two by name.

    `keys` is where HAProxy reads certificates with their keys from: a folder in memory.
    """

    engine: Literal["auto", "haproxy", "builtin"] = "auto"
    keys: str = "/run/avinet-se"
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0


class SignificantSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of significant records, `per_second` go to a node in the long run, of all virtual services together; each has a
    limit of its own in its configuration. Up to `buffer_kib` wait while there is no tunnel.
    """

    per_second: Annotated[float, Meta(ge=0, le=10_000)] = 100.0
    buffer_kib: Annotated[int, Meta(ge=16, le=65536)] = 1024


class EngineSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`image` is the folder of the unpacked image, `user_data` the file with id, generation and claim, until the
    service engine has enrolled. Where there is none it proposes to be `id`, or what its host is called. `logs` is what
    SFTP shows. `commands` are programs that nodes may have run beside the commands that there are. Each `export` is a
    collector of request logs.
    """

    state: str = "/var/lib/avinet/se"
    image: str = "/usr/lib/avinet/image"
    user_data: str = "user-data.json"
    id: str = ""
    logs: str = "/var/log/avinet"
    commands: Annotated[tuple[Program, ...], Meta(max_length=100)] = ()
    export: Annotated[tuple[Export, ...], Meta(max_length=EXPORTS)] = ()
    report_interval_s: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    tunnel: Tunnel = Tunnel()
    dataplane: DataplaneSettings = DataplaneSettings()
    spool: SpoolSettings = SpoolSettings()
    significant: SignificantSettings = SignificantSettings()
