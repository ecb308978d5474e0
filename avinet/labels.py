"""Floor 0: label expressions, as operators select service engines by: `site=paris,room!=2,!retired`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from avinet.errors import Invalid

LIMIT_CHARS = 1024
_KEY = r"[a-z0-9][a-z0-9._/-]{0,62}"
_TERM = re.compile(rf"\s*(?:(!)\s*({_KEY})|({_KEY})\s*(?:(!?=)\s*([A-Za-z0-9._-]{{0,63}}))?)\s*\Z")


@dataclass(frozen=True)
class _Term:
    """`key` must be there, with `value` where one is given; or, when `negated`, must not."""

    key: str
    value: str | None
    negated: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        found = self.key in labels if self.value is None else labels.get(self.key) == self.value
        return found is not self.negated


@dataclass(frozen=True)
class Selector:
    """All of its terms must hold; without any, everything matches."""

    terms: tuple[_Term, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether something with these labels is selected."""
        return all(term.holds(labels) for term in self.terms)


def parse_selector(text: str) -> Selector:
    """A selector from terms `KEY=VALUE`, `KEY!=VALUE`, `KEY` and `!KEY`, separated by commas. Raises `Invalid`."""
    if len(text) > LIMIT_CHARS:
        raise Invalid(f"a label expression has at most {LIMIT_CHARS} characters")
    terms = []
    for part in text.split(",") if text.strip() else ():
        match = _TERM.match(part)
        if match is None:
            raise Invalid(
                f"{part.strip()[:80]!r} is no label expression", hint="write it as site=paris,room!=2,!retired"
            )
        absent, missing, key, operator, value = match.groups()
        terms.append(_Term(missing, None, True) if absent else _Term(key, value, operator == "!="))
    return Selector(tuple(terms))
