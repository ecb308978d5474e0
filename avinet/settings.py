"""Floor 0: settings from a TOML file into a frozen type, with one clear line for whatever is wrong in it."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from avinet.errors import LocalError
from avinet.files import read_limited

S = TypeVar("S", bound="Settings")
LIMIT_BYTES = 256 * 1024


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of settings; every field of a subclass has a safe default, or must be given."""


def parse(text: str, into: type[S], source: str) -> S:
    """The settings in the TOML `text`; `source` names it in errors.

    Raises `LocalError` for what is no TOML, an unknown key, a wrong type or a value out of range.
    """
    try:
        return msgspec.convert(tomllib.loads(text), into)
    except tomllib.TOMLDecodeError as error:
        raise LocalError(f"{source} is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise LocalError(f"{source}: {error}", hint=_suggestion(str(error), into)) from error


def load(path: Path, into: type[S]) -> S:
    """The settings in the TOML file at `path`. Raises `LocalError`."""
    data = read_limited(path, LIMIT_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LocalError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    return parse(text, into, str(path))


def _suggestion(message: str, into: type[Settings]) -> str:
    """What the operator may have meant by an unknown key that `message` quotes between backticks."""
    if "unknown field" not in message:
        return ""
    wrong = message.split("`")[1]
    close = difflib.get_close_matches(wrong, sorted(_names(into)), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _names(table: type[Settings]) -> set[str]:
    names: set[str] = set()
    for field in msgspec.structs.fields(table):
        names.add(field.encode_name)
        if isinstance(field.type, type) and issubclass(field.type, Settings):
            names |= _names(field.type)
    return names
