"""Two joined ends of a channel, in every order of events that there is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from avinet.flow.halfclose import Half, HalfClose, Send

LOCAL = ("finish", "drop", "abort")
EVENTS = [(end, event) for end in (0, 1) for event in (*LOCAL, "deliver")]


class Two:
    """Two ends and the messages between them."""

    def __init__(self) -> None:
        self.ends = HalfClose(), HalfClose()
        self.queues: tuple[list[Send], list[Send]] = ([], [])
        self.sent: tuple[list[Send], list[Send]] = ([], [])

    def do(self, end: int, event: str) -> None:
        if event == "deliver":
            if self.queues[1 - end]:
                self._send(end, self._take(end, self.queues[1 - end].pop(0)))
        else:
            events = {"finish": HalfClose.finish, "drop": HalfClose.drop, "abort": HalfClose.abort}
            self._send(end, events[event](self.ends[end]))

    def _take(self, end: int, message: Send) -> tuple[Send, ...]:
        return self.ends[end].eof() if message is Send.EOF else self.ends[end].close()

    def _send(self, end: int, messages: tuple[Send, ...]) -> None:
        self.queues[end].extend(messages)
        self.sent[end].extend(messages)

    def deliver_all(self) -> None:
        while any(self.queues):
            self.do(0, "deliver")
            self.do(1, "deliver")


def histories(length: int) -> Iterator[Two]:
    for events in product(EVENTS, repeat=length):
        two = Two()
        for end, event in events:
            two.do(end, event)
        yield two


class HalfCloseTests(SynchronousTestCase):
    def test_in_every_order_eof_and_close_go_once_and_close_goes_last(self) -> None:
        """(S26)"""
        for two in histories(5):
            two.deliver_all()
            for sent in two.sent:
                self.assertIn(sent, ([], [Send.EOF], [Send.CLOSE], [Send.EOF, Send.CLOSE]))

    def test_in_every_order_a_channel_is_over_at_both_ends_or_at_none(self) -> None:
        """(S26)"""
        for two in histories(5):
            two.deliver_all()
            self.assertEqual(two.ends[0].over, two.ends[1].over)
            self.assertEqual(two.ends[0].over, all(Send.CLOSE in sent for sent in two.sent))

    def test_in_every_order_finishing_both_ends_ends_the_channel(self) -> None:
        """(S26)"""
        for two in histories(4):
            for end in (0, 1):
                two.do(end, "finish")
            two.deliver_all()
            self.assertTrue(two.ends[0].over)

    def test_one_direction_goes_on_when_the_other_has_ended(self) -> None:
        end = HalfClose()
        self.assertEqual(end.eof(), ())
        self.assertEqual((end.out, end.into), (Half.OPEN, Half.ENDED))

    def test_both_ended_in_order_means_close(self) -> None:
        end = HalfClose()
        self.assertEqual(end.finish(), (Send.EOF,))
        self.assertEqual(end.eof(), (Send.CLOSE,))
        self.assertFalse(end.over)
        self.assertEqual(end.close(), ())
        self.assertTrue(end.over)

    def test_the_last_to_finish_sends_both(self) -> None:
        end = HalfClose()
        end.eof()
        self.assertEqual(end.finish(), (Send.EOF, Send.CLOSE))

    def test_close_is_answered_by_close_without_eof(self) -> None:
        end = HalfClose()
        self.assertEqual(end.close(), (Send.CLOSE,))
        self.assertTrue(end.over)
        self.assertEqual(end.finish(), ())

    def test_drop_ends_the_direction_in_order(self) -> None:
        self.assertEqual(HalfClose().drop(), (Send.EOF, Send.CLOSE))
