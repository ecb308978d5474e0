"""The documentation as docutils reads it: every page, its literal blocks and its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docutils.core
import docutils.nodes
import docutils.utils
from docutils.parsers.rst import Directive, directives, roles
from typing_extensions import override

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.rst")), "README.rst"]


class TableOfContents(Directive):
    """Sphinx's `toctree`: its content is names of pages."""

    has_content = True
    option_spec = {"maxdepth": directives.positive_int}

    @override
    def run(self) -> list[docutils.nodes.Node]:
        return [docutils.nodes.comment("", "\n".join(self.content), pages=list(self.content))]


def _page(name: str, raw: str, text: str, *_: Any, **__: Any) -> tuple[list[docutils.nodes.Node], list[Any]]:
    return [docutils.nodes.inline(raw, text, classes=["page"])], []


def read(page: str) -> tuple[docutils.nodes.document, list[str]]:
    """A page, and what docutils has to say against it."""
    directives.register_directive("toctree", TableOfContents)
    roles.register_local_role("doc", _page)
    settings = {"report_level": 1, "halt_level": 5, "warning_stream": False, "file_insertion_enabled": False}
    path = ROOT / page
    document = docutils.core.publish_doctree(
        path.read_text("utf-8"), source_path=str(path), settings_overrides=settings
    )
    return document, [each.astext() for each in document.findall(docutils.nodes.system_message)]


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The literal blocks of a page: their language (empty: none was named), and their text."""
    for block in read(page)[0].findall(docutils.nodes.literal_block):
        language = [each for each in block["classes"] if each != "code"]
        yield (language[0] if language else ""), block.astext()


def commands(page: str, program: str) -> Iterator[list[str]]:
    """The words of every command line in the literal blocks of a page that runs `program`, without comments."""
    for _, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines():
            words = line.partition(" #")[0].split()
            if program in words[:5] and words[0] != "|":  # that would be the picture of who dials whom
                yield words[words.index(program) + 1 :]


def tables(page: str) -> Iterator[list[list[str]]]:
    """The tables of a page, as rows of texts; the first row is the head."""
    for table in read(page)[0].findall(docutils.nodes.table):
        yield [
            [cell.astext() for cell in row.findall(docutils.nodes.entry)] for row in table.findall(docutils.nodes.row)
        ]


def inline(page: str) -> Iterator[str]:
    """The inline literals of a page, with their white space as one space."""
    for each in read(page)[0].findall(docutils.nodes.literal):
        yield re.sub(r"\s+", " ", each.astext())
