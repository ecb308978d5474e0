"""The ratchet: each hello is answered with a secret for the next one, so that a copy of a disk falls behind.

`ratchet/ID` has digests: of the secret that was shown last, and of those that were given for it, of which the service
engine has one, or none when the answer was lost. Whoever shows another one has the key of a service engine and not its
memory: a copied disk, or a snapshot; or it is the original, and a copy was here before it. Those that come at once are
written in one transaction.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from avinet.aio import Tasks
from avinet.enrolment.directory import Login
from avinet.enrolment.records import Record, put_record, ratchet_key
from avinet.errors import AvinetError, Conflict, Unavailable
from avinet.store.interface import OPERATIONS, Entry, Put, Store, Transaction, Unchanged

BATCH_S = 0.01
"""How long a hello waits for others."""
_TOGETHER = OPERATIONS // 2
_RACES = 10
GIVEN = 4
"""How many answers to the same hello are remembered."""


class RatchetRecord(Record, frozen=True, kw_only=True):
    """Digests of what the key with this fingerprint has shown last, empty for a first hello, and was given for it."""

    fingerprint: str
    given: list[str]
    shown: str = ""


class Outdated(Conflict):
    """The secret is neither of the last two: somebody else has the key too."""


class Ratchets:
    """Turns ratchets; `random` makes secrets."""

    def __init__(
        self, store: Store, clock: IReactorTime, tasks: Tasks, random: Callable[[int], str] = secrets.token_urlsafe
    ) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._random = random
        self._waiting: list[_Turn] = []

    def turn(self, login: Login, shown: str) -> Deferred[str]:
        """The next secret of a service engine that has shown its last one, once it is stored.

        Fails with `Outdated`, and with `Unavailable` when the store cannot be written.
        """
        turn = _Turn(login, shown, self._random(24))
        self._wait(turn)
        return turn.done

    async def known(self, login: Login) -> bool:
        """Whether the key of `login` has said hello before. Raises `Unavailable`."""
        place = ratchet_key(login.id)
        entry = (await self._store.read([place])).entries.get(place)
        return (
            entry is not None and msgspec.json.decode(entry.value, type=RatchetRecord).fingerprint == login.fingerprint
        )

    def _wait(self, turn: _Turn) -> None:
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._clock.callLater(BATCH_S, self._begin)

    def _begin(self) -> None:
        """Those that wait, but for second ones of the same service engine, which go on waiting."""
        waiting, self._waiting = self._waiting, []
        firsts: dict[bytes, _Turn] = {}
        for turn in waiting:
            if firsts.setdefault(turn.place, turn) is not turn:
                self._wait(turn)
        turns = list(firsts.values())
        for at in range(0, len(turns), _TOGETHER):
            self._tasks.spawn(self._batch(turns[at : at + _TOGETHER]), "turning ratchets")

    async def _batch(self, turns: Sequence[_Turn]) -> None:
        """Turn all of them in one transaction; where another node has come between, one by one."""
        try:
            left = await self._attempt(turns)
            for turn in left:
                for _ in range(_RACES):
                    if not await self._attempt([turn]):
                        break
                else:
                    turn.fail(Unavailable(f"too many hellos of {turn.login.id} race"))
        except AvinetError as error:
            for turn in turns:
                turn.fail(Unavailable(error.what))
        finally:
            for turn in turns:
                turn.fail(Unavailable("the node has ended its work on this"))

    async def _attempt(self, turns: Sequence[_Turn]) -> Sequence[_Turn]:
        """Those that could not be turned, as the store has changed meanwhile."""
        entries = (await self._store.read([turn.place for turn in turns])).entries
        good = [turn for turn in turns if turn.fits(entries.get(turn.place))]
        if not good:
            return ()
        done = await self._store.transact(
            Transaction(
                tuple(Unchanged(turn.place, _revision(entries.get(turn.place))) for turn in good),
                tuple(turn.put for turn in good),
            )
        )
        if not done.succeeded:
            return good
        for turn in good:
            turn.done.callback(turn.secret)
        return ()


class _Turn:
    """One hello that waits for its answer."""

    def __init__(self, login: Login, shown: str, secret: str) -> None:
        self.login, self.secret = login, secret
        self.place = ratchet_key(login.id)
        self.done: Deferred[str] = Deferred()
        self._shown = digest(shown)
        self._given: list[str] = []

    def fits(self, entry: Entry | None) -> bool:
        """Whether the secret that was shown is one of the last two; if not, the hello has failed."""
        record = msgspec.json.decode(entry.value, type=RatchetRecord) if entry is not None else None
        self._given = []
        if record is None or record.fingerprint != self.login.fingerprint or self._shown in record.given:
            return True
        if self._shown == record.shown:  # an answer was lost, or is late: any of them may be the one that it has
            self._given = record.given[1 - GIVEN :]
            return True
        self.fail(
            Outdated(
                f"{self.login.id} has shown an outdated secret: it is a copy, or was copied, or its state is old",
                hint="see the recipe for a cloned service engine",
            )
        )
        return False

    def fail(self, error: AvinetError) -> None:
        """There is no answer, unless there was one."""
        if not self.done.called:
            self.done.errback(error)

    @property
    def put(self) -> Put:
        """What is stored with the answer."""
        record = RatchetRecord(
            fingerprint=self.login.fingerprint, given=[*self._given, digest(self.secret)], shown=self._shown
        )
        return put_record(self.place, record)


def digest(secret: str) -> str:
    """What is stored of a secret; nothing for none."""
    return hashlib.sha256(secret.encode("utf-8")).hexdigest() if secret else ""


def _revision(entry: Entry | None) -> int:
    return entry.revision if entry is not None else 0
