"""Enrols service engines, each as one that has just booted does it: python -m bench.newborns FOLDER AT_ONCE

FOLDER has `nodes.json`, `roots.pem` and `image.key` of an image whose id is in `image`, and `claims.json`, the claims
of those that are expected. Each makes its key, opens a TLS connection of its own, asks for a challenge, and sends what
both keys have signed. The process begins when a line comes on its standard input, and prints how many got a receipt.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import gatherResults

from avinet import loop
from avinet.aio import as_deferred
from avinet.enrolment.client import tls_client
from avinet.trust import keys, signatures
from avinet.trust.path import parse_certificates
from avinet.trust.signatures import SignedRequest
from avinet.wire.enrolment import Challenge, EnrolmentRequest
from avinet.wire.fleet import Claimed
from avinet.wire.message import decode, encode
from avinet.wire.trust import Node

reactor: Any = loop.reactor()


class Newborns:
    """Those that are to be enrolled, at a node that is known from the image."""

    def __init__(self, folder: Path) -> None:
        self.image = (folder / "image").read_text()
        self.image_key = keys.load_private(folder / "image.key")
        self.roots: list[x509.Certificate] = parse_certificates((folder / "roots.pem").read_bytes(), "roots.pem")
        [self.node] = decode((folder / "nodes.json").read_bytes(), list[Node], limit_bytes=10**6)
        claims = decode((folder / "claims.json").read_bytes(), list[Claimed], limit_bytes=10**7)
        self._left: Iterator[tuple[Claimed, Ed25519PrivateKey]] = iter([(each, keys.generate()) for each in claims])
        self._host_key = keys.public_line(keys.generate())
        self.enrolled = 0

    async def work(self) -> None:
        """Enrol one after the other, as long as there are any."""
        for claimed, key in self._left:
            await self._enrol(claimed, key)
            self.enrolled += 1

    async def _enrol(self, claimed: Claimed, key: Ed25519PrivateKey) -> None:
        node = self.node
        client = tls_client(reactor, node, node.https[0], self.roots, datetime.fromtimestamp(time.time(), UTC))
        try:
            challenge = (await client.request("GET", "/v1/enrol/challenge")).decoded(Challenge)
            line = keys.public_line(key)
            body = encode(
                EnrolmentRequest(
                    id=claimed.id,
                    generation=claimed.generation,
                    nonce=challenge.nonce,
                    claim=claimed.claim,
                    image=self.image,
                    ssh_public_key=line,
                    ssh_host_public_key=self._host_key,
                    request_id="r" * 22,
                )
            )
            authority = f"{node.name}:{node.https[0].rpartition(':')[2]}"
            path = f"/v1/service-engines/{claimed.id}/enrolment"
            request = SignedRequest("POST", authority, path, {"content-type": "application/json", "host": authority})
            for kind, signer, keyid in (
                (signatures.BY_IMAGE, self.image_key, self.image),
                (signatures.BY_ENGINE, key, keys.fingerprint(line)),
            ):
                signatures.sign(request, body, kind, signer, keyid, now=challenge.server_time, nonce=challenge.nonce)
            answer = await client.request("POST", path, body, headers=request.headers, timeout_s=60)
            assert answer.status == 201
        finally:
            await client.close()


async def main(folder: str, at_once: str) -> None:
    """See the module."""
    newborns = Newborns(Path(folder))
    print("ready", flush=True)
    sys.stdin.readline()
    await gatherResults([as_deferred(newborns.work()) for _ in range(int(at_once))])
    print(newborns.enrolled, flush=True)


if __name__ == "__main__":
    running = as_deferred(main(*sys.argv[1:]))
    running.addErrback(lambda failure: print(failure.getTraceback(), flush=True))
    running.addBoth(lambda _: reactor.callLater(0, reactor.stop))
    reactor.run()
