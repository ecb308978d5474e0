"""The two ends of a tunnel of Twisted Conch as it comes: python -m bench.conch ROLE PLACE FOLDER WINDOW PORT=PORT...

ROLE is server or client; PLACE is the server's, ADDRESS:PORT. The client's end forwards, as `ssh -L` does: from a door
at the first PORT of 127.0.0.1 to the second one there, at the server's end. All windows are of WINDOW bytes. FOLDER has
`host_key` and `user_key`. "ready" is printed when all of it can be used.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.forwarding import (
    SSHConnectForwardingChannel,
    SSHListenClientForwardingChannel,
    SSHListenForwardingFactory,
    unpackOpen_direct_tcpip,
)
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.cred.portal import IRealm, Portal
from twisted.internet import defer
from twisted.internet import reactor as _reactor
from twisted.internet.protocol import ClientFactory
from twisted.logger import globalLogBeginner, textFileLogObserver
from typing_extensions import override
from zope.interface import implementer

USER = b"aviseuser"
reactor: Any = _reactor


class Guest(ConchUser):
    """May open channels to any port of 127.0.0.1."""

    def __init__(self, window_bytes: int) -> None:
        super().__init__()

        def opened(*, data: bytes, **terms: Any) -> SSHConnectForwardingChannel:
            target, _ = unpackOpen_direct_tcpip(data)
            return SSHConnectForwardingChannel(target, localWindow=window_bytes, **terms)

        self.channelLookup[b"direct-tcpip"] = opened


@implementer(IRealm)
class Realm:
    """Has guests."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes

    def requestAvatar(self, avatarId: object, mind: object, *interfaces: object) -> Any:  # noqa: N802, N803
        """A new guest."""
        return IConchUser, Guest(self._window_bytes), lambda: None


class Login(SSHUserAuthClient):
    """Logs in by key."""

    def __init__(self, key: Key, connection: SSHConnection) -> None:
        super().__init__(USER, connection)
        self._keys = [key]

    @override
    def getPublicKey(self) -> Key | None:
        return self._keys[0].public() if self._keys else None

    @override
    def getPrivateKey(self) -> Any:
        return defer.succeed(self._keys.pop())


class Doors(SSHConnection):
    """The client's end: it listens, and forwards."""

    def __init__(self, window_bytes: int, pairs: list[str]) -> None:
        super().__init__()
        self._channel = partial(SSHListenClientForwardingChannel, localWindow=window_bytes)
        self._pairs = pairs

    @override
    def serviceStarted(self) -> None:
        super().serviceStarted()
        for pair in self._pairs:
            near, far = map(int, pair.split("="))
            factory = SSHListenForwardingFactory(self, ("127.0.0.1", far), self._channel)
            reactor.listenTCP(near, factory, interface="127.0.0.1")
        print("ready", flush=True)


class Client(SSHClientTransport):
    """Knows the server's key, and logs in."""

    def __init__(self, host_key: Key, login: Login) -> None:
        self._host_key, self._login = host_key, login

    @override
    def verifyHostKey(self, hostKey: bytes, fingerprint: str) -> Any:
        assert hostKey == self._host_key.blob()
        return defer.succeed(True)

    @override
    def connectionSecure(self) -> None:
        self.requestService(self._login)


def server(address: str, port: int, host_key: Key, user_key: Key, window_bytes: int) -> None:
    """Ready at once."""
    factory = SSHFactory()
    factory.publicKeys = {host_key.sshType(): host_key.public()}
    factory.privateKeys = {host_key.sshType(): host_key}
    checker = SSHPublicKeyChecker(InMemorySSHKeyDB({USER: [user_key.public()]}))
    factory.portal = Portal(Realm(window_bytes), [checker])  # type: ignore[attr-defined]
    reactor.listenTCP(port, factory, interface=address)
    print("ready", flush=True)


def client(address: str, port: int, host_key: Key, user_key: Key, window_bytes: int, pairs: list[str]) -> None:
    """Ready when its doors are open."""
    factory = ClientFactory()
    factory.noisy = False
    made = Client(host_key, Login(user_key, Doors(window_bytes, pairs)))
    factory.buildProtocol = lambda address: made  # type: ignore[method-assign, assignment]
    reactor.connectTCP(address, port, factory)


def main(role: str, place: str, folder: str, window: str, *pairs: str) -> None:
    """Run one end until it is ended."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    address, _, port = place.partition(":")
    host_key, user_key = (Key.fromFile(str(Path(folder) / name)) for name in ("host_key", "user_key"))
    if role == "server":
        server(address, int(port), host_key, user_key, int(window))
    else:
        client(address, int(port), host_key, user_key, int(window), list(pairs))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
