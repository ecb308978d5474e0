"""The settings of an export: one table `[[export]]` in `se.toml` each."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.settings import Settings
from avinet.wire.message import Id

DOCUMENTATION_PEN = 32473
"""The enterprise number that is reserved for examples (RFC 5612)."""


class Export(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A destination of `what`: `all` records, or the `significant` ones that may go.

    `syslog` goes to `address` (host:port), `otlp` to `url`. Both verify the collector under the CAs in the file `ca`:
    that it is called `server_name`, or as its address says. It may ask for `certificate` and `key`. `headers` is a file
    with lines NAME: VALUE for each request.
    """

    name: Id
    kind: Literal["syslog", "otlp"]
    what: Literal["all", "significant"] = "significant"
    address: str = ""
    url: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    headers: str = ""
    facility: Annotated[int, Meta(ge=0, le=23)] = 16
    enterprise: Annotated[int, Meta(ge=1, le=2**32 - 1)] = DOCUMENTATION_PEN
    buffer_mib: Annotated[int, Meta(ge=1, le=1024)] = 16
    batch_kib: Annotated[int, Meta(ge=16, le=4096)] = 256
    timeout_s: Annotated[float, Meta(ge=1, le=300)] = 10.0
    retry_cap_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
