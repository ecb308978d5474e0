"""A relay of TCP out of Twisted's own parts, without SSH: python -m bench.plain PORT=PORT..."""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.protocols.portforward import ProxyFactory


def main(*pairs: str) -> None:
    """Relay until it is ended."""
    for pair in pairs:
        near, far = map(int, pair.split("="))
        factory = ProxyFactory("127.0.0.1", far)
        factory.noisy = False
        reactor.listenTCP(near, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
    print("ready", flush=True)
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(*sys.argv[1:])
