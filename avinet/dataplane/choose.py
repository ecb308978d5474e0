"""Which load balancer a service engine drives: HAProxy where it is installed, else the built-in proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from avinet.dataplane.builtin import BuiltIn
from avinet.dataplane.haproxy import HAProxy
from avinet.dataplane.interface import Dataplane
from avinet.dataplane.master import installed
from avinet.errors import LocalError


def choose_dataplane(
    reactor: Any, engine: Literal["auto", "haproxy", "builtin"], folder: Path, keys: Path
) -> Dataplane:
    """The data plane for the setting `engine`; what it keeps is in `folder`, keys for it to read are in `keys`.

    Raises `LocalError` when HAProxy is wanted and there is none of 2.6 or newer.
    """
    found = installed() if engine != "builtin" else None
    if found is not None:
        return HAProxy(reactor, folder, keys, *found)
    if engine == "haproxy":
        raise LocalError("there is no HAProxy 2.6 or newer on this machine", hint='install it, or set engine = "auto"')
    return BuiltIn(reactor)
