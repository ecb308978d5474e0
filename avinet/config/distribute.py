"""Node side: bring to each service engine that has a tunnel what it should run, until it says that it does.

First what its configuration needs, then that. One push at a time to a service engine, and the newest version when it is
sent. A push that did not get through is tried
again after a while; one that was refused, when something else is desired or the service engine has booted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.aio import Slots, Tasks, as_deferred, within
from avinet.backoff import Backoff
from avinet.config.states import States
from avinet.errors import Invalid, PeerError, TooLarge, Unavailable
from avinet.wire.config import ConfigPush, ConfigState, ConfigVersion

PUSHES = 256
"""Pushes under way to all service engines together."""
PUSH_S = 60.0
"""How long a service engine may take to check and apply a configuration."""
RETRY = Backoff(first_s=1.0, cap_s=30.0)


class Pusher(Protocol):
    """Sends a configuration through the tunnel of a service engine."""

    async def push(self, engine_id: str, push: ConfigPush) -> ConfigState:
        """Its state when it has applied it. Raises `Invalid` when it refused, `Unavailable` and others when it may not
        have seen it.
        """


class Wanted(Protocol):
    """What is desired; see `avinet.config.desired.Desired`."""

    def version(self, id: str) -> ConfigVersion | None:
        """What a service engine should run."""

    def push(self, id: str) -> ConfigPush | None:
        """What to send to it now; None while that is about to change."""


class Supply(Protocol):
    """What a service engine must hold before its configuration; see `avinet.controller.certificates.supply.Supply`."""

    def missing(self, id: str) -> Sequence[str]:
        """What it is to be sent now."""

    async def bring(self, id: str) -> None:
        """Send what is missing. Raises when it may not have seen it."""

    def waits(self, id: str) -> str:
        """Why its configuration has to wait, as it can not be sent what it needs; empty when it need not."""

    def problem(self, id: str) -> str:
        """Why it can not be sent all that it should hold; empty when there is nothing to say."""


def outstanding(desired: ConfigVersion | None, state: ConfigState) -> bool:
    """Whether a service engine in `state` is to be sent the version `desired`."""
    return desired is not None and desired not in (state.applied, state.refused)


class _Delivery(Protocol):
    """The inputs of the machine that serves one tunnel."""

    def send(self) -> None:
        """Something is outstanding."""

    def answered(self) -> None:
        """The service engine has applied or refused what was sent, or there was nothing to send."""

    def failed(self, retry_after_s: float) -> None:
        """It may not have seen it, and wants no other try before `retry_after_s`."""

    def due(self) -> None:
        """The time to try again has come."""

    def end(self) -> None:
        """The tunnel is gone."""


Send = Callable[[_Delivery], Deferred[None]]


class _Tunnel:
    """What the machine of one tunnel works with. `send` begins a push, and tells the machine how it ended."""

    def __init__(self, clock: IReactorTime, random: Callable[[], float], send: Send) -> None:
        self.clock = clock
        self.random = random
        self.send = send
        self.failures = 0


def _begin(delivery: _Delivery, tunnel: _Tunnel) -> Deferred[None]:
    return tunnel.send(delivery)


def _wait(delivery: _Delivery, tunnel: _Tunnel, retry_after_s: float) -> IDelayedCall:
    wait_s = RETRY.delay_s(tunnel.failures, tunnel.random, retry_after_s)
    tunnel.failures += 1
    return tunnel.clock.callLater(wait_s, delivery.due)


_builder = TypeMachineBuilder(_Delivery, _Tunnel)
_settled = _builder.state("settled")
_sending = _builder.state("sending", _begin)
_waiting = _builder.state("waiting", _wait)
_ended = _builder.state("ended")

_settled.upon(_Delivery.send).to(_sending).returns(None)
_sending.upon(_Delivery.send).loop().returns(None)
_sending.upon(_Delivery.failed).to(_waiting).returns(None)
_waiting.upon(_Delivery.send).loop().returns(None)
_waiting.upon(_Delivery.due).to(_sending).returns(None)
_settled.upon(_Delivery.end).to(_ended).returns(None)
_ended.upon(_Delivery.failed).loop().returns(None)


@_sending.upon(_Delivery.answered).to(_settled)
def _rest(delivery: _Delivery, tunnel: _Tunnel, sending: Deferred[None]) -> None:
    tunnel.failures = 0


@_sending.upon(_Delivery.end).to(_ended)
def _abandon(delivery: _Delivery, tunnel: _Tunnel, sending: Deferred[None]) -> None:
    sending.cancel()


@_waiting.upon(_Delivery.end).to(_ended)
def _wait_no_more(delivery: _Delivery, tunnel: _Tunnel, timer: IDelayedCall) -> None:
    timer.cancel()


_machine = _builder.build()


class Distributor:
    """Serves the tunnels of a node. `random` yields uniform values in [0, 1)."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        pusher: Pusher,
        wanted: Wanted,
        supply: Supply,
        states: States,
        random: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._pusher = pusher
        self._wanted = wanted
        self._supply = supply
        self._states = states
        self._random = random
        self._live: dict[str, _Delivery] = {}
        self._problems: dict[str, str] = {}
        self._slots = Slots(PUSHES)
        self._tasks = Tasks()

    def opened(self, id: str) -> None:
        """The service engine has a tunnel, and can be sent to."""
        self.closed(id)
        self._live[id] = _machine(_Tunnel(self._clock, self._random, lambda delivery: self._begin(id, delivery)))
        self.reconsider(id)

    def closed(self, id: str) -> None:
        """The tunnel is gone."""
        self._problems.pop(id, None)
        delivery = self._live.pop(id, None)
        if delivery is not None:
            delivery.end()

    def problem(self, id: str) -> str:
        """Why the last push has neither been applied nor refused; empty when there is nothing to say."""
        return self._problems.get(id) or self._supply.problem(id)

    def said(self, id: str, state: ConfigState, boot: str) -> None:
        """The service engine told its state in a hello or a report: an acknowledgement that was lost is made good."""
        self._states.said(id, state, boot)
        self.reconsider(id)

    def reconsider(self, id: str) -> None:
        """Something else is desired of the service engine, or known of it."""
        delivery = self._live.get(id)
        if delivery is not None and (self._supply.missing(id) or self._due(id)):
            delivery.send()

    def _due(self, id: str) -> bool:
        """Whether a configuration is to be sent, and can be."""
        return outstanding(self._wanted.version(id), self._states.get(id)) and not self._supply.waits(id)

    def stop(self) -> None:
        """Push no more."""
        for id in list(self._live):
            self.closed(id)
        self._tasks.stop()

    def _begin(self, id: str, delivery: _Delivery) -> Deferred[None]:
        def failed(failure: Failure) -> None:
            if self._live.get(id) is delivery:
                self._problems[id] = str(failure.value)
            delivery.failed(failure.value.retry_after_s if isinstance(failure.value, Unavailable) else 0.0)

        sending = as_deferred(self._send(id, delivery))
        self._tasks.spawn(sending, f"pushing to {id}", failed)
        return sending

    async def _send(self, id: str, delivery: _Delivery) -> None:
        async with self._slots:
            while self._supply.missing(id):  # more may be by the time that it has these
                await self._supply.bring(id)
            push, waits = self._wanted.push(id), self._supply.waits(id)
            if push is not None and not waits and outstanding(push.version, self._states.get(id)):
                await self._push(id, push)
        if self._live.get(id) is delivery:
            self._problems.pop(id, None)
        delivery.answered()
        if push is not None:
            self.reconsider(id)

    async def _push(self, id: str, push: ConfigPush) -> None:
        """Send, and record the answer. Raises what `Pusher.push` does, but for a refusal."""
        try:
            state = await within(self._clock, PUSH_S, self._pusher.push(id, push), f"service engine {id}")
        except (Invalid, TooLarge) as error:
            self._states.refused(id, push.version, str(error))
            self.log.warn(
                "{id} has refused configuration {revision}: {reason}",
                id=id,
                revision=push.version.revision,
                reason=str(error),
            )
            return
        self._states.answered(id, state)
        if outstanding(push.version, state):
            raise PeerError(f"{id} has answered, but not applied configuration {push.version.revision}")
        self.log.info("{id} runs configuration {revision}", id=id, revision=push.version.revision)
