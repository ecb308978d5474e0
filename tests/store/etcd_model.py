"""A gateway to a model of etcd whose answers are lost, and which does late what it was asked long ago."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avinet.aio import Slots
from avinet.errors import NotFound
from avinet.store.etcd.exchange import IN_FLIGHT
from avinet.store.etcd.gateway import Full
from avinet.store.etcd.messages import (
    Compare,
    Header,
    KeyValue,
    RangeReply,
    RangeRequest,
    RequestOp,
    ResponseOp,
    TxnReply,
    TxnRequest,
)
from avinet.store.interface import Uncertain


class Model:
    """The keys of one etcd, and what a transaction does to them."""

    def __init__(self) -> None:
        self.revision = 1
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: set[int] = set()
        self.history: list[tuple[bytes, bytes]] = []

    def range(self, request: RangeRequest) -> RangeReply:
        end = request.range_end or request.key + b"\0"
        found = [self.keys[key] for key in sorted(self.keys) if request.key <= key < end]
        return RangeReply(header=Header(revision=self.revision), kvs=found)

    def txn(self, request: TxnRequest) -> TxnReply:
        before = self.revision
        self._check(request)
        reply = self._txn(request, before + 1)
        return TxnReply(header=Header(revision=self.revision), succeeded=reply.succeeded, responses=reply.responses)

    def _holds(self, compare: Compare) -> bool:
        assert (compare.target, compare.result) == ("MOD", "EQUAL")
        found = self.keys.get(compare.key)
        return (found.mod_revision if found else 0) == compare.mod_revision

    def _branch(self, request: TxnRequest) -> tuple[bool, list[RequestOp]]:
        succeeded = all(map(self._holds, request.compare))
        return succeeded, request.success if succeeded else request.failure

    def _check(self, request: TxnRequest) -> None:
        for each in self._branch(request)[1]:
            if each.request_put is not None and each.request_put.lease and each.request_put.lease not in self.leases:
                raise NotFound("the lease has ended")

    def _txn(self, request: TxnRequest, revision: int) -> TxnReply:
        succeeded, operations = self._branch(request)
        return TxnReply(succeeded=succeeded, responses=[self._done(each, revision) for each in operations])

    def _done(self, operation: RequestOp, revision: int) -> ResponseOp:
        if operation.request_range is not None:
            return ResponseOp(response_range=self.range(operation.request_range))
        if operation.request_txn is not None:
            return ResponseOp(response_txn=self._txn(operation.request_txn, revision))
        if (put := operation.request_put) is not None:
            old = self.keys.get(put.key)
            created = old.create_revision if old else revision
            self.keys[put.key] = KeyValue(
                key=put.key, value=put.value, create_revision=created, mod_revision=revision, lease=put.lease
            )
            self.revision = revision
            self.history.append((put.key, put.value))
        elif (delete := operation.request_delete_range) is not None and self.keys.pop(delete.key, None):
            self.revision = revision
        return ResponseOp()


class LosingGateway:
    """Asks the model. `fates` says of each attempt what becomes of it, and answers when there are no more of them.

    `answer`; `lose` what was done; `drop` it before it was done; `late`: it is done at some later attempt; `fill`: it is
    done, and said that there is no space left, as etcd does; `refuse` it for that; or something else happens first.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.line = Slots(IN_FLIGHT)
        self.fates: list[str | Callable[[], None]] = []
        self.late: list[TxnRequest] = []
        self.patience = 6

    async def ask(self, path: str, request: Any, into: type[Any]) -> Any:
        assert path == "/v3/kv/range"
        return self.model.range(request)

    ask_at_once = ask

    def deadline(self) -> float:
        return 0.0

    async def ask_again(
        self, path: str, request: Callable[[int], Any], into: type[Any], deadline: float | None = None
    ) -> Any:
        assert path == "/v3/kv/txn"
        for attempt in range(self.patience):
            asked = request(attempt)
            fate = self.fates.pop(0) if self.fates else "answer"
            if fate == "late":
                self.late.append(asked)
            elif fate in ("lose", "answer"):
                reply = self.model.txn(asked)
                if fate == "answer":
                    return reply
            elif fate == "wake":
                self.wake()
            elif fate in ("fill", "refuse"):
                if fate == "fill":
                    self.model.txn(asked)
                raise Full("etcd is full")
            elif callable(fate):
                fate()
        raise Uncertain("no answer")

    def wake(self) -> None:
        """What was on its way all the time arrives."""
        late, self.late = self.late, []
        for each in late:
            self.model.txn(each)
