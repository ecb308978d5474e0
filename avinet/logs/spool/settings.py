"""The settings of the spool: `[spool]` in `se.toml`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.settings import Settings

MIB = 1024 * 1024


class SpoolSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`keep` is `auto` (request logs are kept where DuckDB is installed, which seals them), `always` or `never`.

    Lines are on the disk after `sync_s`; up to `buffer_mib` of them wait for that in memory.

    A segment has `segment_rows` records, or `segment_mib` as they came, or is `segment_age_s` old. All of it takes
    `cap_mib` on the disk at most, and none is kept that was sealed longer ago than `cap_age_s`. Sealing one may take
    `seal_s`, and when that was not enough twice as long the next time, up to eight times.
    """

    keep: Literal["auto", "always", "never"] = "auto"
    sync_s: Annotated[float, Meta(ge=0.05, le=60)] = 1.0
    buffer_mib: Annotated[int, Meta(ge=1, le=1024)] = 32
    segment_rows: Annotated[int, Meta(ge=1, le=4_000_000)] = 250_000
    segment_mib: Annotated[int, Meta(ge=1, le=2048)] = 128
    segment_age_s: Annotated[float, Meta(ge=1, le=86400)] = 300.0
    cap_mib: Annotated[int, Meta(ge=1, le=1 << 30)] = 4096
    cap_age_s: Annotated[float, Meta(ge=60, le=10 * 365 * 86400)] = 7 * 86400.0
    seal_s: Annotated[float, Meta(ge=1, le=3600)] = 120.0
