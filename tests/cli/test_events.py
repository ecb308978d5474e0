"""`avictl events --follow` and `--verify`: what comes is printed as it comes, and a log that was changed is said to be."""

from __future__ import annotations

from unittest import mock

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.cli import events
from avinet.cli.exits import UNREACHABLE
from avinet.trust.document import sign_document
from avinet.wire.audit import LogEntries, LogHead
from avinet.wire.fleet import EventList
from avinet.wire.message import encode
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


class VerifyTests(ScriptedCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        office = Office(MemoryStore(Clock()))
        for number in range(600):
            self.result(office.expect(f"se-{number}"))
        self.head: LogHead = self.result(office.log.seal()).head
        self.entries = [each.decode() for each in self.result(office.log.entries(0, 1000))]
        text = encode(document())
        issuing = domain().issuing
        self.trust = SignedTrust(
            document=text.decode(), signature=sign_document(text, issuing), issuer=issuing.certificate_pem.decode()
        )
        self.answers(self.node)

    def result(self, awaitable: object) -> object:
        return SynchronousTestCase.successResultOf(self, as_deferred(awaitable))  # type: ignore[arg-type]

    def node(self, asked: Asked) -> bytes:
        if asked.target == "/v1/trust":
            return said(self.trust)
        if asked.target == "/v1/log/head":
            return said(self.head)
        query = dict(pair.split("=") for pair in asked.target.partition("?")[2].split("&"))
        first, limit = int(query["first"]), int(query["limit"])
        return said(LogEntries(first=first, items=self.entries[first : first + limit]))

    def test_a_log_that_is_whole(self) -> None:
        ended = self.avictl("events", "--verify")
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertIn("600, all there, none changed", ended.out)
        self.assertEqual(msgspec.json.decode(self.avictl("-o", "json", "events", "--verify").out)["size"], 600)

    def test_a_record_that_was_changed(self) -> None:
        self.entries[17] = self.entries[17].replace("operator", "somebody")
        ended = self.avictl("events", "--verify")
        self.assertEqual((ended.code, ended.out), (UNREACHABLE, ""))
        self.assertIn("the audit log was changed", ended.err)

    def test_it_believes_the_root_that_it_is_given_and_no_other(self) -> None:
        right, wrong = self.folder / "root.pem", self.folder / "other.pem"
        right.write_bytes(domain().root.public_bytes(Encoding.PEM))
        wrong.write_bytes(domain().server.certificate_pem)
        self.assertEqual(self.avictl("events", "--verify", "--root", str(right)).code, 0)
        ended = self.avictl("events", "--verify", "--root", str(wrong))
        self.assertEqual(ended.code, UNREACHABLE)
        self.assertIn("not signed as it must be", ended.err)
