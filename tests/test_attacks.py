"""Every attack that the tunnel, a node and a service engine must survive is named by a test that makes it.

A test names the rows that it holds in its docstring, or in that of its class or module, as in `(S1, H12)`.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROWS = {
    "S1": "the client says that it has authenticated",
    "S2": "channels and requests before authentication",
    "S3": "messages put in before NEWKEYS",
    "S4": "the beginning of the encrypted stream cut off (Terrapin)",
    "S5": "two authentications at once; a disconnection while one is decided",
    "S6": "one key asked about, another one signs",
    "S7": "keys of other kinds, huge keys, SHA-1",
    "S8": "packets made to be slow or large before authentication; compression",
    "S9": "unknown messages, one after the other",
    "S10": "silence after connecting, or a byte now and then",
    "S11": "crowds, and packets that are begun by all of them",
    "S12": "key exchanges without end, on one connection and on many",
    "S13": "tries without end on one connection",
    "S14": "looking a key up is made expensive",
    "S15": "packets whose lengths cannot be",
    "S16": "keys used for what they are not for",
    "S17": "another host key",
    "S20": "changes of keys at every moment, from either end, thousands of them, and out of order",
    "S21": "a change of keys that is begun and not ended",
    "S22": "messages in the gap between the new keys of both directions",
    "S23": "packet counters that come to their end",
    "S24": "a reader that does not read, and a source without end",
    "S25": "a target that does not read",
    "S26": "the ends of a connection in every order",
    "S27": "windows and packet sizes that cannot be",
    "S28": "messages for channels that are not there",
    "S29": "connections that come and go at once",
    "S30": "more channels, listeners and answers than there may be",
    "S31": "forwarding to and from anything that is not in the table of services",
    "S32": "a second login of one key, from a copy, a snapshot and after a power cut",
    "S33": "every message changed, cut and made up",
    "S34": "a tunnel that is half-dead",
    "H1": "answers and requests without end, redirects, cookies, packed bodies",
    "H2": "names that lead out of the log folder over SFTP, or of the folders of segments",
    "H3": "a segment that is none, or asks for too much memory or time when it is read",
    "H4": "a service engine that names another one",
    "H5": "terminal escapes in what is shown",
    "H6": "script in what a door answers",
    "H7": "floods of names in reports",
    "H8": "formulas in what a spreadsheet reads",
    "H9": "configuration values that would become directives",
    "H10": "an image that was stolen claims ids before their owners do",
    "H12": "requests to the control service by whoever has no node's key",
    "H13": "answers of one service engine taken for another's",
    "E1": "one request over and over",
    "E3": "a reply that is lost",
    "E4": "claims that are wrong, used, expired, or of another service engine",
    "E5": "signatures with a part missing, changed, doubled or swapped",
    "E6": "a proof of possession by another key; one key for two ids",
    "E7": "a service engine that is set up anew while its old tunnel is alive",
    "E8": "a key that was revoked while its tunnel is open",
    "E9": "certificates of another CA, expired, or for another name",
    "E11": "a full disk",
    "E12": "what stands behind one door, asked for at another",
}
HERE = Path(__file__).parent
_ROW = re.compile(r"([SHE])(\d+)(?:[-–][SHE]?(\d+))?")


def rows(text: str | None) -> Iterator[str]:
    """The rows that a docstring names; `E4-E6` are three."""
    for tag in re.findall(r"\(([SHE]\d+[^)]*)\)", text or ""):
        for kind, first, last in _ROW.findall(tag):
            for number in range(int(first), int(last or first) + 1):
                yield f"{kind}{number}"


def held() -> dict[str, list[str]]:
    """The tests that hold each row."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(HERE.rglob("test_*.py")):
        module = ast.parse(path.read_bytes())
        for case in [each for each in module.body if isinstance(each, ast.ClassDef)]:
            for test in case.body:
                if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test_"):
                    texts = (ast.get_docstring(module), ast.get_docstring(case), ast.get_docstring(test))
                    for row in {row for text in texts for row in rows(text)}:
                        found[row].append(f"{path.relative_to(HERE)}:{case.name}.{test.name}")
    return found


class AttackTests(SynchronousTestCase):
    def test_every_attack_has_a_test(self) -> None:
        tests = held()
        self.assertEqual([row for row in ROWS if not tests[row]], [])

    def test_every_attack_that_a_test_names_is_in_the_table(self) -> None:
        self.assertEqual(set(held()) - set(ROWS), set())

    def test_the_table_has_every_attack_on_the_tunnel(self) -> None:
        before, after = range(1, 18), range(20, 35)
        self.assertEqual([row for row in ROWS if row.startswith("S")], [f"S{number}" for number in (*before, *after)])

    def test_rows_are_read_as_they_are_written(self) -> None:
        self.assertEqual(list(rows("x (S1, S2) y (E4-E6) (H12)")), ["S1", "S2", "E4", "E5", "E6", "H12"])
        self.assertEqual(list(rows("no (row) here: S1")), [])
