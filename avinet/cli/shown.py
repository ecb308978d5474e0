"""What `avictl` prints: tables for people, JSON and YAML for programs.

No text from elsewhere reaches a terminal raw: neither controls nor marks that turn the direction of writing.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TextIO

import msgspec

from avinet.units import format_seconds

Output = Literal["table", "json", "yaml"]
FORMATS = ("table", "json", "yaml")
_WIDEST = 100_000


def _visible(each: str) -> str:
    code = ord(each)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escaped(text: str) -> str:
    """`text` with every character that could drive a terminal made visible; it keeps its lines and tabs."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _visible(each) for each in text)


def one_line(text: str) -> str:
    """`text` without line breaks: what a peer says is one line of ours."""
    return re.sub(r"\s*[\n\t]\s*", " ", text.strip())


def safe(text: str, stream: TextIO) -> str:
    """Text from elsewhere for `stream`: as it is for a file or a pipe, escaped for a terminal."""
    return escaped(text) if stream.isatty() else text


def write(text: str, stream: TextIO) -> None:
    """Write text from elsewhere; see `safe`."""
    stream.write(safe(text, stream))


def emit(value: Any, output: Output) -> None:
    """Print a message as JSON or YAML."""
    plain = msgspec.to_builtins(value)
    if output == "json":
        emit_json(msgspec.json.encode(plain))
        return
    import yaml

    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=not sys.stdout.isatty()), end="")


def emit_json(data: bytes) -> None:
    """Print JSON in lines. On a terminal what is not printable is escaped, as JSON escapes it."""
    text = msgspec.json.format(data, indent=2).decode()
    if sys.stdout.isatty():
        # Such a character stands inside of a string; above 16 bits it is a pair of surrogates.
        text = "".join(each if each.isprintable() or each == "\n" else _json_escape(each) for each in text)
    print(text)


def emit_line(value: Any, output: Output) -> None:
    """Print one message of many, as it comes: a line of JSON, or a document of YAML."""
    if output != "json":
        print("---")
        emit(value, output)
    else:
        text = msgspec.json.encode(value).decode()
        if sys.stdout.isatty():
            text = "".join(each if each.isprintable() else _json_escape(each) for each in text)
        print(text)
    sys.stdout.flush()


def _json_escape(each: str) -> str:
    pair = each.encode("utf-16-be")
    return "".join(f"\\u{pair[at] << 8 | pair[at + 1]:04x}" for at in range(0, len(pair), 2))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; a terminal that is too narrow shortens cells, a file or a pipe has them whole."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        shown.add_column(column, no_wrap=True, overflow="ellipsis")
    for row in rows:
        shown.add_row(*(Text("" if cell is None else one_line(escaped(str(cell)))) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else _WIDEST, highlight=False)
    with console.capture() as drawn:
        console.print(shown)
    for line in drawn.get().splitlines():
        print(line.rstrip())


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one a line; what is empty is left out."""
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        print(f"{name:<{width}}  {one_line(escaped(str(value)))}")


def since(at: float | None) -> str:
    """How long it has lasted, from a time (seconds since 1970) until now; a dash for what never was."""
    return "-" if not at else format_seconds(max(0.0, time.time() - at))


def ago(at: float | None) -> str:
    """How long ago a time was; a dash for what never was."""
    return "-" if not at else f"{since(at)} ago"


def moment(at: float) -> str:
    """A time in UTC."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
    except (ValueError, OverflowError, OSError):
        return f"@{at:.0f}"


def labels(of: Mapping[str, str]) -> str:
    """Labels as an operator writes them."""
    return " ".join(f"{key}={value}" for key, value in of.items())
