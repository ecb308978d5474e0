"""OpenTelemetry over HTTP (OTLP 1.x, JSON): each batch is a request, and its answer says whether it was taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import MsgspecError

from avinet.errors import Invalid, Unavailable
from avinet.logs.export.batch import Batch
from avinet.logs.export.exporter import Sent
from avinet.logs.export.otlp_json import body, rejected
from avinet.rest.client import Client

RETRIED = (429, 502, 503, 504)
"""Statuses after which the same batch may be sent again (OTLP specification, "Failures")."""
LONGEST_WAIT_S = 3600.0


class Otlp:
    """See `Destination`. `path` is that of the collector for logs, `headers` go with each request."""

    def __init__(
        self,
        client: Client,
        path: str,
        headers: Mapping[str, str],
        engine: Callable[[], str],
        host: str,
        now: Callable[[], float],
        timeout_s: float,
    ) -> None:
        self.where = client.where
        self._client = client
        self._path = path
        self._headers = {**headers, "content-type": "application/json"}
        self._engine = engine
        self._host = host
        self._now = now
        self._timeout_s = timeout_s
        self.again = False
        self.changed: Callable[[], None] = lambda: None

    async def send(self, batch: Batch) -> Sent:
        """See `Destination`."""
        try:
            said = body(batch, self._engine(), self._host, int(self._now() * 1000))
        except MsgspecError as error:  # data planes write none of these
            raise Invalid(f"a line is no record: {error}") from error
        answer = await self._client.request(
            "POST", self._path, said, headers=self._headers, timeout_s=self._timeout_s, any_status=True
        )
        if answer.status in RETRIED:
            raise Unavailable(
                f"{self.where} answered {answer.status}", retry_after_s=_seconds(answer.headers.get("retry-after", ""))
            )
        if not 200 <= answer.status < 300:
            raise Invalid(f"{self.where} answered {answer.status}")
        refused, why = rejected(answer.body)
        return Sent(refused, f"{self.where} did not take {refused} records: {why}" if refused else "")

    async def close(self) -> None:
        """See `Destination`."""
        await self._client.close()


def _seconds(text: str) -> float:
    """What Retry-After says, if it is a number; a date is as good as nothing."""
    whole = text.isascii() and text.isdigit() and len(text) < 9
    return min(float(text), LONGEST_WAIT_S) if whole else 0.0
