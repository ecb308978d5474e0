"""A compiled configuration as HAProxy's: every line is made here, and values reach it only through types that hold no
space, quote or newline. Proxies are named `f-SERVICE`, `http.POOL` and `tcp.POOL`: a pool serves both modes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from avinet.dataplane.log_format import log_directives
from avinet.dataplane.tls import CIPHERS, SUITES
from avinet.wire.config import Config, Pool, Route, Server, Tls, VirtualService

STATS_SOCKET, MASTER_SOCKET, RECORDS_SOCKET = "stats.sock", "master.sock", "records.sock"
STATE_FILE = "server-state"
FRONTEND = "f-"
"""What the name of a frontend begins with."""
KEYS = "keys"
"""The folder of certificates with their keys, and of lists of them."""
LINE_BYTES = 65535
RING = "records"
RING_BYTES = 32 * 1024 * 1024
"""How much of the records waits for their reader: at 75,000 a second, for as long as 0.8 s."""
_RELAY_SOCKET, RELAY = "relay.sock", "records.relay"
"""What stands between the ring of records and their reader, who may be away."""
_GROUPS = "X25519:prime256v1:secp384r1"
_BALANCE = {"round-robin": "roundrobin", "least-connections": "leastconn"}
_DESCRIPTION = "    description "
_HEAD = f"""\
global
    stats socket unix@{STATS_SOCKET} mode 600 level admin expose-fd listeners
    server-state-file {STATE_FILE}
    log ring@{RING} len {LINE_BYTES} format raw local0
    hard-stop-after 10m
ring {RING}
    format raw
    maxlen {LINE_BYTES}
    size {RING_BYTES}
    timeout connect 5s
    timeout server 20d
    server relay unix@{_RELAY_SOCKET}
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout queue 10s
    option redispatch
    retries 2
    load-server-state-from-file global
# A ring that cannot connect tries again at once, for ever, with all of a core; and what it has handed on is lost when
# that connection ends. So this one takes it, and waits with what it has taken until its reader is there: while that is
# away each attempt goes to port 0, on which nobody can listen, and which HAProxy tries again later.
listen {RELAY}
    mode tcp
    bind unix@{_RELAY_SOCKET} mode 600
    load-server-state-from-file none
    option redispatch 1
    retries 1000000000
    timeout connect 250ms
    timeout client 20d
    timeout server 20d
    default-server check inter 2s downinter 250ms rise 1 fall 1 observe layer4 error-limit 1 on-error mark-down
    server se unix@{RECORDS_SOCKET}
    server nobody ipv4@127.0.0.1:0 backup no-check
"""


def render(config: Config) -> str:
    """The text of `haproxy.cfg`; sockets and files in it are beneath HAProxy's working folder.

    Its `description` is the digest of all the rest: `show info` says it of the workers that run.
    """
    pools = {pool.name: pool for pool in config.pools}
    lines = _HEAD.splitlines()
    used: set[tuple[str, str]] = set()
    for service in config.virtual_services:
        lines += _frontend(service)
        used |= {(service.mode, name) for name in _pools_of(service)}
    # A pool that no service uses yet is checked all the same.
    used |= {("tcp", name) for name in pools.keys() - {name for _, name in used}}
    for mode, name in sorted(used):
        lines += _backend(mode, pools[name])
    digest = hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()
    return "\n".join([lines[0], _DESCRIPTION + digest, *lines[1:]]) + "\n"


def described(text: str) -> str:
    """The digest in the text of a configuration; empty where there is none."""
    return next((line.removeprefix(_DESCRIPTION) for line in text.splitlines() if line.startswith(_DESCRIPTION)), "")


def first_of_backends(config: Config) -> dict[str, str]:
    """The virtual service that uses a backend, by the name of that; the first one of several."""
    found: dict[str, str] = {}
    for service in config.virtual_services:
        for name in _pools_of(service):
            found.setdefault(f"{service.mode}.{name}", service.name)
    return found


def _pools_of(service: VirtualService) -> Iterator[str]:
    if service.pool is not None:
        yield service.pool
    yield from (route.pool for route in service.routes)


def _frontend(service: VirtualService) -> Iterator[str]:
    yield f"frontend {FRONTEND}{service.name}"
    yield f"    mode {service.mode}"
    yield f"    bind {bind_address(service)}" + (_tls(service, service.tls) if service.tls else "")
    yield from (f"    {each}" for each in log_directives(service))
    if service.mode == "http":
        yield "    option forwardfor"
        if service.tls:
            yield "    http-request set-header x-forwarded-proto https"
        yield "    option http-keep-alive"
        for route in service.routes:
            yield from _use(route)
    if service.pool is not None:
        yield f"    default_backend {service.mode}.{service.pool}"


def bind_address(service: VirtualService) -> str:
    """The address and port of a listener, as HAProxy writes it."""
    if ":" in service.address:
        return f"ipv6@[{service.address}]:{service.port}"
    return f"ipv4@{service.address}:{service.port}"


def _tls(service: VirtualService, tls: Tls) -> str:
    """What makes a listener end TLS. HTTP/2 is for HTTP alone."""
    words = [
        f"ssl crt-list {list_file(tls)} ssl-min-ver TLSv{tls.minimum}",
        f"ciphers {CIPHERS} ciphersuites {SUITES} curves {_GROUPS} prefer-client-ciphers no-tls-tickets",
        *(["alpn h2,http/1.1"] if service.mode == "http" else []),
    ]
    return " " + " ".join(words)


def key_file(name: str) -> str:
    """Where HAProxy reads the certificate called `name`; its runtime API calls it the same."""
    return f"{KEYS}/{name}.pem"


def crt_list(tls: Tls) -> str:
    """The list of certificates of a listener: the first one is for all names that no other one has."""
    return "".join(f"{key_file(name)}\n" for name in tls.certificates)


def list_file(tls: Tls) -> str:
    """Where HAProxy reads that list; another list has another name."""
    return f"{KEYS}/{hashlib.sha256(crt_list(tls).encode('ascii')).hexdigest()[:32]}.list"


def _use(route: Route) -> Iterator[str]:
    """The lines for a route: the path itself, and what is below it, are two conditions."""
    if route.host.startswith("*."):
        host = f" {{ req.hdr(host),field(1,:),lower -m end {route.host[1:]} }}"
    else:
        host = f" {{ req.hdr(host),field(1,:),lower -m str {route.host} }}" if route.host else ""
    path = route.path.rstrip("/")
    paths = [f" {{ path -m str {path} }}", f" {{ path -m beg {path}/ }}"] if path else [""]
    for each in paths:
        condition = host + each
        yield f"    use_backend http.{route.pool}" + (f" if{condition}" if condition else "")


def _backend(mode: str, pool: Pool) -> Iterator[str]:
    check = pool.health_check
    yield f"backend {mode}.{pool.name}"
    yield f"    mode {mode}"
    yield f"    balance {_BALANCE[pool.balance]}"
    if check.kind == "http":
        yield "    option httpchk"
        yield f"    http-check send meth GET uri {check.path} ver HTTP/1.1 hdr host {pool.name}"
        yield "    http-check expect status 200-399"
    yield f"    timeout check {check.timeout_ms}ms"
    if mode == "http":
        yield "    http-reuse safe"
    for server in pool.servers:
        yield f"    server {server.name} {_server_address(server)} weight {server.weight} check " + (
            f"inter {check.interval_ms}ms rise {check.rise} fall {check.fall} init-addr last,libc,none"
        )


def _server_address(server: Server) -> str:
    if ":" in server.address:
        return f"ipv6@[{server.address}]:{server.port}"
    return f"{server.address}:{server.port}"
