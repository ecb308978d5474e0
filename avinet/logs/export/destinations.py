"""From the settings of an export to its destination: addresses and files are looked at before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import TLSVersion

from avinet.errors import AvinetError, LocalError
from avinet.files import read_limited
from avinet.logs.export.exporter import Destination
from avinet.logs.export.otlp import Otlp
from avinet.logs.export.rfc5424 import Sender
from avinet.logs.export.settings import Export
from avinet.logs.export.syslog import Syslog
from avinet.rest.client import Client
from avinet.trust.path import parse_certificates
from avinet.wire.message import Address, convert

FILE_BYTES = 256 * 1024
HEADERS = 32
CONNECT_S = 10
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}): *([\x20-\x7e]{1,8000})\Z")
_OURS = {"host", "content-type", "content-length", "transfer-encoding", "connection"}
_PATH = re.compile(r"[\x21-\x7e]{1,1000}\Z")


@dataclass(frozen=True)
class Around:
    """What all exports of a service engine share: its id, once it has one, its host's name, the time since 1970."""

    engine: Callable[[], str]
    host: str
    now: Callable[[], float]


def destination(reactor: Any, settings: Export, folder: Path, around: Around) -> Destination:
    """What `settings` say; their files are below `folder`. Raises `LocalError`, which names the export."""
    try:
        if settings.kind == "syslog":
            return _syslog(reactor, settings, folder, around)
        return _otlp(reactor, settings, folder, around)
    except AvinetError as error:
        raise LocalError(f"export {settings.name}: {error.what}", hint=error.hint) from error


def _syslog(reactor: Any, settings: Export, folder: Path, around: Around) -> Destination:
    if settings.url or settings.headers:
        raise LocalError("syslog has no url and no headers", hint="set its address as host:port")
    host, port = _place(settings.address, "address")
    endpoint = _with_tls(settings, folder, host, HostnameEndpoint(reactor, host, port, timeout=CONNECT_S))
    sender = Sender(around.host, around.engine, settings.facility, settings.enterprise)
    return Syslog(reactor, endpoint, f"the collector at {settings.address}", sender)


def _otlp(reactor: Any, settings: Export, folder: Path, around: Around) -> Destination:
    if settings.address:
        raise LocalError("otlp has no address", hint="set its url, such as https://collector.example:4318")
    url = urlsplit(settings.url)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
        raise LocalError(f"{settings.url!r} is no URL for it", hint="write it as https://collector.example:4318")
    try:
        port = url.port or 4318
    except ValueError:
        raise LocalError(f"{settings.url!r} has no valid port") from None
    if not _PATH.match(url.path or "/"):
        raise LocalError(f"{settings.url!r} has no valid path")
    endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, url.hostname, port, timeout=CONNECT_S)
    if url.scheme == "https":
        endpoint = _with_tls(settings, folder, url.hostname, endpoint)
    elif not _is_loopback(url.hostname):
        raise LocalError(f"{settings.url} is not encrypted, and not on this machine", hint="use https")
    name = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    client = Client(reactor, endpoint, authority=f"{name}:{port}", where=f"the collector at {url.netloc}")
    path = url.path.rstrip("/")
    path = path if path.endswith("/v1/logs") else f"{path}/v1/logs"
    headers = _headers(folder / settings.headers) if settings.headers else {}
    return Otlp(client, path, headers, around.engine, around.host, around.now, settings.timeout_s)


def _place(text: str, what: str) -> tuple[str, int]:
    address = convert(text, Address, what)
    host, _, port = address.rpartition(":")
    if not 0 < int(port) < 65536:
        raise LocalError(f"{what} has no valid port: {text}")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _headers(path: Path) -> dict[str, str]:
    """The headers in a file, one a line. Raises `LocalError`, which shows nothing of what is in it."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_limited(path, FILE_BYTES).decode("utf-8", "replace").split("\n"), 1):
        if not line.strip():
            continue
        matched = _HEADER.match(line.rstrip())
        if matched is None or matched[1].lower() in _OURS or len(found) >= HEADERS:
            raise LocalError(f"line {number} of {path} is no header that may be sent", hint="write it as NAME: VALUE")
        found[matched[1].lower()] = matched[2]
    return found


def _with_tls(settings: Export, folder: Path, host: str, plain: IStreamClientEndpoint) -> IStreamClientEndpoint:
    """`plain` with TLS around it, of which the collector's certificate is verified."""
    if not settings.ca:
        raise LocalError("there is no ca", hint="name a file with the certificates of the CAs that it is under, in PEM")
    roots = parse_certificates(read_limited(folder / settings.ca, FILE_BYTES), str(folder / settings.ca))
    own = _own(settings, folder) if settings.certificate or settings.key else None
    creator = ssl.optionsForClientTLS(
        settings.server_name or host,
        trustRoot=ssl.trustRootFromCertificates([_twisted(each) for each in roots]),
        extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2, **(own or {})},
    )
    return wrapClientTLS(creator, plain)


def _twisted(certificate: x509.Certificate) -> ssl.Certificate:
    return ssl.Certificate(crypto.X509.from_cryptography(certificate))


def _own(settings: Export, folder: Path) -> dict[str, Any]:
    """What this side shows of itself: a certificate, those above it, and its private key."""
    if not (settings.certificate and settings.key):
        raise LocalError("certificate and key belong together", hint="set both, or none")
    chain = parse_certificates(
        read_limited(folder / settings.certificate, FILE_BYTES), str(folder / settings.certificate)
    )
    path = folder / settings.key
    try:
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, read_limited(path, FILE_BYTES), b"")
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        own, *above = (crypto.X509.from_cryptography(each) for each in chain)
        context.use_certificate(own)
        context.use_privatekey(key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error, ValueError) as error:
        raise LocalError(f"{path} is no private key for {settings.certificate}") from error
    return {"privateKey": key, "certificate": own, "extraCertChain": above}
