"""Label expressions: what they select, and what is none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid
from avinet.labels import parse_selector

PARIS = {"site": "paris", "room": "2"}


class SelectorTests(SynchronousTestCase):
    def test_what_is_selected(self) -> None:
        for text, wanted in {
            "": True,
            "site=paris": True,
            "site=lyon": False,
            "site!=lyon": True,
            "site!=paris": False,
            "site": True,
            "!site": False,
            "!retired": True,
            "retired": False,
            "retired!=yes": True,
            "site=paris,room=2": True,
            " site = paris , room != 3 , ! retired ": True,
            "site=paris,room=3": False,
            "room=": False,
            "room!=": True,
        }.items():
            self.assertIs(parse_selector(text).matches(PARIS), wanted, text)

    def test_what_is_no_expression(self) -> None:
        for text in (
            "=",
            "=x",
            "a==b",
            "a=b=c",
            "a b",
            "!",
            "!a=b",
            "a=b,",
            ",",
            "A=b",
            "a in (b)",
            "x" * 1025,
        ):
            self.assertRaises(Invalid, parse_selector, text)

    @given(st.text(max_size=30), st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3))
    def test_anything_is_one_or_is_said_not_to_be(self, text: str, labels: dict[str, str]) -> None:
        try:
            parse_selector(text).matches(labels)
        except Invalid as error:
            self.assertNotIn("\n", str(error))
