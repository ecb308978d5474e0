"""Whatever comes between, what a service engine says that it holds is on its disk, and served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import Tasks
from avinet.errors import Invalid, LocalError, Unavailable
from avinet.se.custody import GRACE_S, Custody
from avinet.se.keystore import Keystore
from avinet.wire.certificates import CertificateVersion
from tests.issuing import Issuer
from tests.se.delivery import material, naming, push_of
from tests.se.test_custody import Plane

NAMES = ("api", "blog", "shop")
ISSUER = Issuer()
MADE = {
    (name, revision): material(name, revision, ISSUER.serve(f"{name}.example"))
    for name in NAMES
    for revision in range(1, 5)
}
ERRORS = {"": None, "refused": Invalid("no"), "silent": Unavailable("no answer")}


class CustodyMachine(RuleBasedStateMachine):
    """`named` is what the configuration serves, `delivered` what the nodes were told to be held."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.plane = Plane()
        self.full = False
        self.named: frozenset[str] | None = None
        self.boot()

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        if self.full and "lay_out" in call.__code__.co_names:
            return fail(LocalError("the disk is full"))
        return succeed(call())

    @rule()
    def boot(self) -> None:
        """The process dies, and another one starts: it runs the configuration that ran."""
        self.clock, self.plane = Clock(), Plane()  # what the one before had in mind dies with it
        self.custody = Custody(
            self.clock, Keystore(Path(self.folder.name)), self.plane, self.in_thread, Tasks(), lambda: None
        )
        ensureDeferred(self.custody.start())
        if self.named is not None:
            self.custody.applied(naming(*self.named))

    @rule(
        which=st.lists(st.sampled_from(sorted(MADE)), min_size=1, max_size=3),
        broken=st.sampled_from(sorted(ERRORS)),
        full=st.booleans(),
    )
    def deliver(self, which: list[tuple[str, int]], broken: str, full: bool) -> None:
        self.plane.broken, self.full = ERRORS[broken], full
        answers: list[Any] = []
        ensureDeferred(self.custody.take(push_of(*(MADE[each] for each in which)))).addBoth(answers.append)
        self.plane.broken, self.full = None, False
        assert len(answers) == 1
        state = getattr(answers[0], "held", None)
        if state is not None:  # what was answered without an error is held or refused, each one
            refused = {each.version for each in answers[0].refused}
            last = {name: MADE[name, revision].version for name, revision in which}
            assert all(self.is_held(version) or version in refused for version in last.values())

    def is_held(self, version: CertificateVersion) -> bool:
        return version in self.custody.state.held

    @rule(names=st.frozensets(st.sampled_from(NAMES)))
    def apply(self, names: frozenset[str]) -> None:
        """As the data plane does it: what it does not have is refused."""
        if names <= self.plane.served.keys():
            self.named = names
            self.custody.applied(naming(*names))

    @rule(seconds=st.sampled_from([1.0, GRACE_S / 2, GRACE_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def what_is_said_to_be_held_is_on_the_disk_and_is_served(self) -> None:
        kept = {name: held.version for name, held in Keystore(Path(self.folder.name)).read().items()}
        for version in self.custody.state.held:
            assert kept[version.name] == version
            assert self.plane.served[version.name].key_pem == MADE[version.name, version.revision].key

    @invariant()
    def what_the_configuration_names_is_held(self) -> None:
        assert (self.named or frozenset()) <= {each.name for each in self.custody.state.held}

    def teardown(self) -> None:
        self.custody.stop()
        self.folder.cleanup()


class CustodyModelTests(SynchronousTestCase):
    def test_whatever_comes_between(self) -> None:
        run_state_machine_as_test(
            CustodyMachine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
        )
