"""Significant records that service engines send: looked at one by one, and handed to those who follow them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from avinet.controller.sessions import Session
from avinet.dataplane.records import Record
from avinet.errors import Invalid
from avinet.flow.allowance import Allowance
from avinet.logs.live.recent import Recent, Seen
from avinet.rest.route import Reply, Request, Route
from avinet.telemetry.counted import Counted
from avinet.wire.log import TEXT_BYTES
from avinet.wire.message import encode
from avinet.wire.significant import BATCH_LIMIT_BYTES, SeenHeldBack, SeenRecord, SignificantBatch

BURST, PER_S = 30, 4.0
"""How many batches of a service engine are looked at, at once and in the long run."""
EVENT_BYTES = 64 * 1024
"""What an event may have; a line has less than 16 KiB."""
_decoder = msgspec.json.Decoder(Record)
_NUMBER = range(-(2**63), 2**63)


def log_routes(recent: Recent, counted: Counted, now: Callable[[], float]) -> Sequence[Route]:
    """The routes of `logs` for service engines. Whose records they are is said by the session alone."""
    allowance = Allowance(now, burst=BURST, per_s=PER_S)

    async def take(request: Request) -> Reply:
        session: Session = request.identity
        allowance.take(session.id)
        batch = request.decoded(SignificantBatch)
        seen = list(events(session.id, batch, now()))
        if counted.is_new(session.id, batch.boot, batch.seq):
            recent.take(seen)
        return Reply(204)

    return [
        Route(
            "POST",
            "/v1/significant-logs",
            take,
            "Significant records of requests",
            SignificantBatch,
            status=204,
            limit_bytes=BATCH_LIMIT_BYTES,
        )
    ]


def events(id: str, batch: SignificantBatch, now: float) -> Iterator[Seen]:
    """What a batch tells of the service engine `id`. Raises `Invalid` when one of its records is none."""
    for each in batch.records:
        record = checked(each.record)
        yield _seen(id, record.service, SeenRecord(id=id, received=now, why=each.why, record=_columns(record)))
    for held in batch.held_back:
        event = SeenHeldBack(id=id, received=now, service=held.service, reason=held.reason, records=held.records)
        yield _seen(id, held.service, event)


def checked(line: bytes | msgspec.Raw) -> Record:
    """The record in a line of a peer. Raises `Invalid`: a key is missing, or a value is not what it should be."""
    try:
        record = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"one of the records is none: {str(error)[:200]}") from error
    for value in _columns(record).values():
        if isinstance(value, int):
            if value not in _NUMBER:
                raise Invalid("one of the records has a number of more than 64 bits")
        elif len(value) > TEXT_BYTES:
            raise Invalid(f"one of the records has a text of more than {TEXT_BYTES} characters")
    return record


def _columns(record: Record) -> dict[str, int | str]:
    return msgspec.structs.asdict(record)


def _seen(id: str, service: str, event: SeenRecord | SeenHeldBack) -> Seen:
    data = encode(event)
    if len(data) > EVENT_BYTES:
        raise Invalid(f"one of the records has more than {EVENT_BYTES} bytes")
    return Seen(id, service, data)
