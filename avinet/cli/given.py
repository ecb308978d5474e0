"""What is given to several verbs in the same form: labels, where a node lives, the yes to what cannot be undone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avinet.cli.context import SETTINGS, Context
from avinet.errors import Invalid

if TYPE_CHECKING:
    from avinet.controller.backup import Place
    from avinet.controller.settings import ControllerSettings

config_option = click.option(
    "--config",
    "settings",
    type=click.Path(path_type=Path),
    help=f"The node's settings, which name its state folder (default {SETTINGS}).",
)
state_option = click.option(
    "--state", type=click.Path(path_type=Path), help="The state folder, in place of the one in the settings."
)


def place_of(context: Context, settings: Path | None, state: Path | None) -> Place:
    """Where the node lives. With --state no settings are read, unless they are named."""
    from avinet.controller.backup import Place
    from avinet.controller.settings import ControllerSettings
    from avinet.settings import load

    named = settings or context.settings
    path = (named or SETTINGS).absolute()
    if state is not None:
        return Place(state.absolute(), path if named else None)
    return Place(path.parent / load(path, ControllerSettings).state, path)


def settings_of(context: Context, settings: Path | None) -> tuple[ControllerSettings, Path]:
    """The node's settings, and the file that they are in."""
    from avinet.controller.settings import ControllerSettings
    from avinet.settings import load

    path = (settings or context.settings or SETTINGS).absolute()
    return load(path, ControllerSettings), path


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
