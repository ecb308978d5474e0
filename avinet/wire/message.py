"""What all messages share: the base type, the field types with their limits, and the way in and out of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from avinet.errors import Invalid, TooLarge
from avinet.ids import ID_PATTERN

M = TypeVar("M")

# Patterns end in `$(?!\n)`: Python's `$` alone also matches before a last newline, which must reach no file.

Id = Annotated[str, Meta(pattern=ID_PATTERN, max_length=63)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Revision = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, lt=2**40)]
UnixTime = Annotated[float, Meta(ge=0, lt=2**40, description="seconds since 1970-01-01T00:00:00Z")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="SHA-256, in lower-case hexadecimal")]
PublicKey = Annotated[
    str,
    Meta(pattern=r"^ssh-ed25519 [A-Za-z0-9+/]{68}$(?!\n)", description="an Ed25519 key in OpenSSH's one-line format"),
]
Fingerprint = Annotated[
    str, Meta(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$(?!\n)", description="as OpenSSH prints it: SHA256: and base64")
]
Line = Annotated[str, Meta(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)", description="one printable line")]
Address = Annotated[
    str,
    Meta(
        pattern=r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$(?!\n)",
        description="host:port; an IPv6 address stands in brackets",
    ),
]
LabelKey = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._/-]{0,62}$(?!\n)")]
LabelValue = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,63}$(?!\n)")]
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
        raise Invalid(f"the {what} is not valid: {_one_line(str(error))}") from error


def decode_signed(data: bytes, into: type[M], *, limit_bytes: int, what: str = "message") -> M:
    """As `decode`, for bytes that carry a signature: no two parsers may read them differently.

    Refuses duplicate keys, NaN and infinities too (RFC 8259 leaves both open).
    """
    if len(data) > limit_bytes:
        raise TooLarge(f"the {what} has more than {limit_bytes} bytes")
    try:
        plain = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        return msgspec.convert(plain, into)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the {what} is not valid: {_one_line(str(error))}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _one_line(text: str) -> str:
    shown = text.replace("\n", " ")
    return shown if len(shown) <= 300 else shown[:297] + "..."


def schemas(types: Iterable[type]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """JSON schemas (2020-12) of `types`, and the components they refer to, as `#/components/schemas/NAME`."""
    found, components = msgspec.json.schema_components(list(types), ref_template="#/components/schemas/{name}")
    return list(found), components
