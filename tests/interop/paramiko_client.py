"""paramiko as `ssh -N -L LOCAL:api:80 -R api:80:127.0.0.1:TARGET`; run with its settings as JSON."""

from __future__ import annotations

import json
import socket
import sys
import threading
from base64 import b64decode
from typing import Any

import paramiko

_PIECE_BYTES = 65536


def carry(take: Any, give: Any, end: Any) -> None:
    """Carry bytes in one direction, and the end of them."""
    while data := take(_PIECE_BYTES):
        give(data)
    end()


class Forwarder:
    """Joins channels and connections; asks for new keys once `rekey_bytes` went into one channel."""

    def __init__(self, transport: paramiko.Transport, rekey_bytes: int | None) -> None:
        self._transport = transport
        self._rekey_bytes = rekey_bytes

    def join(self, channel: paramiko.Channel, connection: socket.socket) -> None:
        """Carry bytes both ways until both have ended."""
        there = threading.Thread(target=self._carry_there, args=(channel, connection))
        there.start()
        carry(channel.recv, connection.sendall, lambda: connection.shutdown(socket.SHUT_WR))
        there.join()
        channel.close()
        connection.close()

    def _carry_there(self, channel: paramiko.Channel, connection: socket.socket) -> None:
        left = self._rekey_bytes

        def give(data: bytes) -> None:
            nonlocal left
            channel.sendall(data)
            if left is not None:
                left -= len(data)
                if left <= 0:
                    left = None
                    self._transport.renegotiate_keys()

        carry(connection.recv, give, channel.shutdown_write)

    def listen(self, listener: socket.socket) -> None:
        """Open a channel for each connection."""
        while True:
            connection, origin = listener.accept()
            channel = self._transport.open_channel("direct-tcpip", ("api", 80), origin)
            threading.Thread(target=self.join, args=(channel, connection), daemon=True).start()


def main(
    port: int,
    user: str,
    key: str,
    host_key: str,
    local: int,
    target: int,
    rekey_bytes: int | None,
    exchange: str | None,
    cipher: str | None,
    mac: str | None,
    strict: bool,
) -> None:
    """Hold the tunnel until it ends."""
    transport = paramiko.Transport(("127.0.0.1", port), strict_kex=strict)
    options = transport.get_security_options()
    if exchange:
        options.kex = (exchange,)
    if cipher:
        options.ciphers = (cipher,)
    if mac:
        options.digests = (mac,)
    host = paramiko.Ed25519Key(data=b64decode(host_key.split()[1]))
    transport.connect(hostkey=host, username=user, pkey=paramiko.Ed25519Key(filename=key))
    forwarder = Forwarder(transport, rekey_bytes)
    listener = socket.create_server(("127.0.0.1", local))
    threading.Thread(target=forwarder.listen, args=(listener,), daemon=True).start()

    def forwarded(channel: paramiko.Channel, origin: Any, destination: Any) -> None:
        connection = socket.create_connection(("127.0.0.1", target))
        threading.Thread(target=forwarder.join, args=(channel, connection), daemon=True).start()

    transport.request_port_forward("api", 80, forwarded)
    print("ready", flush=True)
    transport.join()


main(**json.loads(sys.argv[1]))
