"""What `avictl` prints: tables for people, JSON and YAML for programs; no text from elsewhere reaches a tty raw."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from avinet.units import format_seconds

Output = Literal["table", "json", "yaml"]


def escaped(text: str) -> str:
    """`text` with every control character made visible, so that none of it can drive the terminal."""
    return "".join(each if each.isprintable() or each in "\n\t" else f"\\x{ord(each):02x}" for each in text)


def raw_unless_terminal(text: str) -> str:
    """`text` as it is for a file or a pipe, escaped on a terminal."""
    return escaped(text) if sys.stdout.isatty() else text


def emit(value: Any, output: Output) -> None:
    """Print a message as JSON or YAML."""
    plain = msgspec.to_builtins(value)
    if output == "json":
        print(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())
    else:
        import yaml

        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; a terminal that is too narrow wraps them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        shown.add_column(column, no_wrap=True, overflow="ellipsis")
    for row in rows:
        shown.add_row(*(Text(escaped("" if cell is None else str(cell))) for cell in row))
    width = None if sys.stdout.isatty() else 240
    Console(width=width, highlight=False, soft_wrap=False).print(shown)


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one a line; what is empty is left out."""
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        print(f"{name:<{width}}  {escaped(str(value))}")


def ago(at: float | None) -> str:
    """How long ago a time (seconds since 1970) was."""
    return "-" if not at else format_seconds(max(0.0, time.time() - at)) + " ago"


def moment(at: float) -> str:
    """A time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
