"""HAProxy does what a data plane must."""

from __future__ import annotations

from tests.dataplane.contract import DataplaneContract
from tests.dataplane.haproxies import HAProxyCase
from tests.dataplane.record_contract import RecordContract
from tests.dataplane.tls_contract import TLSContract


class HAProxyTests(RecordContract, TLSContract, DataplaneContract, HAProxyCase):
    """See the contracts; what is HAProxy's own is in files of its own."""
