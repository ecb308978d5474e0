"""The checker of histories finds what is known to be wrong, and agrees with a search for an order."""

from __future__ import annotations

from itertools import permutations
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.history.checker import Change, Operation, Value, faults

K, L = b"k", b"l"


def write(
    client: str, began: float, ended: float, value: bytes, revision: int, *, after: int | None = None
) -> Operation:
    """An acknowledged write of `K`, under the condition that its last change was `after`."""
    conditions = () if after is None else ((K, after),)
    return Operation(client, began, ended, True, revision, conditions, ((K, value),))


def read(client: str, began: float, ended: float, value: Value, changed: int, revision: int) -> Operation:
    return Operation(client, began, ended, True, revision, reads=((K, value, changed),))


A, B = write("a", 0, 1, b"1", 2), write("b", 2, 3, b"2", 3, after=2)
SEEN = [Change(2, K, b"1"), Change(3, K, b"2")]


class CheckerTests(SynchronousTestCase):
    def finds(self, what: str, operations: list[Operation], changes: list[Change]) -> None:
        found = faults(operations, changes)
        self.assertTrue(any(what in each for each in found), found)

    def test_a_history_that_is_right(self) -> None:
        unknown = Operation("c", 0.5, inf, None, writes=((K, b"never"),))
        late = Operation("d", 0.5, inf, None, writes=((K, b"3"),))
        refused = Operation("e", 0, 1, False, writes=((K, b"not"),))
        vain = Operation("f", 2, 3.5, False, 3, ((K, 2),), ((K, b"vain"),))
        operations = [A, B, unknown, late, refused, vain, read("r", 1.5, 4, b"1", 2, 2), read("r", 5, 6, b"3", 4, 4)]
        self.assertEqual(faults(operations, [*SEEN, Change(4, K, b"3")]), [])

    def test_a_stale_read(self) -> None:
        self.finds("before what had ended", [A, B, read("r", 4, 5, b"1", 2, 2)], SEEN)
        self.finds("was read as", [A, B, read("r", 4, 5, b"1", 2, 3)], SEEN)

    def test_a_read_that_goes_back(self) -> None:
        operations = [A, B, read("r", 2.1, 2.2, b"2", 3, 3), read("s", 2.3, 2.4, b"1", 2, 2)]
        self.finds("before what had ended", operations, SEEN)

    def test_a_lost_update(self) -> None:
        other = write("c", 2, 3, b"3", 4, after=2)
        self.finds("conditions did not hold", [A, B, other], [*SEEN, Change(4, K, b"3")])

    def test_an_acknowledged_write_that_is_lost(self) -> None:
        self.finds("is lost", [A, B], SEEN[:1])

    def test_a_write_seen_twice(self) -> None:
        self.finds("written twice", [A, B], [*SEEN, Change(4, K, b"1")])
        unknown = Operation("c", 0, inf, None, writes=((K, b"3"),))
        self.finds("written twice", [unknown], [Change(2, K, b"3"), Change(3, K, b"3")])

    def test_a_value_out_of_thin_air(self) -> None:
        self.finds("thin air", [A], [*SEEN[:1], Change(3, K, b"?")])
        self.finds("was read as", [A, read("r", 2, 3, b"?", 2, 2)], SEEN[:1])

    def test_what_was_refused_and_done(self) -> None:
        refused = Operation("c", 0, 1, False, writes=((K, b"3"),))
        self.finds("said that it is not", [refused], [Change(2, K, b"3")])

    def test_what_was_in_vain_without_a_reason(self) -> None:
        self.finds("in vain", [A, Operation("c", 2, 3, False, 2, ((K, 2),), ((K, b"3"),))], SEEN[:1])

    def test_a_claim_that_is_won_twice(self) -> None:
        claim = Operation("a", 0, 1, True, 2, writes=((K, b"claim"),))
        winners = [
            Operation(name, 2, 3, True, 3 + number, ((K, 2),), ((K, None), (L, name.encode())))
            for number, name in enumerate("bc")
        ]
        changes = [Change(2, K, b"claim"), Change(3, K, None), Change(3, L, b"b"), Change(4, L, b"c")]
        self.finds("conditions did not hold", [claim, *winners], changes)

    def test_half_a_transaction(self) -> None:
        both = Operation("a", 0, 1, True, 2, writes=((K, b"1"), (L, b"2")))
        self.finds("not whole", [both], [Change(2, K, b"1")])

    def test_a_write_that_was_acknowledged_at_another_revision(self) -> None:
        self.finds("instead", [A, write("c", 2, 3, b"2", 4)], SEEN)

    def test_what_nobody_answered_is_not_done_before_it_began(self) -> None:
        early = Operation("c", 4, inf, None, writes=((K, b"1"),))
        self.finds("before what had ended", [early, write("b", 2, 3, b"2", 3)], SEEN)

    def test_a_watch_that_goes_back(self) -> None:
        self.finds("the watch told", [A, B], SEEN[::-1])

    @settings(deadline=None, max_examples=300)
    @given(st.data())
    def test_what_passes_has_an_order_that_a_search_finds(self, data: st.DataObject) -> None:
        """Histories that are right by construction, in which one thing is then changed."""
        operations, changes = history(data)
        self.assertEqual(faults(operations, changes), [])
        self.assertTrue(explained(operations))
        broken = spoilt(data, operations)
        if not explained(broken):
            self.assertNotEqual(faults(broken, changes), [])


def history(data: st.DataObject) -> tuple[list[Operation], list[Change]]:
    """Up to six operations on one key, each done at a time between its beginning and its end."""
    operations, changes = [], []
    value: Value = None
    revision, changed = 1, 0
    for number in range(data.draw(st.integers(1, 6))):
        client, began = str(number), 10.0 * number - data.draw(st.integers(0, 25))
        ended = 10.0 * number + data.draw(st.integers(1, 25))
        kind = data.draw(st.sampled_from(("read", "write", "cas", "vain", "unknown")))
        if kind == "read":
            operations.append(read(client, began, ended, value, changed, revision))
        elif kind == "vain":
            operations.append(Operation(client, began, ended, False, revision, ((K, 99),), ((K, b"%d" % number),)))
        else:
            conditions = ((K, changed),) if kind == "cas" else ()
            revision += 1
            value, changed = b"%d" % number, revision
            changes.append(Change(revision, K, value))
            known = kind != "unknown"
            operations.append(
                Operation(
                    client,
                    began,
                    ended if known else inf,
                    True if known else None,
                    revision if known else 0,
                    conditions,
                    ((K, value),),
                )
            )
    return operations, changes


def spoilt(data: st.DataObject, operations: list[Operation]) -> list[Operation]:
    """The same with one of them at another time."""
    index = data.draw(st.integers(0, len(operations) - 1))
    old, by = operations[index], data.draw(st.integers(-60, 60))
    moved = Operation(
        old.client,
        old.began + by,
        old.ended + by,
        old.succeeded,
        old.revision,
        old.conditions,
        old.writes,
        old.reads,
    )
    return [*operations[:index], moved, *operations[index + 1 :]]


def explained(operations: list[Operation]) -> bool:
    """Whether any order of them explains what they have seen: Wing and Gong's search, without a thought for revisions."""
    known = [each for each in operations if each.succeeded is not None]
    unknown = [each for each in operations if each.succeeded is None]
    chosen = [known]
    for each in unknown:
        chosen += [[*some, each] for some in chosen]
    return any(_fits(order) for some in chosen for order in permutations(some))


def _fits(order: tuple[Operation, ...]) -> bool:
    for index, one in enumerate(order):
        if any(other.ended < one.began for other in order[index + 1 :]):
            return False
    value: Value = None
    values = {each.revision: each.writes[0][1] for each in order if each.writes and each.revision and each.succeeded}
    for each in order:
        if each.reads and each.reads[0][1] != value:
            return False
        if each.succeeded is False:
            continue
        if each.conditions and each.conditions[0][1] in values and values[each.conditions[0][1]] != value:
            return False
        if each.writes:
            value = each.writes[0][1]
    return True
