"""No text from elsewhere drives a terminal, breaks a line, or ends `avictl` (H5)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata

import msgspec
import yaml

from avinet.wire.fleet import EventList
from avinet.wire.jobs import JobOutput
from avinet.wire.problem import Problem
from tests.cli import fleet
from tests.cli.scripted import PATIENCE_S, ScriptedCase, problem, said, told

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\x07\x08\x7f"
HOSTILE = f"a{ESCAPES}\r\nroot@host# \u2028b\u202ec\u2066\u200f\U000e0041\ufeff\ttail"
ENGINE = msgspec.structs.replace(
    fleet.ENGINE, hostname=HOSTILE, version=HOSTILE, dataplane=HOSTILE, image=HOSTILE, problem=HOSTILE, address=HOSTILE
)
RUN = told(
    *fleet.RUN[:2],
    *(JobOutput(id="se-1", text=f"{HOSTILE}\n", stream=stream) for stream in ("out", "err")),
    *fleet.RUN[3:],
)
EVENTS = EventList(items=[msgspec.structs.replace(fleet.EVENTS.items[0], kind=HOSTILE, outcome=HOSTILE)], next=HOSTILE)
ROLLOUT = msgspec.structs.replace(fleet.ROLLOUT, state="stopped", why=HOSTILE)
STATUS = msgspec.structs.replace(fleet.STATUS, version=HOSTILE, ssh=[HOSTILE], https=[HOSTILE])


def driving(text: str) -> set[str]:
    """The characters in `text` that a terminal obeys: controls, marks of direction, invisible ones."""
    return {each for each in text if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp", "Cs")} - {"\n", "\t"}


def plain(shown: bytes) -> str:
    """What a terminal shows, without its own line ends and the bold of a header."""
    return shown.decode().replace("\r\n", "\n").replace("\x1b[1m", "").replace("\x1b[0m", "")


class HostileTests(ScriptedCase):
    def test_tables_are_safe_in_a_pipe_too_as_their_rows_are_lines(self) -> None:
        for typed, message in (
            ("se show se-1", ENGINE),
            ("events", EVENTS),
            ("doctor", STATUS),
            ("config rollout show web", ROLLOUT),
            ("config rollout follow web", ROLLOUT),
        ):
            self.answers(said(message))
            ended = self.avictl(*typed.split())
            self.assertEqual(driving(ended.out), set(), typed)
            self.assertFalse([line for line in ended.out.splitlines() if line.startswith("root@")])
        self.answers(said(EVENTS))
        self.assertEqual(len(self.avictl("events").out.splitlines()), 3)

    def test_programs_have_it_unchanged(self) -> None:
        self.answers(said(ENGINE))
        self.assertEqual(json.loads(self.avictl("-o", "json", "se", "show", "se-1").out)["hostname"], HOSTILE)
        self.assertEqual(yaml.safe_load(self.avictl("-o", "yaml", "se", "show", "se-1").out)["hostname"], HOSTILE)
        self.answers(RUN)
        self.assertEqual(self.avictl("run", "se-1", "ping").out, f"{HOSTILE}\n")

    def test_a_refusal_is_one_line_whatever_it_says(self) -> None:
        self.answers(problem(Problem(status=409, title=HOSTILE, detail=HOSTILE, hint=HOSTILE), 409))
        self.assertIn("\\x1b]0;owned", self.refused(4, "status"))
        self.answers(said(b'{"' + HOSTILE.encode() + b'": 1}'))
        self.refused(6, "status")

    def test_nothing_drives_a_terminal_in_any_form(self) -> None:
        for typed, message in (
            ("se show se-1", ENGINE),
            ("-o json se show se-1", ENGINE),
            ("-o yaml se show se-1", ENGINE),
            ("run se-1 ping", RUN),
            ("-o json run se-1 ping", RUN),
            ("jobs show 0000000000001-abc --follow", RUN),
            ("events", EVENTS),
            ("config rollout show web", ROLLOUT),
        ):
            self.answers(message if isinstance(message, bytes) else said(message))
            code, shown = self.on_terminal(*typed.split())
            self.assertEqual((code, driving(plain(shown))), (0, set()), (typed, shown))
            self.assertIn(b"owned", shown)

    def test_what_the_operator_typed_is_no_exception(self) -> None:
        for verb in ("show", "delete", "revoke"):
            self.refused(4, "se", verb, HOSTILE)
        for words in ((HOSTILE,), ("se", HOSTILE), ("status", f"--{HOSTILE}"), ("-o", HOSTILE, "status")):
            self.refused(2, *words)
        for words in (("config", "apply", "-f", HOSTILE), ("init", "--config", HOSTILE)):
            self.refused(1, *words)
        self.refused(6, "status", socket=f"{self.folder}/{HOSTILE}")

    def test_bytes_that_are_no_utf8_on_the_command_line(self) -> None:
        odd = "\udcff"
        for words in (
            ("events", "--after", odd),
            ("se", "list", "--label", f"{odd}=x"),
            ("se", "create", "--label", f"a={odd}"),
            ("run", "se-1", "ping", odd),
            ("connect", "se-1", odd),
        ):
            self.assertIn("UTF-8", self.refused(2, *words))
        self.refused(4, "se", "show", odd)
        self.refused(2, odd)
        self.refused(6, "status", socket=f"{self.folder}/{odd}")
        self.answers(said(b"bundle"))
        ended = self.avictl("image", "build", "--out", str(self.folder / odd))
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertTrue((self.folder / odd).exists())

    def test_a_stream_of_an_encoding_without_these_letters(self) -> None:
        self.answers(said(msgspec.structs.replace(fleet.ENGINE, hostname="Zürich 東京")))
        done = subprocess.run(
            [sys.executable, "-m", "avinet.cli", "--socket", self.path, "se", "show", "se-1"],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertIn(b"Z\\xfcrich \\u6771\\u4eac", done.stdout)
