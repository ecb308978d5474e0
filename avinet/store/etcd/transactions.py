"""Transactions whose answer may be lost: each is recognised when it is sent again, and done once at most.

With each transaction one key, a *marker*, is written: under the condition that nobody has moved it meanwhile. So of all
the times that a transaction was sent one can be done, also where an earlier one is still on its way, in a member that
was asleep. What is sent again and finds its conditions false moves the marker itself, if nobody has: then no earlier
one can be done any more, and what is said of it stands.

The values of markers begin with what tells this process from all others: if another one of the same name is at work,
then it may have moved the marker of a transaction that was done, and nobody knows.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from avinet.errors import LocalError, NotFound, Unavailable
from avinet.store.etcd.exchange import IN_FLIGHT
from avinet.store.etcd.gateway import Full, Gateway
from avinet.store.etcd.messages import (
    Compare,
    DeleteRangeRequest,
    KeyValue,
    PutRequest,
    RangeReply,
    RangeRequest,
    RequestOp,
    TxnReply,
    TxnRequest,
    last_changed,
)
from avinet.store.etcd.origin import CHANGED, Origin
from avinet.store.interface import Delete, Outcome, Put, Transaction, Uncertain, Unchanged, end_of

TRIES = 10
_OWN_BYTES, _ID_BYTES = 8, 16
_NAMESAKE = "the store is asked by another process of the same name"
_NAMESAKE_HINT = "each node has a name of its own"


@dataclass
class _Marker:
    """A key that tells one transaction from another; `revision` of its last change, as far as is known."""

    key: bytes
    revision: int = 0


@dataclass
class _Sent:
    """What was sent: the value of the marker that says it was done, and the number of the last attempt, from 0."""

    id: bytes
    attempt: int = 0


class Transactions:
    """Sends transactions through `gateway`. Keys begin with `prefix`, markers with `place`, which one process uses.

    Each has the condition `fence`, that the origin is as it was: none is done once the state has moved.
    """

    def __init__(
        self,
        gateway: Gateway,
        prefix: bytes,
        place: bytes,
        origin: Origin,
        random: Callable[[int], bytes] = os.urandom,
        fence: Compare | None = None,
    ) -> None:
        self._gateway = gateway
        self._fence = fence
        self._origin = origin
        self._prefix = prefix
        self._random = random
        self._place = place
        self._own = random(_OWN_BYTES)
        self._markers = deque(_Marker(b"%s%02d" % (place, number)) for number in range(IN_FLIGHT))

    async def open(self) -> None:
        """Take on the markers of the process that had this place before. Raises `Unavailable`."""
        look = RangeRequest(key=self._place, range_end=end_of(self._place))
        reply = await self._gateway.ask("/v3/kv/range", look, RangeReply)
        revisions = {each.key: each.mod_revision for each in reply.kvs}
        for marker in self._markers:
            marker.revision = revisions.get(marker.key, 0)

    async def transact(self, transaction: Transaction) -> Outcome:
        """See `Store.transact`; raises `Uncertain` where it is not known what became of it."""
        async with self._gateway.line:
            marker = self._markers.popleft()
            try:
                return await self._transact(transaction, marker)
            finally:
                self._markers.append(marker)

    async def _transact(self, transaction: Transaction, marker: _Marker) -> Outcome:
        deadline = self._gateway.deadline()
        for _ in range(TRIES):
            sent = _Sent(self._own + self._random(_ID_BYTES))
            asked = partial(self._request, transaction, marker, sent)
            try:
                reply = await self._gateway.ask_again("/v3/kv/txn", asked, TxnReply, deadline)
            except (NotFound, Full) as error:
                return await self._told(marker, sent, error)
            if reply.succeeded:
                marker.revision = reply.header.revision
                return Outcome(True, self._origin.of(reply.header.revision))
            if (outcome := self._failed(marker, sent, reply)) is not None:
                if not outcome.succeeded:
                    self._check_fence(reply)
                return outcome
        raise Unavailable(_NAMESAKE, hint=_NAMESAKE_HINT)

    async def _told(self, marker: _Marker, sent: _Sent, error: NotFound | Full) -> Outcome:
        """What became of it where a lease has ended, or there is no space: before any, or by one that was done."""
        look = RangeRequest(key=marker.key)
        looked = await self._gateway.ask_at_once("/v3/kv/range", look, RangeReply)
        if (outcome := self._outcome(marker, sent, looked)) is not None and outcome.succeeded:
            return outcome
        if isinstance(error, Full) and sent.attempt:  # an attempt before may find space when it arrives
            raise Uncertain(error.what, hint=error.hint, retry_after_s=error.retry_after_s) from error
        raise error

    def _request(self, transaction: Transaction, marker: _Marker, sent: _Sent, attempt: int) -> TxnRequest:
        """What etcd is asked: the only place where something that writes is put together."""
        sent.attempt = attempt
        untouched = last_changed(marker.key, marker.revision)
        fence = [] if self._fence is None else [self._fence]
        look = RequestOp(request_range=RangeRequest(key=marker.key))
        if attempt:
            void = RequestOp(request_put=PutRequest(key=marker.key, value=self._own))
            look = RequestOp(request_txn=TxnRequest(compare=[untouched], success=[void], failure=[look]))
        return TxnRequest(
            compare=[untouched, *fence, *map(self._compare, transaction.conditions)],
            success=[
                *map(self._operation, transaction.then),
                RequestOp(request_put=PutRequest(key=marker.key, value=sent.id)),
            ],
            failure=[look, *(RequestOp(request_range=RangeRequest(key=each.key)) for each in fence)],
        )

    def _compare(self, condition: Unchanged) -> Compare:
        return last_changed(self._prefix + condition.key, self._origin.condition(condition.revision))

    def _operation(self, operation: Put | Delete) -> RequestOp:
        key = self._prefix + operation.key
        if isinstance(operation, Put):
            return RequestOp(request_put=PutRequest(key=key, value=operation.value, lease=operation.lease))
        return RequestOp(request_delete_range=DeleteRangeRequest(key=key))

    def _failed(self, marker: _Marker, sent: _Sent, reply: TxnReply) -> Outcome | None:
        """What became of a transaction that was not done this time; None where the marker was moved by another one."""
        looked = reply.responses[0]
        nested = looked.response_txn
        if nested is None:
            assert looked.response_range is not None
            return self._outcome(marker, sent, looked.response_range, reply.header.revision)
        if nested.succeeded:
            marker.revision = reply.header.revision
            return Outcome(False, self._origin.of(reply.header.revision))
        [again] = nested.responses
        assert again.response_range is not None
        return self._outcome(marker, sent, again.response_range, reply.header.revision)

    def _check_fence(self, reply: TxnReply) -> None:
        """Raises `LocalError` where a transaction was not done because the state has moved."""
        for each in reply.responses[1:]:
            found = each.response_range.kvs if each.response_range is not None else []
            if self._fence is not None and (not found or found[0].mod_revision != self._fence.mod_revision):
                raise LocalError(CHANGED, hint="end this node, and see avictl store check")

    def _outcome(self, marker: _Marker, sent: _Sent, looked: RangeReply, revision: int = 0) -> Outcome | None:
        found = looked.kvs[0] if looked.kvs else KeyValue(key=marker.key)
        if found.mod_revision == marker.revision:
            return Outcome(False, self._origin.of(revision))
        marker.revision = found.mod_revision
        if found.value == sent.id:
            return Outcome(True, self._origin.of(found.mod_revision))
        if sent.attempt and not found.value.startswith(self._own):  # over one of ours that was done, or not
            raise Uncertain(_NAMESAKE, hint=_NAMESAKE_HINT)
        return None
