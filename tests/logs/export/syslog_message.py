"""Syslog as RFC 5424 (section 6) and RFC 5425 (section 4.3) have it, to the letter: what is not that, is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[\x21\x23-\x3c\x3e-\x5c\x5e-\x7e]{1,32}"  # SD-NAME: no space, quote, equals or closing bracket
_PARAM = rf'{_NAME}="(?:[^"\\\]]|\\["\\\]])*"'
_MESSAGE = re.compile(
    r"<(?P<pri>0|[1-9][0-9]{0,2})>(?P<version>[1-9][0-9]{0,2})"
    r" (?P<time>-|[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2}))"
    r" (?P<host>[\x21-\x7e]{1,255}) (?P<app>[\x21-\x7e]{1,48}) (?P<process>[\x21-\x7e]{1,128}) (?P<kind>[\x21-\x7e]{1,32})"
    rf" (?P<data>-|(?:\[{_NAME}(?: {_PARAM})*\])+)(?: (?P<text>.*))?\Z",
    re.DOTALL,
)
_ONE = re.compile(rf' ({_NAME})="((?:[^"\\\]]|\\["\\\]])*)"')


@dataclass(frozen=True)
class Message:
    """One message; `data` are the parameters of its only element, `element` the id of that."""

    facility: int
    severity: int
    time: str
    host: str
    app: str
    kind: str
    element: str
    data: dict[str, str]
    text: bytes


def parsed(message: bytes) -> Message:
    """What is in a message. Raises `ValueError` for what is none."""
    text = message.decode("utf-8")
    found = _MESSAGE.match(text)
    if found is None or int(found["pri"]) > 191:
        raise ValueError(f"no message: {text!r}")
    data = found["data"]
    return Message(
        int(found["pri"]) // 8,
        int(found["pri"]) % 8,
        found["time"],
        found["host"],
        found["app"],
        found["kind"],
        data[1:].split(" ")[0].rstrip("]"),
        {name: re.sub(r"\\(.)", r"\1", value) for name, value in _ONE.findall(data)},
        (found["text"] or "").encode(),
    )


def unframed(data: bytes) -> tuple[list[Message], bytes]:
    """The whole messages at the beginning of a stream, and the rest. Raises `ValueError`."""
    messages = []
    while found := re.match(rb"([1-9][0-9]{0,9}) ", data):
        end = found.end() + int(found[1])
        if end > len(data):
            break
        messages.append(parsed(data[found.end() : end]))
        data = data[end:]
    if not re.match(rb"(?:[1-9][0-9]{0,9}(?: |\Z)|\Z)", data):
        raise ValueError(f"no length: {data[:20]!r}")
    return messages, data
