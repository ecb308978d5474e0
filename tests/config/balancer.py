"""A load balancer in memory that outlives the process that drives it, and the contract that it shares with real ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from avinet.aio import as_deferred
from avinet.config.apply import Dataplane
from avinet.config.compile import merge
from avinet.errors import Invalid
from avinet.wire.config import Config
from tests.config.making import web
from tests.running import asynchronous

BAD_PORT, TAKEN_PORT = 1, 2
"""A port that `check` refuses, and one that only `apply` finds to be taken."""


class Balancer:
    """`running` is what it serves. `pause` is awaited before and after all that it does; see `Dataplane`."""

    def __init__(self) -> None:
        self.running: Config | None = None
        self.done: list[str] = []
        self.taken: set[int] = {TAKEN_PORT}
        self.broken: Exception | None = None
        self.pause: Callable[[str], Awaitable[None]] = self._no_pause

    async def _no_pause(self, where: str) -> None:
        pass

    async def start(self, config: Config) -> None:
        self.done.append("start")
        await self.pause("before start")
        try:
            self._take(config)
        except Invalid:
            self.running = Config()
            raise
        await self.pause("after start")

    async def check(self, config: Config) -> None:
        self.done.append("check")
        await self.pause("before check")
        if any(each.port == BAD_PORT for each in config.virtual_services):
            raise Invalid("port 1 is bad")

    async def apply(self, config: Config) -> None:
        self.done.append("apply")
        await self.pause("before apply")
        self._take(config)
        await self.pause("after apply")

    def _take(self, config: Config) -> None:
        if self.broken is not None:
            raise self.broken
        taken = [each.port for each in config.virtual_services if each.port in self.taken]
        if taken:
            raise Invalid(f"port {taken[0]} is taken")
        self.running = config


class BalancerContract:
    """What `Applier` relies on. Mix into a TestCase that knows a `free` and a `taken` port, and what is `served`."""

    balancer: Dataplane
    free: list[int]
    taken: int

    def served(self) -> set[int]:
        """The ports that answer."""
        raise NotImplementedError  # abstract

    def config(self, *ports: int) -> Config:
        return merge([web(f"d{port}", port) for port in ports])

    @asynchronous
    async def test_it_serves_what_it_was_started_with(self) -> None:
        await self.balancer.start(self.config(self.free[0]))
        self.assertEqual(self.served(), {self.free[0]})

    @asynchronous
    async def test_it_changes_to_what_is_applied(self) -> None:
        await self.balancer.start(self.config(self.free[0]))
        await self.balancer.check(self.config(self.free[1]))
        await self.balancer.apply(self.config(self.free[1]))
        self.assertEqual(self.served(), {self.free[1]})
        await self.balancer.apply(self.config(self.free[1]))
        self.assertEqual(self.served(), {self.free[1]})

    @asynchronous
    async def test_what_it_refuses_leaves_the_last_one_running(self) -> None:
        await self.balancer.start(self.config(self.free[0]))
        await self.assertFailure(as_deferred(self.balancer.apply(self.config(self.free[1], self.taken))), Invalid)
        self.assertEqual(self.served(), {self.free[0]})

    @asynchronous
    async def test_after_a_refused_start_it_runs_nothing_and_takes_another(self) -> None:
        await self.assertFailure(as_deferred(self.balancer.start(self.config(self.free[1], self.taken))), Invalid)
        self.assertEqual(self.served(), set())
        await self.balancer.apply(self.config(self.free[0]))
        self.assertEqual(self.served(), {self.free[0]})
