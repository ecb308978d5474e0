"""`avictl events --follow` and `--verify`: what comes is printed as it comes, and a log that was changed is said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.cli import events
from avinet.cli.exits import REFUSED, UNREACHABLE
from avinet.trust.document import sign_document
from avinet.wire.audit import LogEntries, LogHead
from avinet.wire.fleet import EventList
from avinet.wire.message import decode, encode
from avinet.wire.problem import Problem
from avinet.wire.trust import SignedTrust
from tests.cli import fleet
from tests.cli.scripted import Asked, ScriptedCase, problem, said
from tests.enrolment.making import Office, document, domain
from tests.store.memory import MemoryStore

AWAY = Problem(status=503, title="Service Unavailable", detail="the node stops")


class FollowTests(ScriptedCase):
    def test_it_goes_on_behind_what_was_printed_until_the_node_is_gone(self) -> None:
        [first] = fleet.EVENTS.items
        pages = [
            EventList(items=[first], next="1", seen="1"),
            EventList(items=[msgspec.structs.replace(first, seq=2, outcome="refused", alarm=True)], seen="2"),
            EventList(items=[], seen="7"),
            EventList(items=[msgspec.structs.replace(first, seq=3, outcome="again")], seen="8"),
        ]
        left = list(pages)
        self.answers(lambda asked: said(left.pop(0)) if left else problem(AWAY, 503))
        with mock.patch.object(events, "FOLLOW_S", 0.0):
            ended = self.avictl("events", "--follow", "--of", "se-1")
        self.assertEqual(ended.code, UNREACHABLE)
        lines = ended.out.splitlines()
        self.assertEqual([line.split("  ")[3] for line in lines], ["enrolled", "refused", "again"])
        self.assertTrue(lines[1].endswith("ALARM"))
        cursors = [each.target.partition("after=")[2].partition("&")[0] for each in self.asked]
        self.assertEqual(cursors, ["", "1", "2", "7", "8"])


class SearchTests(ScriptedCase):
    def test_it_goes_on_until_there_is_something_or_the_end(self) -> None:
        pages = [EventList(items=[], next="9999", seen="9999"), EventList(items=[], next="19999", seen="19999")]
        left = [*pages, fleet.EVENTS]
        self.answers(lambda asked: said(left.pop(0)))
        self.assertIn("enrolled", self.avictl("events", "--alarms").out)
        self.assertEqual(len(self.asked), 3)
        self.assertTrue(all("alarms=1" in each.target for each in self.asked))


class LogCase(ScriptedCase):
    """A node with an audit log of 600 records."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.office = Office(MemoryStore(Clock()))
        for number in range(600):
            self.result(self.office.expect(f"se-{number}"))
        self.seal()
        text = encode(document())
        issuing = domain().issuing
        self.trust = SignedTrust(
            document=text.decode(), signature=sign_document(text, issuing), issuer=issuing.certificate_pem.decode()
        )
        self.answers(self.node)

    def seal(self) -> None:
        """The node shows what is recorded by now."""
        self.log = self.office.log
        self.head: LogHead = self.result(self.log.seal()).head
        self.entries = [each.decode() for each in self.result(self.log.entries(0, 1000))]

    def result(self, awaitable: object) -> Any:
        return SynchronousTestCase.successResultOf(self, as_deferred(awaitable))  # type: ignore[arg-type]

    def node(self, asked: Asked) -> bytes:
        if asked.target == "/v1/trust":
            return said(self.trust)
        if asked.target == "/v1/log/head":
            return said(self.head)
        query = dict(pair.split("=") for pair in asked.target.partition("?")[2].split("&"))
        if asked.target.startswith("/v1/log/consistency"):
            return said(self.result(self.log.since(int(query["first"]))))
        first, limit = int(query["first"]), int(query["limit"])
        return said(LogEntries(first=first, items=self.entries[first : first + limit]))


class VerifyTests(LogCase):
    def test_a_log_that_is_whole(self) -> None:
        ended = self.avictl("events", "--verify")
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertIn("600, all there, none changed", ended.out)
        self.assertEqual(msgspec.json.decode(self.avictl("-o", "json", "events", "--verify").out)["size"], 600)

    def test_a_record_that_was_changed(self) -> None:
        self.entries[17] = self.entries[17].replace("operator", "somebody")
        ended = self.avictl("events", "--verify")
        self.assertEqual((ended.code, ended.out), (REFUSED, ""))
        self.assertIn("the audit log was changed", ended.err)

    def test_it_believes_the_root_that_it_is_given_and_no_other(self) -> None:
        right, wrong = self.folder / "root.pem", self.folder / "other.pem"
        right.write_bytes(domain().root.public_bytes(Encoding.PEM))
        wrong.write_bytes(domain().server.certificate_pem)
        self.assertEqual(self.avictl("events", "--verify", "--root", str(right)).code, 0)
        ended = self.avictl("events", "--verify", "--root", str(wrong))
        self.assertEqual(ended.code, REFUSED)
        self.assertIn("not signed as it must be", ended.err)


class SinceHeadTests(LogCase):
    """The log of now against the head that was kept, by its proof, or by all of its records."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.kept: Path = self.folder / "head.json"
        self.since = ("events", "--since-head", str(self.kept))
        first = self.avictl(*self.since)
        self.assertEqual((first.code, first.err), (0, ""))
        self.assertIn("600, and nothing to compare them with yet", first.out)

    def there(self) -> LogHead:
        return decode(self.kept.read_bytes(), LogHead, limit_bytes=10**5)

    def rewrite(self, count: int) -> None:
        """The node has another past, of so many records, which it signs."""
        self.office = Office(MemoryStore(Clock()))
        for number in range(count):
            self.result(self.office.expect(f"other-{number}"))
        self.seal()

    def rewritten(self, *more: str) -> str:
        """What it says when it finds that out; the head that was kept stays."""
        before = self.kept.read_bytes()
        ended = self.avictl(*self.since, *more)
        self.assertEqual((ended.code, ended.out), (REFUSED, ""))
        self.assertEqual(self.kept.read_bytes(), before)
        return ended.err

    def test_a_log_that_has_grown_is_checked_without_its_records(self) -> None:
        self.assertEqual(self.there(), self.head)
        for number in range(33):
            self.result(self.office.expect(f"new-{number}"))
        self.seal()
        self.asked.clear()
        ended = self.avictl(*self.since)
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertIn("the 600 records of", ended.out)
        self.assertEqual([each.target for each in self.asked if "entries" in each.target], [])
        self.assertEqual((self.there().size, self.there()), (633, self.head))
        self.assertEqual(self.avictl(*self.since).code, 0)

    def test_or_with_all_of_them(self) -> None:
        self.result(self.office.expect("one-more"))
        self.seal()
        ended = self.avictl(*self.since, "--verify")
        self.assertIn("601, all there, none changed", ended.out)
        self.assertIn("the 600 records of", ended.out)
        self.assertEqual(self.there().size, 601)

    def test_another_past_is_found_though_it_is_signed(self) -> None:
        for count in (600, 601, 777):
            self.rewrite(count)
            self.assertEqual(self.avictl("events", "--verify").code, 0)
            self.assertIn("was rewritten", self.rewritten())
            self.assertIn("was rewritten", self.rewritten("--verify"))

    def test_a_log_that_was_cut_off_is_found(self) -> None:
        self.rewrite(599)
        for more in ((), ("--verify",)):
            self.assertIn("it had 600 records, and has 599", self.rewritten(*more))

    def test_a_head_that_nobody_of_the_domain_has_signed_is_not_believed(self) -> None:
        self.head = msgspec.structs.replace(self.head, time=self.head.time + 1)
        self.assertIn("not signed as it must be", self.rewritten())

    def test_the_log_of_another_domain_is_not_compared(self) -> None:
        self.kept.write_bytes(encode(msgspec.structs.replace(self.head, domain="elsewhere")))
        self.assertIn("the head of before is of elsewhere", self.rewritten())

    def test_a_file_that_is_no_head_is_left_as_it_is(self) -> None:
        self.kept.write_text("{}")
        ended = self.avictl(*self.since)
        self.assertIn("is no head of an audit log", ended.err)
        self.assertEqual(self.kept.read_text(), "{}")
