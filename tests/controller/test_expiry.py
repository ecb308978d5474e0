"""What expires is seen early, and recorded once for each degree of urgency, whatever restarts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.controller.expiry import CHECK_S, EARLY, GATHER_S, SHOWN, Early, Ending, Expiries, endings
from avinet.enrolment.records import AUDIT
from avinet.store.interface import Put, Transaction
from avinet.trust.domain import found
from tests.controller.certificates.making import ISSUER, VaultCase
from tests.issuing import LIFE
from tests.store.memory import MemoryStore

DAY = 86400.0
NOW = 1.8e9


class ExpiryCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.store = MemoryStore(self.clock)
        self.endings: list[Ending] = []
        self.expiries = self.restarted()

    def restarted(self) -> Expiries:
        return Expiries(self.clock, self.store, "node-1", lambda: self.endings, self.clock.seconds)

    def ending(self, days: float, kind: Any = "certificate", name: str = "shop", fingerprint: str = "ab") -> Ending:
        return Ending(kind, name, NOW + days * DAY, fingerprint)

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def records(self) -> list[dict[str, Any]]:
        found = [msgspec.json.decode(each.value) for each in self.result(self.store.range(AUDIT)).entries]
        return sorted(found, key=lambda each: float(each["time"]))

    def marks(self) -> list[str]:
        return ["alarm" if each.get("alarm") else "notice" for each in self.records()]

    def told(self) -> int:
        return len(self.result(self.store.range(b"expiry/")).entries)


class CheckTests(ExpiryCase):
    def check(self, *days: float) -> None:
        for each in days:
            self.clock.advance(NOW + each * DAY - self.clock.seconds())
            self.result(self.expiries.check())

    def test_there_is_a_notice_then_an_alarm_and_another_when_it_has_expired(self) -> None:
        self.endings = [self.ending(40)]
        self.check(0, 9, 10)
        self.assertEqual(self.records(), [])
        self.check(10.5, 20, 33)
        self.assertEqual(self.marks(), ["notice"])
        self.check(33.5, 39.9)
        self.assertEqual(self.marks(), ["notice", "alarm"])
        self.check(40, 50)
        self.assertEqual(self.marks(), ["notice", "alarm", "alarm"])
        first, second, last = self.records()
        self.assertEqual((first["kind"], first["id"], first["fingerprint"]), ("certificate-expires", "shop", "ab"))
        self.assertEqual(first["outcome"], "expires in 29d 12h, at 2027-02-24 08:00Z")
        self.assertIn("expires in 6d 12h", second["outcome"])
        self.assertEqual(last["outcome"], "expired at 2027-02-24 08:00Z")

    def test_no_restart_repeats_it(self) -> None:
        self.endings = [self.ending(20)]
        for _ in range(3):
            self.check(0)
            self.expiries = self.restarted()
        self.assertEqual(self.marks(), ["notice"])

    def test_what_took_its_place_is_another_matter(self) -> None:
        self.endings = [self.ending(5)]
        self.check(0)
        self.endings = [self.ending(90, fingerprint="cd")]
        self.check(1)
        self.assertEqual((self.marks(), self.told()), (["alarm"], 0))
        self.endings = [self.ending(20, fingerprint="ef")]
        self.check(2)
        self.assertEqual((self.marks(), self.told()), (["alarm", "notice"], 1))

    def test_one_that_is_put_when_it_has_expired_already_is_said_to_be(self) -> None:
        self.endings = [self.ending(-1)]
        self.check(0)
        self.assertEqual(self.marks(), ["alarm"])

    def test_what_is_gone_is_forgotten_and_nothing_of_other_nodes_is(self) -> None:
        self.endings = [self.ending(5), self.ending(0.5, kind="node-certificate", name="node-2")]
        self.check(0)
        self.endings = []
        self.check(1)
        self.assertEqual(self.told(), 1)

    def test_each_kind_has_its_time(self) -> None:
        for kind, early in EARLY.items():
            name = f"a-{kind}"
            self.endings = [self.ending(early.soon_s / DAY + 1, kind=kind, name=name)]
            self.check(0)
            self.assertEqual([each for each in self.records() if each["id"] == name], [])
            self.endings = [self.ending(early.soon_s / DAY - 0.5, kind=kind, name=name)]
            self.check(0)
            [record] = [each for each in self.records() if each["id"] == name]
            self.assertEqual(record["kind"], f"{kind}-expires")
        self.assertEqual(EARLY["node-certificate"].urgency(3600.0), "urgent")

    def test_the_times_are_settings(self) -> None:
        early = {**EARLY, "certificate": Early(10.0, 5.0)}
        self.expiries = Expiries(self.clock, self.store, "node-1", lambda: self.endings, self.clock.seconds, early)
        self.endings = [self.ending(11 / DAY)]
        self.assertEqual(self.expiries.shown(), [])
        self.clock.advance(2)
        self.assertEqual([each.urgency for each in self.expiries.shown()], ["soon"])
        self.clock.advance(5)
        self.assertEqual([each.urgency for each in self.expiries.shown()], ["urgent"])
        self.clock.advance(5)
        self.assertEqual([each.urgency for each in self.expiries.shown()], ["expired"])

    def test_what_is_shown_is_what_comes_first(self) -> None:
        self.endings = [self.ending(20 - each / 100, name=f"c-{each}") for each in range(SHOWN + 5)]
        self.endings += [self.ending(90, name="fine"), self.ending(3000, kind="root-ca", name="ab12")]
        shown = self.expiries.shown()
        self.assertEqual((shown[0].kind, shown[0].urgency, len(shown)), ("root-ca", "none", 1 + SHOWN))
        self.assertEqual([each.name for each in shown[1:3]], [f"c-{SHOWN + 4}", f"c-{SHOWN + 3}"])


class KeepTests(ExpiryCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)

    def test_it_is_looked_at_the_start_each_hour_and_after_a_change(self) -> None:
        self.endings = [self.ending(7.02), self.ending(5, name="blog")]
        self.tasks.spawn(self.expiries.keep(), "keeping")
        self.assertEqual(sorted(self.marks()), ["alarm", "notice"])
        self.clock.pump([CHECK_S, GATHER_S])
        self.assertEqual(sorted(self.marks()), ["alarm", "alarm", "notice"])
        self.endings.append(self.ending(1, name="new"))
        self.expiries.wake()
        self.clock.advance(GATHER_S)
        self.assertEqual(len(self.marks()), 4)

    def test_what_changes_while_it_looks_is_not_overlooked(self) -> None:
        real = self.expiries.check

        async def changed() -> None:
            await real()
            if not self.endings:
                self.endings.append(self.ending(1))
                self.expiries.wake()

        self.patch(self.expiries, "check", changed)
        self.tasks.spawn(self.expiries.keep(), "keeping")
        self.clock.advance(GATHER_S)
        self.assertEqual(self.marks(), ["alarm"])

    def test_without_a_store_it_is_looked_again(self) -> None:
        self.store.unavailable = "no quorum"
        self.endings = [self.ending(1)]
        self.tasks.spawn(self.expiries.keep(), "keeping")
        self.store.unavailable = ""
        self.clock.pump([CHECK_S, GATHER_S])
        self.assertEqual(self.marks(), ["alarm"])

    def test_a_record_that_is_damaged_hinders_no_other_and_is_made_anew(self) -> None:
        for damaged in (b"{", b"\xff", b'{"fingerprint":"ab","urgency":"never"}'):
            self.result(self.store.transact(Transaction((), (Put(b"expiry/certificate/blog", damaged),))))
            self.endings = [self.ending(5, name="blog"), self.ending(5)]
            self.result(self.expiries.check())
            found = self.result(self.store.range(b"expiry/")).entries
            self.assertEqual([msgspec.json.decode(each.value)["urgency"] for each in found], ["urgent", "urgent"])

    def test_a_fault_does_not_end_it(self) -> None:
        real, faults = self.expiries.check, [ZeroDivisionError()]

        async def check() -> None:
            if faults:
                raise faults.pop()
            await real()

        self.patch(self.expiries, "check", check)
        self.endings = [self.ending(1)]
        self.tasks.spawn(self.expiries.keep(), "keeping")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.pump([CHECK_S, GATHER_S])
        self.assertEqual(self.marks(), ["alarm"])


class EndingTests(VaultCase):
    def test_they_are_what_the_node_lives_by_and_what_it_keeps(self) -> None:
        domain = found(Path(self.mktemp()) / "trust", "node-1", datetime.now(UTC))
        self.put("shop")
        there = {(each.kind, each.name): each for each in endings(domain, self.vault)}
        self.assertEqual(
            sorted(kind for kind, _ in there), ["certificate", "issuing-ca", "node-certificate", "root-ca"]
        )
        shop = there["certificate", "shop"]
        self.assertLess(abs(shop.until - self.time - LIFE.total_seconds()), 600)
        self.assertEqual(shop.fingerprint, self.vault.require("shop").shown.fingerprint)
        self.assertIn(("node-certificate", "node-1"), there)
        self.assertNotEqual(ISSUER.root, domain.root)
