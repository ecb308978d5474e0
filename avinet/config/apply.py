"""Side of the service engine: one configuration at a time, checked, applied, remembered, and only then acknowledged.

The file holds the last version that was applied. It is written when the data plane runs it, and before the node hears
of it: whenever the process dies, what was acknowledged is what comes up again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.aio import Tasks, within
from avinet.backoff import Backoff
from avinet.config.compile import CONFIG_LIMIT_BYTES
from avinet.errors import AvinetError, Invalid, TimedOut, Unavailable
from avinet.files import read_limited, write_atomic
from avinet.wire.config import REASON_CHARS, Config, ConfigPush, ConfigState, ConfigVersion
from avinet.wire.message import decode, encode

FILE_LIMIT_BYTES = 3 * CONFIG_LIMIT_BYTES
RETRY = Backoff(first_s=1.0, cap_s=30.0)
STOP_S = 30.0
"""How long the end of the process waits for a configuration that is being applied."""

InThread = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs what blocks, away from the reactor."""


class Dataplane(Protocol):
    """What is needed of the load balancer; see `avinet.dataplane.interface.Dataplane`."""

    async def start(self, config: Config) -> None:
        """Attach to what runs already, or start it, and bring it to `config`.

        Raises `Invalid` when it cannot run that; it then runs nothing, and `apply` may be tried.
        """

    async def check(self, config: Config) -> None:
        """Raises `Invalid`, saying in a line why `config` cannot run."""

    async def apply(self, config: Config) -> None:
        """Change to `config`. Raises `Invalid`, and then the last good one goes on."""


@dataclass(frozen=True)
class Verified:
    """A configuration that is what its version says; without a push the empty one, before the first."""

    config: Config
    push: ConfigPush | None = None

    @property
    def version(self) -> ConfigVersion | None:
        """The version that was pushed."""
        return self.push.version if self.push else None


def verified(push: ConfigPush) -> Verified:
    """`push`, when its text is the configuration that its version names. Raises `Invalid` or `TooLarge`."""
    encoded = push.config.encode()
    if hashlib.sha256(encoded).hexdigest() != push.version.sha256:
        raise Invalid(f"configuration {push.version.revision} is not what its SHA-256 says")
    return Verified(decode(encoded, Config, limit_bytes=CONFIG_LIMIT_BYTES, what="configuration"), push)


class Applier:
    """Applies what is pushed to `dataplane`; `file` remembers the last good version.

    The data plane is started with the last good version, or with the first that is pushed. `applied` is told of each
    that runs, once it is remembered.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        dataplane: Dataplane,
        file: Path,
        in_thread: InThread,
        random: Callable[[], float],
        applied: Callable[[Config], None],
    ) -> None:
        self._clock = clock
        self._dataplane = dataplane
        self._file = file
        self._in_thread = in_thread
        self._random = random
        self._applied = applied
        self._started = False
        self._last_good = Verified(Config())
        self._runs_last_good = True
        self._failures = 0
        self._state = ConfigState()
        self._next: tuple[Verified, Deferred[None]] | None = None
        self._wake: Deferred[None] | None = None
        self._stopping = False
        self._tasks = Tasks()
        self._ended: Deferred[None] | None = None

    @property
    def state(self) -> ConfigState:
        """What runs, and what was refused last."""
        return self._state

    @property
    def config(self) -> Config | None:
        """The last good configuration; None before the first."""
        return self._last_good.config if self._last_good.push else None

    def start(self) -> Deferred[None]:
        """Run the last good version, and from now on what is pushed; fires when the first has been tried."""
        begun: Deferred[None] = Deferred()
        self._ended = self._tasks.spawn(self._work(begun), "applying configurations")
        return begun

    async def stop(self) -> None:
        """Finish what is being applied, and apply no more; what runs goes on."""
        self._stopping = True
        self._follow_with(None)
        if self._ended is not None:
            try:
                await within(self._clock, STOP_S, self._ended, "the data plane")
            except TimedOut as error:
                self.log.warn("{reason}", reason=str(error))
        self._tasks.stop()

    async def configure(self, push: ConfigPush) -> ConfigState:
        """Apply `push`; the state afterwards is the acknowledgement. What runs already is acknowledged at once.

        It goes on when the caller is cancelled. Raises `Invalid` or `TooLarge` when it was refused, and `LocalError`
        when it could not be remembered: the last good version runs on; `Unavailable` when a newer one came in between.
        """
        try:
            job = verified(push)
        except AvinetError as error:
            self._refuse(push.version, error)
            raise
        if self._stopping or (self._next is not None and _revision(self._next[0]) > push.version.revision):
            raise _overtaken(job)
        done: Deferred[None] = Deferred()
        self._follow_with((job, done))
        await done
        return self._state

    def try_again(self) -> None:
        """What kept the last good version from running may be gone: try at once."""
        if not self._runs_last_good:
            self._awaken()

    def _follow_with(self, following: tuple[Verified, Deferred[None]] | None) -> None:
        """The newest one waits for its turn; the one that waited has been overtaken."""
        waiting, self._next = self._next, following
        if waiting is not None and not waiting[1].called:
            waiting[1].errback(_overtaken(waiting[0]))
        self._awaken()

    def _awaken(self) -> None:
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake.callback(None)

    async def _work(self, begun: Deferred[None]) -> None:
        self._read()
        while not self._stopping:
            if self._next is not None:
                (job, done), self._next = self._next, None
                await self._tasks.spawn(self._take(job, done), f"configuration {_revision(job)}", _tell(done))
            elif not self._runs_last_good:
                await self._tasks.spawn(self._restore(), "the last good configuration", self._not_restored)
            if not begun.called:
                begun.callback(None)
            if self._next is None:
                await self._rest()

    async def _rest(self) -> None:
        """Wait for the next push; while the last good version does not run, no longer than until the next try."""
        if self._stopping or (not self._runs_last_good and not self._failures):
            return
        wake = self._wake = Deferred[None]()
        timer = None
        if not self._runs_last_good:
            timer = self._clock.callLater(RETRY.delay_s(self._failures - 1, self._random), self._awaken)
        try:
            await wake
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    def _read(self) -> None:
        """Read the last good version; a file that cannot be used is left, and what runs is left as it is."""
        if not self._file.exists():
            return
        try:
            push = decode(
                read_limited(self._file, FILE_LIMIT_BYTES), ConfigPush, limit_bytes=FILE_LIMIT_BYTES, what="file"
            )
            self._last_good = verified(push)
        except AvinetError as error:
            self.log.error(
                "the last good configuration in {file} is lost: {reason}", file=str(self._file), reason=str(error)
            )
        else:
            self._runs_last_good = False

    async def _run(self, config: Config) -> None:
        """Bring the data plane to `config`."""
        if self._started:
            await self._dataplane.apply(config)
            return
        try:
            await self._dataplane.start(config)
        except Invalid:
            self._started = True
            raise
        self._started = True

    async def _take(self, job: Verified, done: Deferred[None]) -> None:
        """Apply a version that was pushed, unless it runs already, and say so."""
        if job.version != self._last_good.version or not self._runs_last_good:
            await self._apply(job)
        if not done.called:
            done.callback(None)

    async def _apply(self, job: Verified) -> None:
        """Apply a version that was pushed, and remember it."""
        assert job.push is not None
        try:
            if _revision(job) < _revision(self._last_good):
                raise Invalid(f"configuration {_revision(job)} is older than {_revision(self._last_good)}, which runs")
            await self._dataplane.check(job.config)
            as_before, self._runs_last_good = self._runs_last_good, False
            try:
                await self._run(job.config)
            except Invalid:
                self._runs_last_good = as_before
                raise
        except Invalid as error:
            self._refuse(job.push.version, error)
            raise
        encoded = encode(job.push)
        await self._in_thread(lambda: write_atomic(self._file, encoded))
        self._last_good = job
        self._runs()

    async def _restore(self) -> None:
        """Run the last good version again."""
        await self._run(self._last_good.config)
        self._runs()

    def _not_restored(self, failure: Failure) -> None:
        self._failures += 1
        if self._last_good.version is not None:
            self._state = ConfigState(
                refused=self._last_good.version,
                reason=str(failure.value)[:REASON_CHARS],
                applied_count=self._state.applied_count,
            )

    def _runs(self) -> None:
        self._runs_last_good = True
        self._failures = 0
        self._state = ConfigState(
            applied=self._last_good.version,
            applied_count=self._state.applied_count + 1,
        )
        self._applied(self._last_good.config)

    def _refuse(self, version: ConfigVersion, error: AvinetError) -> None:
        """Keep in mind that a version is wrong, when it is newer than what runs."""
        if version.revision < _revision(self._last_good):
            return
        self._state = ConfigState(
            applied=self._state.applied,
            refused=version,
            reason=str(error)[:REASON_CHARS],
            applied_count=self._state.applied_count,
        )


def _revision(job: Verified) -> int:
    return job.version.revision if job.version else 0


def _overtaken(job: Verified) -> Unavailable:
    return Unavailable(f"configuration {_revision(job)} was overtaken by a newer one, or by the end of the process")


def _tell(done: Deferred[None]) -> Callable[[Failure], None]:
    """Passes a failure on, when anyone waits still."""

    def tell(failure: Failure) -> None:
        if not done.called:
            done.errback(failure)

    return tell
