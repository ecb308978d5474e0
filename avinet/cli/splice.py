"""Bytes between two descriptors and a socket: both directions at once, and each ends by itself."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading

CHUNK = 256 * 1024


def splice(link: socket.socket, source: int, sink: int) -> None:
    """Carry bytes from `source` to `link` and from `link` to `sink` until both directions have ended.

    The end of `source` is passed on, and so is the end of what `link` brings: `sink` is closed then. When the far side
    is gone altogether, `source` is not waited for.
    """
    threading.Thread(target=_send, args=(link, source), daemon=True).start()
    while data := link.recv(CHUNK):
        _write(sink, data)
    os.close(sink)
    gone = select.poll()
    gone.register(link, 0)  # a hang-up is told without being asked for
    gone.poll()


def _send(link: socket.socket, source: int) -> None:
    # What cannot be sent any more is known to the other direction too: it sees the socket end.
    with contextlib.suppress(OSError):
        while data := os.read(source, CHUNK):
            link.sendall(data)
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_WR)


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]
