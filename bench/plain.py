"""A relay of TCP out of Twisted's own parts, without SSH: python -m bench.plain PORT=PORT..."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.protocols.portforward import ProxyFactory

reactor: Any = _reactor


def main(*pairs: str) -> None:
    """Relay until it is ended."""
    for pair in pairs:
        near, far = map(int, pair.split("="))
        factory = ProxyFactory("127.0.0.1", far)
        factory.noisy = False
        reactor.listenTCP(near, factory, interface="127.0.0.1")
    print("ready", flush=True)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
