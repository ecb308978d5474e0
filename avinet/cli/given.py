"""What is given to several verbs in the same form: labels, and the yes to what cannot be undone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from avinet.errors import Invalid


def labels_of(pairs: Sequence[str]) -> dict[str, str]:
    """Labels from `KEY=VALUE`. Raises `Invalid`."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise Invalid(f"{pair!r} is no label", hint="write it as site=paris")
        found[key] = value
    return found


def sure(question: str, to_do: str, yes: bool) -> None:
    """Go on if the operator has said `yes`, or says so when asked; `to_do` is the verb."""
    if yes:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise click.UsageError(f"there is nobody to ask whether to {to_do}: say --yes")
    click.confirm(question, abort=True, err=True)
