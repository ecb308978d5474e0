"""Clients of virtual services with TLS, by Python's own `ssl`: they block, and run in threads."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from twisted.internet.threads import deferToThread

from tests.issuing import Issuer, pem

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Seen:
    """What a client saw: the serial number of the certificate, version and protocol of the connection, the answer."""

    serial: int
    version: str
    protocol: str | None
    answer: bytes

    @property
    def status(self) -> int:
        return int(self.answer.split()[1])

    @property
    def body(self) -> list[str]:
        return self.answer.partition(b"\r\n\r\n")[2].decode().split()


def context(
    issuer: Issuer, *, verify: bool = True, protocols: Sequence[str] = (), **versions: ssl.TLSVersion
) -> ssl.SSLContext:
    """Trusts the root alone, so that a service has to show what lies between."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=pem(issuer.root))
    made.check_hostname = verify
    if protocols:
        made.set_alpn_protocols(list(protocols))
    for name, version in versions.items():
        if version < ssl.TLSVersion.TLSv1_2:
            made.set_ciphers("ALL:@SECLEVEL=0")
        setattr(made, name, version)
    return made


class Open:
    """A connection that was made to `port`, for `name` (SNI), and stays open."""

    def __init__(self, port: int, name: str | None, made: ssl.SSLContext) -> None:
        raw = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        try:
            self.tls = made.wrap_socket(raw, server_hostname=name)
        except BaseException:
            raw.close()
            raise
        shown = self.tls.getpeercert(binary_form=True)
        assert shown is not None
        self.serial = x509.load_der_x509_certificate(shown).serial_number

    def request(self, host: str, *headers: str, close: bool = False, path: str = "/", body: bytes = b"") -> bytes:
        """The whole answer, head and body, to a GET, or to a POST of `body`."""
        lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", f"Host: {host}", *headers]
        lines += [f"Content-Length: {len(body)}"] if body else []
        lines += ["Connection: close"] if close else []
        self.tls.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = bytearray()
        while self._missing(answer) > 0:
            more = self.tls.recv(65536)
            if not more:
                break
            answer += more
        return bytes(answer)

    @staticmethod
    def _missing(answer: bytearray) -> int:
        """How many bytes of an answer are to come; 1 or more before its head is whole."""
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return 1
        lines = bytes(answer[:end]).lower().split(b"\r\n")
        length = next((int(each[15:]) for each in lines if each.startswith(b"content-length:")), 0)
        return end + 4 + length - len(answer)

    def exchange(self, data: bytes) -> bytes:
        """What comes back for `data`, as many bytes."""
        self.tls.sendall(data)
        answer = b""
        while len(answer) < len(data):
            more = self.tls.recv(65536)
            if not more:
                break
            answer += more
        return answer

    def close(self) -> None:
        self.tls.close()


def _ask(port: int, name: str | None, made: ssl.SSLContext, host: str, headers: Sequence[str]) -> Seen:
    opened = Open(port, name, made)
    try:
        answer = opened.request(host, *headers, close=True)
        return Seen(opened.serial, opened.tls.version() or "", opened.tls.selected_alpn_protocol(), answer)
    finally:
        opened.close()


async def ask_tls(port: int, name: str | None, made: ssl.SSLContext, *headers: str) -> Seen:
    """One request over a connection of its own, for `name`."""
    return await deferToThread(_ask, port, name, made, name or "example.net", headers)


async def connect_tls(port: int, name: str | None, made: ssl.SSLContext) -> Open:
    """A connection that stays open."""
    return await deferToThread(Open, port, name, made)
