"""The `logs` service of a connected service engine, as a pull asks it: what changes something is signed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from avinet.controller.reverse import Reverse
from avinet.controller.sessions import Session, Sessions
from avinet.errors import Unavailable
from avinet.logs.pull.offering import wanted
from avinet.rest.client import Answer
from avinet.rest.pieces import Pieces
from avinet.ssh.opening import OpenRefused
from avinet.wire.log_pulls import LogPullOrder
from avinet.wire.pull import PAGE_LIMIT_BYTES, Acknowledgement, SegmentPage
from avinet.wire.segment import Manifest

SEAL_S = 300.0
PAGE_S = 30.0
ACKNOWLEDGE_S = 15.0


class LogSource:
    """One session of one service engine; see `avinet.logs.pull.source.Source`. A body that stalls is given up."""

    def __init__(
        self, sessions: Sessions, reverse: Reverse, session: Session, order: LogPullOrder, stalled_s: float
    ) -> None:
        self.engine = session.id
        self.generation = session.login.generation
        self._sessions = sessions
        self._reverse = reverse
        self._session = session
        self._order = order
        self._stalled_s = stalled_s

    async def seal(self) -> None:
        """See `Source`."""
        await self._signed("/v1/log-sealings", b"", SEAL_S)

    async def page(self, after: int) -> tuple[SegmentPage, int]:
        """See `Source`."""
        order = self._order
        asked = {"after": after, "since": order.since_ms, "until": order.until_ms, "service": order.service or None}
        path = "/v1/log-segments?" + urlencode({name: value for name, value in asked.items() if value is not None})
        with self._asked():
            client = self._sessions.logs(self._session)
            answer = await client.request("GET", path, timeout_s=PAGE_S, limit_bytes=PAGE_LIMIT_BYTES)
        return answer.decoded(SegmentPage, PAGE_LIMIT_BYTES), len(answer.body)

    def wanted(self, manifest: Manifest) -> bool:
        """See `Source`."""
        return wanted(manifest, self._order.since_ms, self._order.until_ms, self._order.service)

    async def open(self, manifest: Manifest, at: int) -> Pieces:
        """See `Source`."""
        headers = {"range": f"bytes={at}-", "if-range": f'"{manifest.sha256}"'} if at else {}
        path = f"/v1/log-segments/{manifest.first}-{manifest.last}"
        with self._asked():
            return await self._sessions.logs(self._session).body(path, headers=headers, stalled_s=self._stalled_s)

    async def acknowledge(self, said: Acknowledgement) -> None:
        """See `Source`."""
        await self._signed("/v1/log-acknowledgements", said, ACKNOWLEDGE_S)

    async def _signed(self, path: str, body: Any, timeout_s: float) -> Answer:
        with self._asked():
            client = self._sessions.logs(self._session)
            sign = self._reverse.signer(self._session)
            return await client.request("POST", path, body, sign=sign, timeout_s=timeout_s)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        with self._reverse.believed(self.engine):
            try:
                yield
            except OpenRefused as error:
                raise Unavailable(f"service engine {self.engine}: {error}") from error
