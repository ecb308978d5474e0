"""Lines of request logs as a busy service engine writes them: made up, always the same, about 500 bytes each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

_AGENTS = [
    f"Mozilla/5.0 ({system}) AppleWebKit/{kit} (KHTML, like Gecko) {browser}/{number}.0.{number % 7} Safari/{kit}"
    for system in ("Windows NT 10.0; Win64; x64", "X11; Linux x86_64", "Macintosh; Intel Mac OS X 10_15_7")
    for kit in ("537.36", "605.1.15")
    for browser in ("Chrome", "Edg")
    for number in range(118, 133)
]
_PLACES = ("products", "orders", "users", "search", "images", "cart", "reviews", "sessions")
START_MS = 1_795_000_000_000
CLIENTS = 20_000


def lines(count: int, seed: int = 1, start_ms: int = START_MS) -> Iterator[bytes]:
    """`count` records of the same 20,000 clients, about 2,000 a second by their times, each a line without its end."""
    chance, known = random.Random(seed), random.Random(1)
    time_ms = float(start_ms)
    clients = [f"{a}.{b}.{c}.{d}" for a, b, c, d in (known.randbytes(4) for _ in range(CLIENTS))]
    for _ in range(count):
        time_ms += chance.expovariate(2.0)
        yield json.dumps(_record(chance, int(time_ms), clients), separators=(",", ":")).encode()


def _record(chance: random.Random, time_ms: int, clients: list[str]) -> dict[str, object]:
    service = min(int(chance.expovariate(0.3)), 19)
    place = chance.choice(_PLACES)
    status = chance.choices((200, 304, 404, 302, 500, 503), (85, 6, 4, 3, 1, 1))[0]
    response = int(chance.lognormvariate(3, 1))
    return {
        "t": time_ms,
        "s": f"shop-{service}",
        "p": f"shop-{service}-pool",
        "b": f"web-{chance.randrange(8)}",
        "c": chance.choice(clients),
        "cp": chance.randrange(32768, 61000),
        "m": chance.choices(("GET", "POST", "PUT", "HEAD"), (85, 12, 2, 1))[0],
        "h": f"www{service}.shop.example.com",
        "u": f"/api/v1/{place}/{min(int(chance.expovariate(0.001)), 50_000)}",
        "q": f"page={chance.randrange(20)}&sort=price" if place == "search" else "",
        "v": "HTTP/2.0" if chance.random() < 0.8 else "HTTP/1.1",
        "st": status,
        "i": 300 + chance.randrange(400),
        "o": int(chance.lognormvariate(8, 1)) if status == 200 else 180,
        "tr": 0,
        "tw": 0 if chance.random() < 0.97 else chance.randrange(50),
        "tc": chance.choices((0, 1, 2), (80, 18, 2))[0],
        "tp": response,
        "ta": response + min(int(chance.expovariate(0.2)), 500),
        "tv": "TLSv1.3",
        "tk": "TLS_AES_128_GCM_SHA256",
        "n": f"www{service}.shop.example.com",
        "x": "--",
        "r": 0,
        "qs": 0,
        "qb": 0,
        "a": _AGENTS[min(int(chance.expovariate(0.05)), len(_AGENTS) - 1)],
        "f": f"https://www{service}.shop.example.com/{place}" if chance.random() < 0.6 else "",
        "id": chance.randbytes(16).hex(),
    }
