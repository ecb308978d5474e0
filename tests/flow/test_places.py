"""Places in a line: each has one holder, and the line has no more than it must."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.flow.places import Places


class PlacesTests(SynchronousTestCase):
    def test_the_first_ones_are_first(self) -> None:
        places = Places()
        self.assertEqual([places.take() for _ in range(3)], [0, 1, 2])

    def test_a_place_that_was_left_is_taken_before_a_new_one(self) -> None:
        places = Places()
        taken = [places.take() for _ in range(4)]
        places.leave(taken[2])
        places.leave(taken[1])
        self.assertEqual([places.take() for _ in range(3)], [1, 2, 4])

    @given(st.lists(st.integers(0, 30)))
    def test_nobody_shares_a_place_and_none_is_beyond_the_most_there_ever_were(self, moves: list[int]) -> None:
        places, held, most = Places(), set[int](), 0
        for move in moves:
            if move % 3 and held:
                leaving = sorted(held)[move % len(held)]
                held.discard(leaving)
                places.leave(leaving)
            else:
                taken = places.take()
                self.assertNotIn(taken, held)
                held.add(taken)
            most = max(most, len(held))
            self.assertTrue(all(place < most for place in held))
