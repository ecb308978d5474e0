"""What a peer says that it offers, and the combinations of algorithms that it and we both have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product as pairs

from avinet.ssh.ciphers import authenticates
from avinet.ssh.policy import Policy


@dataclass(frozen=True)
class Offers:
    """The names of the algorithms that one end has."""

    exchanges: frozenset[str]
    ciphers: frozenset[str]
    macs: frozenset[str]

    def lack(self, least: Offers) -> list[str]:
        """Those of `least` that are not here."""
        wanted = (least.exchanges - self.exchanges, least.ciphers - self.ciphers, least.macs - self.macs)
        return sorted(name for names in wanted for name in names)


@dataclass(frozen=True)
class Combination:
    """What two ends are to agree on; `mac` is empty where the cipher needs none."""

    exchange: str
    cipher: str
    mac: str

    @property
    def identifier(self) -> str:
        """It as a part of the name of a test."""
        return re.sub(r"\W+", "_", "_".join(filter(None, (self.cipher, self.mac, self.exchange))))

    @property
    def algorithms(self) -> frozenset[str]:
        """All that it is made of."""
        return frozenset(filter(None, (self.exchange, self.cipher, self.mac)))


def exchanges(offers: Offers) -> list[str]:
    """Our key exchanges that a peer has too."""
    return [name for name in map(bytes.decode, Policy.key_exchanges) if name in offers.exchanges]


def seals(offers: Offers) -> list[tuple[str, str]]:
    """Our ciphers that a peer has too, each with every MAC that it can be used with."""
    macs = [name for name in map(bytes.decode, Policy.macs) if name in offers.macs]
    return [
        (cipher.decode(), mac)
        for cipher in Policy.ciphers
        if cipher.decode() in offers.ciphers
        for mac in ([""] if authenticates(cipher) else macs)
    ]


def product(offers: Offers) -> list[Combination]:
    """Every key exchange with every cipher and MAC."""
    return [Combination(exchange, *seal) for exchange, seal in pairs(exchanges(offers), seals(offers))]


def each_once(offers: Offers) -> list[Combination]:
    """Every key exchange and every cipher and MAC, no oftener than it takes: for peers that are slow."""
    some, others = exchanges(offers), seals(offers)
    count = max(len(some), len(others)) if some and others else 0
    return [Combination(some[at % len(some)], *others[at % len(others)]) for at in range(count)]
