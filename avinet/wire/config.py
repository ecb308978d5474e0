"""Configuration: the documents that operators write, and the compiled result that one service engine runs.

Every value is typed and limited to a character set, so that none can become a directive of the load balancer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.message import (
    Count,
    Id,
    LabelKey,
    LabelValue,
    Line,
    Message,
    Port,
    Revision,
    Sha256,
    UnixTime,
    spelled,
)

DOCUMENT_LIMIT_BYTES = 256 * 1024

BindAddress = Annotated[
    str, spelled(r"^(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:]{2,45}|\*)$(?!\n)", "an IP address, or * for all")
]
Host = Annotated[
    str,
    spelled(
        r"^[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$(?!\n)|^[0-9A-Fa-f:]{2,45}$(?!\n)",
        "a host name or an IP address",
    ),
]
RouteHost = Annotated[
    str,
    spelled(r"^(?:(?:\*\.)?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)?$(?!\n)", "a host name in lower case, or *.suffix"),
]
RoutePath = Annotated[
    str, spelled(r"^(?:/[A-Za-z0-9._~/-]{0,255})?$(?!\n)", "a path that begins with /, of letters, digits and ._~/-")
]
HealthPath = Annotated[
    str, spelled(r"^/[A-Za-z0-9._~/?=&%-]{0,255}$(?!\n)", "a path that begins with /, with a query if need be")
]
StatusRange = Annotated[str, spelled(r"^[1-5](?:xx|[0-9]{2})$(?!\n)", "a status such as 503, or a class such as 5xx")]
Milliseconds = Annotated[int, Meta(ge=10, le=3_600_000)]


class HealthCheck(Message, frozen=True, kw_only=True):
    """How a server is found up or down: a TCP connect, or an HTTP GET of `path` that must answer 2xx or 3xx."""

    kind: Literal["tcp", "http"] = "tcp"
    path: HealthPath = "/"
    interval_ms: Milliseconds = 2000
    timeout_ms: Milliseconds = 1000
    rise: Annotated[int, Meta(ge=1, le=100)] = 2
    fall: Annotated[int, Meta(ge=1, le=100)] = 3


class Server(Message, frozen=True, kw_only=True):
    """A member of a pool. `weight` 0 takes no new connections."""

    name: Id
    address: Host
    port: Port
    weight: Annotated[int, Meta(ge=0, le=256)] = 100


class Pool(Message, frozen=True, kw_only=True):
    """Servers that serve alike, how they are balanced, and how their health is checked."""

    name: Id
    servers: Annotated[list[Server], Meta(max_length=1000)]
    balance: Literal["round-robin", "least-connections"] = "round-robin"
    health_check: HealthCheck = HealthCheck()


class Route(Message, frozen=True, kw_only=True):
    """Requests for `host` (exact, or `*.suffix`) and below `path` (a prefix of whole segments) go to `pool`.

    An empty field matches everything. Routes are tried in order, the first that matches wins.
    """

    pool: Id
    host: RouteHost = ""
    path: RoutePath = ""


class Tls(Message, frozen=True, kw_only=True):
    """TLS that ends at the service engine, with certificates that are kept apart from all documents, by name.

    The certificate is chosen by the name that a client asks for (SNI); the first one is for all that ask for another
    name, or for none. No version below `minimum` is spoken.
    """

    certificates: Annotated[list[Id], Meta(min_length=1, max_length=50)]
    minimum: Literal["1.2", "1.3"] = "1.2"


class Significant(Message, frozen=True, kw_only=True):
    """Which records of requests a service engine sends at once: those with one of `statuses` (such as 503 or 5xx), of
    requests that waited for their answer for more than `slower_s`, that were `refused` (no server took them, or one did
    not serve them to their end), or went to another server in the end (`server_changes`).

    At most `per_second` of them in the long run; 0: none.
    """

    statuses: Annotated[tuple[StatusRange, ...], Meta(max_length=64)] = ("5xx",)
    slower_s: Annotated[float, Meta(ge=0, le=86400)] | None = 5.0
    refused: bool = True
    server_changes: bool = True
    per_second: Annotated[float, Meta(ge=0, le=1000)] = 10.0


class VirtualService(Message, frozen=True, kw_only=True):
    """A listener of the load balancer. What no route takes goes to `pool`; without it HTTP answers 503."""

    name: Id
    address: BindAddress = "*"
    port: Port
    mode: Literal["http", "tcp"] = "http"
    pool: Id | None = None
    routes: Annotated[list[Route], Meta(max_length=500)] = []
    tls: Tls | None = None
    significant: Significant = Significant()


class ByLabels(Message, frozen=True, kw_only=True, tag_field="kind", tag="labels"):
    """The group of service engines that carry all of these labels; none means every service engine."""

    labels: Annotated[dict[LabelKey, LabelValue], Meta(max_length=32)] = {}


class ByEngine(Message, frozen=True, kw_only=True, tag_field="kind", tag="service-engine"):
    """One service engine."""

    id: Id


class Document(Message, frozen=True, kw_only=True):
    """The desired state of a group or of one service engine, as an operator writes it."""

    v: Literal[1] = 1
    name: Id
    applies_to: ByLabels | ByEngine = ByLabels()
    virtual_services: Annotated[list[VirtualService], Meta(max_length=500)] = []
    pools: Annotated[list[Pool], Meta(max_length=500)] = []


class DocumentVersion(Message, frozen=True, kw_only=True):
    """One change of a document: `document` is None where it was deleted."""

    name: Id
    version: Annotated[int, Meta(ge=1)]
    author: Line
    time: UnixTime
    document: Document | None


class Config(Message, frozen=True, kw_only=True):
    """What one service engine runs: all documents that apply, merged and sorted, so that equal means equal."""

    v: Literal[1] = 1
    virtual_services: Annotated[list[VirtualService], Meta(max_length=500)] = []
    pools: Annotated[list[Pool], Meta(max_length=500)] = []

    @property
    def certificates(self) -> frozenset[str]:
        """The names of the certificates that its virtual services serve."""
        return certificates_of(self)


def certificates_of(what: Document | Config) -> frozenset[str]:
    """The names of the certificates that the virtual services of a document, or of a configuration, serve."""
    return frozenset(name for each in what.virtual_services if each.tls for name in each.tls.certificates)


class ConfigVersion(Message, frozen=True, kw_only=True):
    """Names a compiled configuration: the store revision it was compiled at, and the SHA-256 of its encoding.

    Desired and applied are two of these, never one.
    """

    revision: Revision
    sha256: Sha256


class ConfigPush(Message, frozen=True, kw_only=True):
    """A compiled configuration on its way to a service engine. `config` is its exact encoding, as text."""

    version: ConfigVersion
    config: Annotated[str, Meta(max_length=4 * 1024 * 1024)]


REASON_CHARS = 4096
Reason = Annotated[str, Meta(max_length=REASON_CHARS)]


class ConfigState(Message, frozen=True, kw_only=True):
    """What a service engine says it runs; `refused` and `reason` are set while it holds a newer one to be wrong."""

    applied: ConfigVersion | None = None
    refused: ConfigVersion | None = None
    reason: Reason = ""
    applied_count: Count = 0
