"""A service engine notices when the past of the audit log was rewritten, and goes on saying so."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.se.witness import Witness
from avinet.trust.merkle import EMPTY, Frontier, consistency, leaf
from avinet.wire.audit import LogProof


def proof(records: Sequence[bytes], first: int) -> LogProof:
    """What an honest node says whose log has these records."""
    tree, hashes = Frontier(), {}
    for each in records:
        for level, index, found in tree.add(leaf(each)):
            hashes[level, index] = found
    path = consistency(first, tree.size, lambda level, index: hashes[level, index]) if 0 < first <= tree.size else []
    return LogProof(
        first=first,
        size=tree.size,
        root=tree.root().hex(),
        hashes=[base64.b64encode(each).decode() for each in path],
    )


def records(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


class WitnessTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.witness = Witness(self.path)

    def told(self, log: Sequence[bytes]) -> None:
        self.witness.told(proof(log, self.witness.ask()))

    def test_a_log_that_grows_is_followed_across_restarts(self) -> None:
        for size in (0, 1, 5, 5, 8, 300):
            self.told(records(size))
            self.assertEqual((self.witness.size, self.witness.problem), (size, ""))
            self.witness = Witness(self.path)
            self.assertEqual(self.witness.size, size)

    def test_what_does_not_change_is_not_written(self) -> None:
        self.told(records(3))
        self.path.unlink()
        self.told(records(3))
        self.assertFalse(self.path.exists())

    def test_a_past_that_was_rewritten_is_noticed_and_remembered(self) -> None:
        self.told(records(10))
        self.told([b"another", *records(20)[1:]])
        self.assertIn("its 20 records do not begin with the 10", self.witness.problem)
        self.told(records(30))
        self.assertEqual(self.witness.size, 10)
        self.witness = Witness(self.path)
        self.assertIn("do not begin", self.witness.problem)

    def test_a_log_that_was_cut_off_is_noticed(self) -> None:
        self.told(records(10))
        self.told(records(9))
        self.assertEqual(self.witness.problem, "it had 10 records, and has 9")

    def test_a_node_that_proves_something_else_is_noticed(self) -> None:
        self.told(records(10))
        self.witness.ask()
        self.witness.told(proof(records(20), 5))
        self.assertIn("was asked for 10", self.witness.problem)

    def test_a_node_that_pretends_to_begin_anew_is_noticed(self) -> None:
        self.told(records(10))
        self.witness.ask()
        self.witness.told(LogProof(first=10, size=0, root=EMPTY.hex()))
        self.assertIn("it had 10 records, and has 0", self.witness.problem)
        self.witness.accept()
        self.told(records(10))
        self.witness.ask()
        self.witness.told(msgspec.structs.replace(proof(records(20), 10), hashes=[]))
        self.assertIn("do not begin", self.witness.problem)

    def test_an_operator_may_accept_it_and_that_is_kept(self) -> None:
        self.told(records(10))
        self.told(records(2))
        self.assertIn("it had 10 records, and has 2", self.witness.accept())
        self.told(records(2))
        self.assertEqual((self.witness.size, self.witness.problem), (2, ""))
        self.witness = Witness(self.path)
        self.assertIn("it had 10 records, and has 2; its root was", str(self.witness.describe()["accepted"]))

    def test_where_nothing_is_wrong_there_is_nothing_to_accept(self) -> None:
        self.told(records(10))
        self.assertEqual(self.witness.accept(), "")
        self.assertEqual(self.witness.size, 10)

    def test_an_answer_from_before_it_was_accepted_is_no_new_problem(self) -> None:
        self.told(records(10))
        late = proof(records(20), self.witness.ask())
        self.told(records(2))
        self.witness.accept()
        self.witness.told(late)
        self.assertEqual((self.witness.size, self.witness.problem), (0, ""))

    def test_what_was_damaged_on_the_disk_is_a_problem_and_no_end(self) -> None:
        self.path.write_bytes(b"{")
        self.assertIn("is damaged", Witness(self.path).problem)
