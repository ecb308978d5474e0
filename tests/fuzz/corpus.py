"""The inputs that are kept for each target: a file of lines, each of them an input in base64."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent / "corpus"


def kept(target: str) -> list[bytes]:
    """The inputs that are kept for a target."""
    path = HERE / f"{target}.txt"
    return [b64decode(line) for line in path.read_text("ascii").splitlines()] if path.exists() else []


def keep(target: str, inputs: Iterable[bytes]) -> int:
    """Keep these and no others, short ones first; returns how many there are."""
    chosen = sorted(set(inputs), key=lambda data: (len(data), data))
    lines = [b64encode(data).decode("ascii") + "\n" for data in chosen]
    (HERE / f"{target}.txt").write_text("".join(lines), "ascii")
    return len(lines)


def spread(inputs: Iterable[bytes], folder: Path) -> None:
    """Put each input into a file of its own, as libFuzzer reads them."""
    folder.mkdir(exist_ok=True)
    for data in inputs:
        (folder / sha256(data).hexdigest()[:16]).write_bytes(data)


def gathered(folder: Path) -> list[bytes]:
    """The inputs in the files of a folder."""
    return [path.read_bytes() for path in sorted(folder.iterdir())]
