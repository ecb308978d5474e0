"""One service engine that serves a virtual service, with a server of the test's own behind it."""

from __future__ import annotations

import http.client
import json
from typing import Any

from typing_extensions import override

from demo.machine import free_ports
from tests.integration.node import NodeCase
from tests.integration.web import web_server


class ServingCase(NodeCase):
    """`se-1` serves `web` on `port` with the data plane `balanced`; `service` says more of the virtual service."""

    engines = ()
    balanced = "builtin"
    service: dict[str, Any] = {}  # read, and not written

    def engine_settings(self) -> str:
        """Lines for the settings of the service engine."""
        return ""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine = self.node.machine
        self.server = web_server(self)
        (self.port,) = free_ports(1)
        self.node.expect("se-1")
        settings = self.node.place("se-1") / "se.toml"
        chosen = settings.read_text().replace('"builtin"', f'"{self.balanced}"')
        settings.write_text(chosen + self.engine_settings())
        self.node.start_engine("se-1")
        self.apply()

    def apply(self, *more: dict[str, Any]) -> None:
        """Have the service engine run a configuration of `web`, and of `more` virtual services of its pool `p`."""
        server = {"name": "s", "address": "127.0.0.1", "port": self.server.server_port}
        service = {"name": "web", "address": "127.0.0.1", "port": self.port, "pool": "p", **self.service}
        document = {"name": "web", "virtual_services": [service, *more], "pools": [{"name": "p", "servers": [server]}]}
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        self.machine.avictl("config", "apply", "-f", str(path))

    def ask(self, method: str, path: str) -> int:
        """The status of the answer to a request; 0 without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()
