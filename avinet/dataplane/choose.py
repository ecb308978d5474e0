"""Which load balancer a service engine drives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from avinet.dataplane.builtin import BuiltIn
from avinet.dataplane.interface import Dataplane


def choose_dataplane(reactor: Any, engine: Literal["auto", "haproxy", "builtin"], folder: Path) -> Dataplane:
    """The data plane for the setting `engine`; what it keeps is in `folder`."""
    return BuiltIn(reactor)
