"""A TCP relay on Twisted's own transports, without SSH: python -m bench.plain PORT=PORT..."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as _reactor

from bench.forwarder import to_port

reactor: Any = _reactor


def main(*pairs: str) -> None:
    """Relay until it is ended."""
    for pair in pairs:
        near, far = map(int, pair.split("="))
        reactor.listenTCP(near, to_port(reactor, far), interface="127.0.0.1")
    print("ready", flush=True)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
