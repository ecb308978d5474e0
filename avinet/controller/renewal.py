"""The node's certificate is renewed while it serves: at a third of its life, again and again where that fails."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import pause
from avinet.controller.standing import Standing
from avinet.errors import AvinetError

CHECK_S = 3600.0


class Renewal:
    """Renews the certificate of `standing`; `now` is the time of day."""

    log = Logger()

    def __init__(self, clock: IReactorTime, standing: Standing, now: Callable[[], float]) -> None:
        self._clock = clock
        self._standing = standing
        self._now = now

    async def keep(self) -> None:
        """Look each hour, for ever. What cannot be written now, as the disk is full, may be an hour later."""
        while True:
            await pause(self._clock, CHECK_S)
            domain = self._standing.domain
            try:
                renewed = domain.renewed(datetime.fromtimestamp(self._now(), UTC))
            except AvinetError as error:
                self.log.error(
                    "the node's certificate, valid until {until}, was not renewed: {why}",
                    until=f"{domain.server.certificate.not_valid_after_utc:%Y-%m-%d %H:%M}Z",
                    why=str(error),
                )
                continue
            if renewed is not domain:
                self._standing.replace(renewed)
                self.log.info("the node's certificate was renewed")
