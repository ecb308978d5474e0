"""Watches on etcd: each on a stream of its own, which begins anew behind the last event where it broke off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.aio import Tasks, pause
from avinet.backoff import Backoff
from avinet.errors import AvinetError
from avinet.store.etcd import messages
from avinet.store.etcd.exchange import Lost, Stream
from avinet.store.etcd.gateway import Gateway
from avinet.store.etcd.messages import Streamed, WatchCreateRequest, WatchReply, WatchRequest, decoded
from avinet.store.etcd.origin import Origin
from avinet.store.interface import Compacted, Event, Seen, end_of

RETRY = Backoff(first_s=0.1, cap_s=2)


class EtcdWatch:
    """A watch on the keys that begin with `place` + `prefix`; see `avinet.store.interface.Watch`.

    It outlives any member: only a compaction ends it, and what `seen` raises.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        gateway: Gateway,
        origin: Origin,
        place: bytes,
        prefix: bytes,
        revision: int,
        seen: Seen,
        stopped: Callable[[EtcdWatch], None],
        random: Callable[[], float],
    ) -> None:
        self.failed: Deferred[None] = Deferred()
        self._clock = clock
        self._gateway = gateway
        self._origin = origin
        self._place = place
        self._prefix = place + prefix
        self._revision = revision
        self._seen = seen
        self._stopped = stopped
        self._random = random
        self._stream: Stream | None = None
        self._over = False
        self._tasks = Tasks()
        self._tasks.spawn(self._keep(), "watching the store", self._fail)

    def stop(self) -> None:
        """See no more events."""
        self._over = True
        self._tasks.stop()
        self.move()
        self._stopped(self)

    def move(self) -> None:
        """Begin anew, at the member that is asked now."""
        if self._stream is not None:
            self._stream.end("another member is asked now")

    def _fail(self, failure: Failure) -> None:
        if not self._over:
            self.stop()
            self.failed.errback(failure)

    async def _keep(self) -> None:
        if self._revision < self._origin.revision:
            raise Compacted(f"the history before revision {self._origin.revision} is not in etcd")
        failures = 0
        while True:
            endpoint, before = self._gateway.endpoint, self._revision
            try:
                self._stream = await self._gateway.stream(endpoint, "/v3/watch", self._request(), self._line)
            except Lost as error:
                self._gateway.leave(endpoint, error.what)
            else:
                if endpoint != self._gateway.endpoint:  # it was left while the stream began
                    self.move()
                await self._stream.ended
                if self._stream.too_long:
                    raise Compacted("the history that was asked for is too long to be sent at once")
                self._stream = None
                failures = failures if self._revision == before else 0
            await pause(self._clock, RETRY.delay_s(failures, self._random))
            failures += 1

    def _request(self) -> WatchRequest:
        return WatchRequest(
            create_request=WatchCreateRequest(
                key=self._prefix,
                range_end=end_of(self._prefix),
                start_revision=self._origin.etcd(self._revision) + 1,
                progress_notify=True,
            )
        )

    def _line(self, line: bytes) -> None:
        try:
            self._take(decoded(line, Streamed))
        except AvinetError as error:
            self.log.warn("the watch on {prefix} begins anew: {why}", prefix=self._prefix.decode(), why=str(error))
            self.move()

    def _take(self, streamed: Streamed) -> None:
        if streamed.error is not None or not streamed.result:
            raise Lost(f"etcd has ended it: {streamed.error}")
        reply = decoded(streamed.result, WatchReply)
        if reply.compact_revision:
            self._fail(Failure(Compacted(f"the history before revision {reply.compact_revision} is gone")))
        elif reply.canceled:
            raise Lost(f"etcd has ended it: {reply.cancel_reason or 'no reason given'}")
        elif reply.events:
            self._deliver([self._event(each) for each in reply.events])
        elif not reply.created:  # all events up to here were sent
            self._revision = max(self._revision, self._origin.of(reply.header.revision))

    def _deliver(self, events: list[Event]) -> None:
        fresh = [each for each in events if each.revision > self._revision]
        if not fresh or self._over:
            return
        self._revision = fresh[-1].revision
        try:
            self._seen(fresh)
        except Exception:  # the edge: one watcher's fault must not keep the events from the others
            self._fail(Failure())

    def _event(self, event: messages.Event) -> Event:
        entry = self._origin.entry(event.kv, self._place)
        return Event(entry.key, entry.revision, None if event.type == "DELETE" else entry)
