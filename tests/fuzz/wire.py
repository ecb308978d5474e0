"""The JSON of every message: it is the message or `Invalid`, and a message is written so that it is read as the same."""

from __future__ import annotations

import copy
import inspect
import re
from types import ModuleType
from typing import Any

import msgspec

from avinet.errors import AvinetError
from avinet.wire import certificates, command, config, enrolment, fleet, problem, report, session, trust
from avinet.wire.message import Message, decode, decode_signed, encode
from tests.fuzz.steps import Draw, joined, steps
from tests.fuzz.vocabulary import damaged
from tests.fuzz.watch import check, watched

LIMIT_BYTES = 1500
_MODULES: tuple[ModuleType, ...] = (certificates, command, config, enrolment, fleet, problem, report, session, trust)
TYPES: list[Any] = [
    each
    for module in _MODULES
    for _, each in sorted(inspect.getmembers(module, inspect.isclass))
    if issubclass(each, Message) and each.__module__ == module.__name__
]


_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        65535,
        65536,
        2**53,
        2**63 - 1,
        2**63,
        2**64,
        -(2**63),
        1.5,
        1e308,
        -0.0,
        [],
        {},
        [[]],
    ),
    *(
        "",
        "a",
        "a\n",
        "x" * 1025,
        "\x1b[2J",
        "\u202e",
        "../x",
        "\0",
        "世",
        "host:80",
        "[::1]:65536",
        "127.0.0.1",
        "*",
        "/",
    ),
    *({"": ""}, {"a": {"a": {}}}, ["a"] * 40, {str(each): each for each in range(40)}),
)
_RAW = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"[" * 1200,
    b'"\\ud800"',
    b"\xff",
    b'{"a":1,"a":2}',
    b"1" * 400,
    b"\xef\xbb\xbf",
    b"// x",
)


def _edit(tree: Any, draw: Draw) -> Any:
    """`tree` with one value changed, added or taken away."""
    places: list[tuple[Any, Any]] = [([tree], 0)]
    for container, key in places:
        found = container[key]
        if isinstance(found, dict):
            places += [(found, name) for name in found]
        elif isinstance(found, list):
            places += [(found, at) for at in range(len(found))]
    container, key = draw.pick(places[:256])
    match draw.below(4):
        case 0 | 1:
            container[key] = copy.deepcopy(draw.pick(_VALUES))
        case 2 if isinstance(container, dict):
            del container[key]
        case _ if isinstance(container, dict):
            container[draw.pick(("extra", "", "name", "kind", str(key) + "_"))] = copy.deepcopy(container[key])
    return places[0][0][0]


def run(data: bytes) -> None:
    """Make a small message of the type that the first step names, edit it, and have it read in both ways."""
    program = steps(data)
    first = Draw(next(program, b""))
    kind = first.pick(TYPES)
    tree = copy.deepcopy(EXAMPLES[kind])
    damage: list[Draw] = []
    for step in program:
        draw = Draw(step)
        if draw.byte() < 224:
            tree = _edit(tree, draw)
        else:
            damage.append(draw)
    body = msgspec.json.encode(tree)
    for draw in damage:
        how, where, what = draw.byte(), draw.byte(), draw.pick((*_RAW, draw.some(16)))
        body = damaged(body, how, where, what)
    _read(kind, body)


def _read(kind: Any, body: bytes) -> None:
    with watched():
        message: Any = None
        try:
            message = decode(body, kind, limit_bytes=LIMIT_BYTES)
        except AvinetError as error:
            check("\n" not in str(error) and len(str(error)) < 1000, f"an error of {len(str(error))} characters")
        try:
            signed = decode_signed(body, kind, limit_bytes=LIMIT_BYTES)
        except AvinetError:
            signed = None
        check(signed is None or signed == message, f"signed it is {signed}, and else {message}")
        if message is not None:
            check(len(body) <= LIMIT_BYTES, "it is longer than it may be")
            written = encode(message)
            again = decode(written, kind, limit_bytes=1 << 20)
            check(again == message, f"{message} becomes {again}")
            check(encode(again) == written, f"{message} is written in two ways")


def _example(kind: Any, deep: int = 0) -> Any:
    """A value of a type that is as small as it can be."""
    described = msgspec.inspect.type_info(kind)
    return _smallest(described, deep)


def _smallest(described: Any, deep: int) -> Any:
    info = msgspec.inspect
    match described:
        case info.StructType():
            shown = {
                field.encode_name: _smallest(field.type, deep + 1)
                for field in described.fields
                if field.required or deep < 2
            }
            return shown | ({described.tag_field: described.tag} if described.tag_field else {})
        case info.Metadata():
            return _smallest(described.type, deep)
        case info.DictType():
            return {_smallest(described.key_type, deep): _smallest(described.value_type, deep)} if deep < 3 else {}
        case info.ListType() | info.VarTupleType() | info.SetType() | info.FrozenSetType():
            return [_smallest(described.item_type, deep)] if deep < 3 else []
        case info.TupleType():
            return [_smallest(each, deep) for each in described.item_types]
        case info.UnionType():
            return _smallest(described.types[0], deep)
        case info.LiteralType():
            return described.values[0]
        case info.EnumType():
            return next(iter(described.cls)).value
        case info.StrType():
            return _text(described.pattern or "")
        case info.IntType():
            return described.ge or 0
        case info.FloatType():
            return 0.5
        case info.BoolType():
            return True
        case _:
            return None


_TEXTS = (
    *("a", "/a", "127.0.0.1", "127.0.0.1:80", "a" * 16, "0" * 64, "TERM", "200"),
    *(f"-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n" for what in ("CERTIFICATE", "PRIVATE KEY")),
    *("ssh-ed25519 " + "A" * 68, "SHA256:" + "A" * 43, "A" * 43 + "="),
)


def _text(pattern: str) -> str:
    """A text that matches a pattern of a message."""
    found = next((text for text in _TEXTS if re.search(pattern, text)), None)
    if found is None:
        raise LookupError(f"no example matches {pattern}: add one")
    return found


EXAMPLES = {kind: _example(kind) for kind in TYPES}
SEEDS = [
    *(joined([bytes((which,))]) for which in range(len(TYPES))),
    *(joined([bytes((which,)), bytes((0, 1, 0, value))]) for which in range(len(TYPES)) for value in range(0, 40, 13)),
    *(joined([b"\0", bytes((255, 1, 128, raw))]) for raw in range(len(_RAW))),
    *(joined([bytes((which,)), b"\0\1\2", b"\0\2\3"]) for which in range(len(TYPES))),
]
