"""What happens to the members meanwhile, drawn from a seed: kills, pauses, partitions, of one or of most of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from avinet.aio import pause
from demo.members import Cluster
from tests.store.network import Network

KINDS = ("kill", "pause", "swallow", "part")
MAJORITY = 0.2
"""How often it is most of them that suffer."""


class Nemesis:
    """Does one thing after the other to the members of `cluster`; `network` cuts them off, where there is one."""

    def __init__(
        self,
        clock: Any,
        cluster: Cluster,
        network: Network | None,
        random: Random,
        *,
        calm_s: float = 2.0,
        trouble_s: float = 4.0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._clock = clock
        self._cluster = cluster
        self._network = network
        self._random = random
        self._calm_s = calm_s
        self._trouble_s = trouble_s
        self._say = say
        self.done: Counter[str] = Counter()
        self.ending = False

    async def work(self) -> None:
        """Go on until it shall end; all is well then."""
        kinds = KINDS if self._network else KINDS[:2]
        while not self.ending:
            await pause(self._clock, self._random.uniform(0.2, 1) * self._calm_s)
            kind, victims = self._random.choice(kinds), self._victims()
            self._say(f"{kind} {', '.join(victims)}")
            try:
                for name in victims:
                    self._harm(kind, name)
                await pause(self._clock, self._random.uniform(0.2, 1) * self._trouble_s)
            finally:
                for name in victims:
                    self._mend(kind, name)
            self.done[kind] += 1

    def _victims(self) -> Sequence[str]:
        names = self._cluster.names
        most = self._random.random() < MAJORITY
        return self._random.sample(names, len(names) // 2 + 1 if most else 1)

    def _harm(self, kind: str, name: str) -> None:
        match kind:
            case "kill":
                self._cluster.kill(name)
            case "pause":
                self._cluster.pause(name)
            case "swallow" if self._network:
                self._network.swallow(name)
            case "part" if self._network:
                self._network.part(name)

    def _mend(self, kind: str, name: str) -> None:
        match kind:
            case "kill":
                self._cluster.start(name)
            case "pause":
                self._cluster.go_on(name)
            case _ if self._network:
                self._network.heal(name)
