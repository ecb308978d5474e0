"""What all messages share: the base type, the field types with their limits, and the way in and out of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from avinet.errors import Invalid, TooLarge
from avinet.ids import ID_PATTERN

M = TypeVar("M")
_MEANINGS: dict[str, str] = {}
_MISSED = re.compile(r"Expected `str` matching regex '(.*)'(?: - at `(.*)`)?\Z", re.DOTALL)

# Patterns end in `$(?!\n)`: Python's `$` alone also matches before a last newline, which must reach no file.


def spelled(pattern: str, means: str, *, max_length: int | None = None) -> Meta:
    """The limits of a text that matches `pattern`; `means` says in errors and in the schema what that is."""
    _MEANINGS[pattern.replace("\\", "\\\\")] = means
    return Meta(pattern=pattern, description=means, max_length=max_length)


Id = Annotated[
    str, spelled(ID_PATTERN, "an id: 1 to 63 lower-case letters, digits and dashes, a letter or digit first")
]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Revision = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, lt=2**40)]
UnixTime = Annotated[float, Meta(ge=0, lt=2**40, description="seconds since 1970-01-01T00:00:00Z")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Sha256 = Annotated[str, spelled(r"^[0-9a-f]{64}$(?!\n)", "a SHA-256 in lower-case hexadecimal")]
PublicKey = Annotated[
    str, spelled(r"^ssh-ed25519 [A-Za-z0-9+/]{68}$(?!\n)", "an Ed25519 key in OpenSSH's one-line format")
]
Fingerprint = Annotated[
    str, spelled(r"^SHA256:[A-Za-z0-9+/]{43}$(?!\n)", "a fingerprint as OpenSSH prints it: SHA256: and base64")
]
Line = Annotated[str, spelled(r"^[^\x00-\x1f\x7f]*$(?!\n)", "one printable line", max_length=1024)]
Address = Annotated[
    str,
    spelled(
        r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$(?!\n)",
        "host:port, an IPv6 address in brackets",
    ),
]
LabelKey = Annotated[
    str, spelled(r"^[a-z0-9][a-z0-9._/-]{0,62}$(?!\n)", "a label's key: 1 to 63 lower-case letters, digits and ._/-")
]
LabelValue = Annotated[
    str, spelled(r"^[A-Za-z0-9._-]{0,63}$(?!\n)", "a label's value: up to 63 letters, digits and ._-")
]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=32)]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A value that crosses a wire. Fields at their default are left out."""


def encode(message: Any) -> bytes:
    """`message` as JSON, the same bytes for the same value: keys in the order of the fields, maps sorted."""
    return msgspec.json.encode(message, order="deterministic")


def decode(data: bytes, into: type[M], *, limit_bytes: int, what: str = "message") -> M:
    """The message of type `into` in the JSON `data`.

    Raises `TooLarge` above `limit_bytes`, `Invalid` for what is no such message, naming the field.
    """
    if len(data) > limit_bytes:
        raise TooLarge(f"the {what} has more than {limit_bytes} bytes")
    try:
        return msgspec.json.decode(data, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the {what} is not valid: {_plain(str(error))}") from error


def convert(plain: Any, into: type[M], what: str) -> M:
    """The message of type `into` in a plain value, as YAML or TOML give it. Raises `Invalid`, naming the field."""
    try:
        return msgspec.convert(plain, into)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Invalid(f"{what} is not valid: {_plain(str(error))}") from error


def decode_signed(data: bytes, into: type[M], *, limit_bytes: int, what: str = "message") -> M:
    """As `decode`, for bytes that carry a signature: no two parsers may read them differently.

    Refuses duplicate keys, NaN and infinities too (RFC 8259 leaves both open).
    """
    if len(data) > limit_bytes:
        raise TooLarge(f"the {what} has more than {limit_bytes} bytes")
    try:
        message = msgspec.json.decode(data, type=into)  # the first to look, as it keeps nothing that is not in `into`
        json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        return message
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the {what} is not valid: {_plain(str(error))}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _plain(text: str) -> str:
    """What was wrong, in one line, with the meaning of a pattern in place of the pattern."""
    found = _MISSED.match(text)
    if found is not None and found[1] in _MEANINGS:
        text = f"{found[2] or 'it'} must be {_MEANINGS[found[1]]}"
    shown = text.replace("\n", " ")
    return shown if len(shown) <= 300 else shown[:297] + "..."


def schemas(types: Iterable[type]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """JSON schemas (2020-12) of `types`, and the components they refer to, as `#/components/schemas/NAME`."""
    found, components = msgspec.json.schema_components(list(types), ref_template="#/components/schemas/{name}")
    return list(found), components
