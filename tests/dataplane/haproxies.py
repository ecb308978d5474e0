"""A real HAProxy in a test, and the service engine that drives it."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor

from avinet.dataplane.haproxy import HAProxy
from avinet.dataplane.interface import Dataplane
from avinet.dataplane.key_files import own_name
from avinet.dataplane.master import installed
from tests.dataplane.planes import PlaneCase
from tests.peers import missing


class HAProxyCase(PlaneCase):
    def make(self) -> Dataplane:
        # Longer than a socket's path may be: the sockets are reached all the same.
        self.folder = Path(self.mktemp()).absolute() / ("long" * 20)
        self.keys_of_all = self.folder.with_name("keys")
        self.keys = self.keys_of_all / own_name(self.folder)
        return self.another()

    def another(self) -> HAProxy:
        """The driver of a service engine that has just started, on the same folder."""
        found = installed() or missing("HAProxy 2.6 or newer is not installed")
        return self.given(HAProxy(reactor, self.folder, self.keys_of_all, *found))
