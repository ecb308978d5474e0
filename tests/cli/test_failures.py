"""Whatever goes wrong is one line with a hint, and an exit code that is documented; never a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import click
import msgspec

from avinet import errors
from avinet.cli.completion import completion
from avinet.cli.main import avictl
from avinet.cli.node import MESSAGE_LIMIT_BYTES
from avinet.rest.problems import problem_of, status_of
from avinet.wire.problem import Problem
from tests.cli import fleet
from tests.cli.scripted import PATIENCE_S, Asked, ScriptedCase, problem, said
from tests.peers import require

AVICTL = (sys.executable, "-m", "avinet.cli")
REFUSALS: dict[errors.AvinetError, int] = {
    errors.NotFound("no"): 3,
    errors.Conflict("no"): 4,
    errors.Gone("no"): 4,
    errors.Precondition("no"): 4,
    errors.TooLarge("no"): 4,
    errors.Invalid("no"): 4,
    errors.Forbidden("no"): 5,
    errors.Unavailable("no"): 6,
    errors.TooMany("no"): 6,
    errors.TimedOut("no"): 6,
    errors.PeerError("no"): 6,
    errors.LocalError("no"): 1,
}
RUBBISH = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "binary": bytes(range(256)) * 8,
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of its own": b"HTTP/1.1 999 Said\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 Said\r\n" + b"a: b\r\n" * 20_000,
    "a line without end": b"HTTP/1.1 200 " + b"a" * 200_000,
    "half a body": b"HTTP/1.1 200 Said\r\nContent-Length: 99\r\n\r\n{",
    "a length of letters": b"HTTP/1.1 200 Said\r\nContent-Length: abc\r\n\r\n{}",
    "a length below zero": b"HTTP/1.1 200 Said\r\nContent-Length: -5\r\n\r\n{}",
    "broken chunks": b"HTTP/1.1 200 Said\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "no body": said(b""),
    "no JSON": said(b"<html>"),
    "no UTF-8": said(b'{"node":"\xff"}'),
    "another message": said(b'{"other":[]}'),
    "half of a surrogate pair": said(b'{"node":"\\ud800"}'),
    "nested without end": said(b"[" * 100_000),
}


class RefusalTests(ScriptedCase):
    def test_each_refusal_has_its_exit_code_and_its_hint(self) -> None:
        for error, code in REFUSALS.items():
            error.hint = "try this"
            self.answers(problem(problem_of(error), status_of(error)))
            self.assertEqual(self.refused(code, "se", "list"), "no; try this")

    def test_what_a_node_knows_nobody_by_is_not_permitted(self) -> None:
        self.answers(problem(Problem(status=401, title="Unauthorized"), 401))
        self.assertEqual(self.refused(5, "status"), "the node answered 401 Unauthorized")

    def test_a_refusal_that_is_no_problem_is_said_all_the_same(self) -> None:
        for body in (b"<html>", b"", b"\xff\x1b[31m", b"x" * 10_000):
            self.answers(said(body, 404, "text/html"))
            self.assertEqual(self.refused(3, "se", "show", "se-1"), "the node answered 404 Not Found")

    def test_every_verb_says_that_there_is_no_node(self) -> None:
        gone = str(self.folder / "gone")
        for typed in (
            "status",
            "se list",
            "se show x",
            "events",
            "config list",
            "image list",
            "run x ping",
            "connect x ssh",
        ):
            line = self.refused(6, *typed.split(), socket=gone)
            self.assertIn(
                f"no node answers on {gone}: No such file or directory; start it: twistd avi-controller", line
            )

    def test_a_socket_that_nobody_listens_on_or_that_is_none(self) -> None:
        left = self.folder / "left.sock"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(left))
        (self.folder / "file").touch()
        for name in (str(left), str(self.folder / "file"), str(self.folder), "x" * 4000, "/dev/null/x"):
            self.assertIn("no node answers on", self.refused(6, "status", socket=name))

    def test_a_socket_that_is_not_permitted_says_who_may(self) -> None:
        os.chmod(self.path, 0)
        before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
        if before:  # root may open whatever it likes, without its capabilities it may not
            require("setpriv")
        done = subprocess.run(
            [*before, *AVICTL, "--socket", self.path, "status"],
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.assertEqual(done.returncode, 6, done)
        self.assertIn(b"Permission denied; run avictl as a user who may open it\n", done.stderr)
        self.assertEqual(done.stderr.count(b"\n"), 1)

    def test_rubbish_is_no_answer(self) -> None:
        for rubbish in RUBBISH.values():
            self.answers(rubbish)
            for typed in ("status", "se list"):
                self.refused(6, *typed.split())
        for what in ("nothing", "half a body", "no body", "no JSON", "no UTF-8", "nested without end"):
            self.answers(RUBBISH[what])
            self.refused(6, "config", "schema")

    def test_rubbish_in_place_of_a_pipe_is_no_pipe(self) -> None:
        for what in ("no HTTP", "binary", "nothing", "half a status line", "a head without end", "no body"):
            self.answers(RUBBISH[what])
            self.refused(6, "connect", "se-1", "ssh")

    def test_an_answer_of_more_than_the_limit_is_broken_off(self) -> None:
        head = b"HTTP/1.1 200 Said\r\n\r\n"
        self.answers(lambda _: head + bytes(MESSAGE_LIMIT_BYTES + 1))
        self.assertIn("has more than", self.refused(6, "se", "list"))

    def test_a_list_without_end_is_left(self) -> None:
        self.answers(said(msgspec.structs.replace(fleet.ENGINES, next="x")))
        self.assertIn("does not end", self.refused(6, "se", "list"))
        self.assertEqual(len(self.asked), 2)

    def test_a_node_that_hangs_is_left_at_the_deadline(self) -> None:
        over = threading.Event()
        self.addCleanup(over.set)

        def hang(asked: Asked) -> bytes:
            over.wait(PATIENCE_S)
            return b""

        self.answers(hang)
        for typed in (["status"], ["connect", "se-1", "ssh"], ["run", "se-1", "ping"]):
            line = self.refused(6, "--timeout", "0.1", *typed)
            self.assertIn("gave no answer within 0.1 s", line)


class CommandLineTests(ScriptedCase):
    def test_what_is_typed_wrong_is_one_line_and_2(self) -> None:
        for typed in (
            "lis",
            "se lis",
            "se list --labl x",
            "se show",
            "se create --count many",
            "se delete x --drain -1 --yes",
            "events --limit 0",
            "run se-1 ping --timeout 0",
            "status -o xml",
            "--timeout 0 status",
            "completion tcsh",
            "config apply",
            "status more",
        ):
            self.assertIn(" --help", self.refused(2, *typed.split()))
        self.assertEqual(self.asked, [])

    def test_a_verb_without_its_verb_shows_help_and_2(self) -> None:
        for typed in ("se", "image", "config"):
            ended = self.avictl(typed)
            self.assertEqual((ended.code, ended.out), (2, ""))
            self.assertIn(f"Usage: avictl {typed} [OPTIONS] COMMAND", ended.err)

    def test_ids_are_looked_at_before_anything_is_asked(self) -> None:
        for typed in (
            "se show UP",
            "se delete --yes good ../x",
            "se revoke a/b",
            "config get .",
            "image retire a_b",
            "run A ping",
        ):
            self.assertIn("is not an id; use 1 to 63", self.refused(4, *typed.split()))
        self.refused(4, "se", "create", "--label", "nolabel")
        self.assertEqual(self.asked, [])

    def test_files_that_cannot_be_read_or_written(self) -> None:
        missing = str(self.folder / "missing")
        self.assertIn("No such file", self.refused(1, "config", "apply", "-f", missing))
        self.assertIn("Is a directory", self.refused(1, "config", "apply", "-f", str(self.folder)))
        self.assertIn("No such file", self.refused(1, "init", "--config", missing))
        self.assertIn("ssh-keygen", self.refused(1, "connect", "se-1", "ssh", "--identity", missing))
        self.answers(said(b"bundle"))
        self.refused(1, "image", "build", "--out", missing + "/x")

    def test_settings_name_the_socket(self) -> None:
        settings = self.folder / "controller.toml"
        settings.write_text('socket = "node.sock"\n')
        self.answers(said(fleet.IMAGES))
        for text, code in (('socket = "node.sock"', 0), ("socket = 1", 1), ("socket =", 1), ('socket = "gone"', 6)):
            settings.write_text(text)
            done = subprocess.run(
                [*AVICTL, "--config", str(settings), "image", "list"],
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
            self.assertEqual((done.returncode, done.stderr.count(b"\n")), (code, 1 if code else 0), done)

    def test_nobody_is_asked_where_there_is_no_terminal(self) -> None:
        self.assertIn("--yes", self.refused(2, "se", "delete", "se-1"))
        self.assertEqual(self.asked, [])

    def test_on_a_terminal_it_asks_before_it_deletes(self) -> None:
        for typed, code, asked in ((b"n\n", 130, 0), (b"\x04", 130, 0), (b"y\n", 0, 1)):
            self.asked.clear()
            ended, shown = self.on_terminal("se", "delete", "se-1", typed=typed, when=b"[y/N]")
            self.assertEqual((ended, len(self.asked)), (code, asked), shown)
            self.assertIn(b"Delete se-1? [y/N]", shown)
            self.assertNotIn(b"Traceback", shown)

    def test_completion_knows_the_verbs_and_the_options(self) -> None:
        environment = {**os.environ, "_AVICTL_COMPLETE": "bash_complete"}
        for words, number, expected in (
            ("avictl s", "1", b"plain,status\n"),
            ("avictl se ", "2", b"plain,list\n"),
            ("avictl -o ", "2", b"plain,yaml\n"),
        ):
            done = subprocess.run(
                AVICTL,
                env={**environment, "COMP_WORDS": words, "COMP_CWORD": number},
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
            self.assertIn(expected, done.stdout, done)
        for shell in completion.params[0].type.choices:  # type: ignore[attr-defined]
            self.assertIn("_AVICTL_COMPLETE", self.avictl("completion", shell).out)

    def test_every_verb_has_help(self) -> None:
        def look(command: click.Command, words: list[str]) -> None:
            ended = self.avictl(*words, "--help")
            self.assertEqual((ended.code, ended.err), (0, ""), words)
            self.assertIn("Usage: ", ended.out)
            if isinstance(command, click.Group):
                context = click.Context(command)
                for name in command.list_commands(context):
                    found = command.get_command(context, name)
                    assert found is not None
                    look(found, [*words, name])

        look(avictl, [])


class OutputTests(ScriptedCase):
    def test_a_reader_that_has_read_enough_ends_it_quietly(self) -> None:
        engines = [msgspec.structs.replace(fleet.ENGINE, id=f"se-{number}") for number in range(5000)]
        self.answers(said(msgspec.structs.replace(fleet.ENGINES, items=engines)))
        for form in ("table", "json"):
            process = subprocess.Popen(
                [*AVICTL, "--socket", self.path, "-o", form, "se", "list"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stderr is not None
            self.assertTrue(process.stdout.readline())
            process.stdout.close()
            with process.stderr as stderr:
                self.assertEqual(stderr.read(), b"")
            self.assertEqual(process.wait(PATIENCE_S), 0)

    def test_a_full_disk_and_no_output_at_all(self) -> None:
        self.answers(said(fleet.IMAGES))
        command = [*AVICTL, "--socket", self.path, "image", "list"]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False)
        self.assertEqual((done.returncode, done.stderr), (1, b"avictl: the output: No space left on device\n"))
        closed = subprocess.run(
            ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], capture_output=True, timeout=PATIENCE_S, check=False
        )
        self.assertEqual((closed.returncode, closed.stdout, closed.stderr), (0, b"", b""))
