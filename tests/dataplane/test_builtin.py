"""The built-in proxy does what a data plane must."""

from __future__ import annotations

from twisted.internet import reactor

from avinet.dataplane.builtin import BuiltIn
from avinet.dataplane.interface import Dataplane
from tests.dataplane.contract import DataplaneContract
from tests.dataplane.planes import PlaneCase
from tests.dataplane.record_contract import RecordContract
from tests.dataplane.tls_contract import TLSContract


class BuiltInTests(RecordContract, TLSContract, DataplaneContract, PlaneCase):
    def make(self) -> Dataplane:
        return self.given(BuiltIn(reactor))
