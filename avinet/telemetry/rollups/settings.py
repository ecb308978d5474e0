"""The settings of the rollups: `[rollups]` in `controller.toml`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from avinet.settings import Settings

MIB = 1024 * 1024
Age = Annotated[float, Meta(ge=3600, le=10 * 366 * 86400)]


class RollupSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`folder` is where they are kept; empty: in `rollups` below the state folder.

    What was reported is kept by 10 s for `fine_age_s`, by 5 min for `coarse_age_s`, and takes `cap_mib` on the disk at
    most: beyond that the oldest goes.
    """

    folder: str = ""
    fine_age_s: Age = 86400.0
    coarse_age_s: Age = 2_678_400.0
    cap_mib: Annotated[int, Meta(ge=16, le=1 << 30)] = 4096
