"""A node's side of enrolments in memory, where requests that are made at once meet in any order that is asked for."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from itertools import cycle
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from avinet.aio import Tasks, as_deferred
from avinet.enrolment.challenge import new_nonce
from avinet.enrolment.directory import Directory, Login
from avinet.enrolment.ratchets import BATCH_S, Ratchets
from avinet.enrolment.registrar import Waits
from avinet.enrolment.rotation import Rotations
from avinet.errors import AvinetError
from avinet.rest.problems import status_of
from avinet.rest.route import Request
from avinet.trust import keys
from avinet.wire.fleet import Claimed, EnrolmentPolicy
from tests.enrolment.making import PORT, Office, domain
from tests.enrolment.words import Reply
from tests.enrolment.world import LIMITS, Done, Look, Reader, Wire, rotation
from tests.store.memory import MemoryStore

SOURCE = "192.0.2.7"


class Held:
    """A store whose answers wait for one another: whoever asks has to be called before it goes on."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.waiting: list[Deferred[None]] = []
        self.holding = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("read", "range", "transact"):
            return found

        async def in_turn(*arguments: Any, **options: Any) -> Any:
            if self.holding:
                turn: Deferred[None] = Deferred()
                self.waiting.append(turn)
                await turn
            return await found(*arguments, **options)

        return in_turn


class MemoryWorld:
    """A registrar on a store in memory. Requests that are made at once meet there in any order that is asked for."""

    sessions = False

    def __init__(self) -> None:
        self.authority = f"{domain().name}:{PORT}"
        self.ids: tuple[str, ...] = ()
        self.images: dict[str, Ed25519PrivateKey] = {}

    def begin(self, ids: int) -> None:
        self.clock, self.tasks = Clock(), Tasks()
        self.store = MemoryStore(self.clock)
        self.held: Any = Held(self.store)
        self.ids = tuple(f"se-{number}" for number in range(ids))
        self.images = {f"stolen-{number}": keys.generate() for number in range(2)}
        self._open()
        self.reader = Reader(self.store, self.office.log)
        for id, key in self.images.items():
            self._done(self.office.admit_image(id=id, public_key=keys.public_line(key)))
        self._done(self.office.policy("claim", **LIMITS))
        self.look([], [])

    def _open(self) -> None:
        self.office = Office(self.held)
        self.directory = Directory(self.store, self.clock, self.tasks, lambda id, record: None)
        self._done(self.directory.start())
        self.rotations = Rotations(self.store, "node-1", self.office.now)
        self.ratchets = Ratchets(self.store, self.clock, self.tasks)
        self.clock.advance(0)

    def end(self) -> None:
        self.directory.stop()
        self.tasks.stop()

    def restart(self) -> None:
        self.directory.stop()
        time = self.office.time
        self._open()
        self.office.time = time
        self.reader.again(self.store, self.office.log)

    def _done(self, work: Coroutine[Any, Any, Any] | Deferred[Any]) -> Any:
        results: list[Any] = []
        as_deferred(work).addBoth(results.append)
        [result] = results
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def _status(self, work: Coroutine[Any, Any, Any], good: int = 200) -> Done:
        try:
            result = self._done(work)
        except AvinetError as error:
            return Done(status_of(error))
        return Done(good, result if isinstance(result, Claimed) else None)

    def now(self) -> float:
        return self.office.time

    def pass_time(self, seconds: float) -> None:
        self.office.time += seconds

    def challenge(self) -> tuple[str, float]:
        return new_nonce(domain().nonce_key, self.office.time), self.office.time

    def send(self, wires: Sequence[Wire], order: Sequence[int], lost: frozenset[int]) -> list[Reply | None]:
        self.held.holding = True
        found: list[Any] = [None] * len(wires)

        def keep(result: Any, at: int) -> None:
            found[at] = result

        for at, wire in enumerate(wires):
            as_deferred(self._answered(wire)).addBoth(keep, at)
        numbers = cycle(order or (0,))
        while self.held.waiting:
            self.held.waiting.pop(next(numbers) % len(self.held.waiting)).callback(None)
        self.held.holding = False
        for each in found:
            if isinstance(each, Failure):
                each.raiseException()
        return [None if at in lost else each for at, each in enumerate(found)]

    async def _answered(self, wire: Wire) -> Reply:
        asked = self._request(wire.path, wire.headers, wire.body, id=wire.id)
        try:
            done = await self.office.registrar.enrol(asked)
        except AvinetError as error:
            return Reply(status_of(error))
        if isinstance(done, Waits):
            return Reply(202)
        first, receipt = done
        return Reply(201 if first else 200, receipt)

    def _request(self, path: str, headers: Mapping[str, str], body: bytes, **arguments: str) -> Request:
        return Request(
            method="POST",
            path=path,
            target=path,
            authority=headers["host"],
            arguments=arguments,
            query={},
            headers=dict(headers),
            repeated=frozenset(),
            body=body,
            peer=SOURCE,
            identity=None,
        )

    def expect(self, id: str) -> Done:
        async def first() -> Claimed:
            [claimed] = await self.office.engines.expect([id], "operator", labels={}, driver="none", claim_s=3600)
            return claimed

        return self._status(first(), 201)

    def claim_anew(self, id: str) -> Done:
        return self._status(self.office.engines.claim_anew(id, 3600))

    def reset(self, id: str) -> Done:
        return self._status(self.office.engines.reset(id, "operator", 3600))

    def revoke(self, id: str) -> int:
        return self._status(self.office.engines.revoke(id, "operator")).status

    def forget(self, id: str) -> int:
        return self._status(self.office.engines.forget(id, "operator"), 204).status

    def approve(self, id: str, fingerprint: str) -> int:
        return self._status(self.office.pending.approve(id, fingerprint, "operator", {})).status

    def refuse(self, id: str, fingerprint: str) -> int:
        return self._status(self.office.pending.refuse(id, fingerprint, "operator")).status

    def change_policy(self, policy: EnrolmentPolicy) -> int:
        return self._status(self.office.policy(policy)).status

    def retire(self, image: str) -> int:
        async def both() -> None:
            await self.office.engines.retire_image(image, "operator")
            await self.office.pending.drop(image, "operator")

        return self._status(both()).status

    def look(self, ids: Sequence[str], fingerprints: Sequence[str]) -> Look:
        found: Look = self._done(self.reader.look(ids, fingerprints))
        return found

    def login(self, public_key: str) -> Login | None:
        return self.directory.login(public_key)

    def dial(self, key: Ed25519PrivateKey) -> Any:
        return self.directory.login(keys.public_line(key))

    def hello(self, tunnel: Any, ratchet: str) -> tuple[int, str]:
        turning, results = self.ratchets.turn(tunnel, ratchet), []
        turning.addBoth(results.append)
        self.clock.advance(BATCH_S)
        [result] = results
        return (200, result) if isinstance(result, str) else (status_of(result.value), "")

    def rotate(self, tunnel: Any, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> int:
        headers, body = rotation(old, new, self.office.time)
        return self._status(self.rotations.rotate(tunnel, self._request("/v1/key", headers, body), SOURCE), 204).status

    def is_lost(self, tunnel: Any, within_s: float) -> bool:
        engine = self.directory.get(tunnel.id)
        return engine is None or (engine.state, engine.generation) != ("enrolled", tunnel.generation)

    def opens(self, tunnel: Any) -> bool:
        return not self.is_lost(tunnel, 0)
