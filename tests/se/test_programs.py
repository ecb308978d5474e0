"""Commands by the settings of a service engine: real programs, their output and their end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.errors import Invalid, LocalError
from avinet.se.commands import CommandTable, Outcome
from avinet.se.programs import ERROR_LIMIT_BYTES, Program, program_commands, run_program
from avinet.se.settings import EngineSettings
from avinet.settings import parse
from avinet.wire.command import OUTPUT_LIMIT_BYTES


def python(code: str, **changes: Any) -> Program:
    return Program(name="test", argv=(sys.executable, "-c", code), **changes)


class ProgramTests(SynchronousTestCase):
    def test_what_it_prints_and_how_it_ends(self) -> None:
        found = run_program(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
        self.assertEqual(found, Outcome(3, "out\n", "err\n"))

    def test_its_arguments_reach_no_shell(self) -> None:
        found = run_program(Program(name="echo", argv=("/bin/echo", "$HOME", "`id`", "a;b", "*")))
        self.assertEqual(found.output, "$HOME `id` a;b *\n")

    def test_it_knows_nothing_of_ours(self) -> None:
        os.environ["AVINET_SECRET"] = "s"
        self.addCleanup(os.environ.pop, "AVINET_SECRET")
        code = "import os, sys; print(os.getcwd(), sorted(os.environ), sys.stdin.read() == '')"
        self.assertEqual(run_program(python(code)).output.split(" ", 1)[0], "/")
        self.assertNotIn("AVINET", run_program(python(code)).output)
        self.assertTrue(run_program(python(code)).output.endswith("True\n"))

    def test_a_program_that_is_not_there(self) -> None:
        found = run_program(Program(name="x", argv=("/no/such/program",)))
        self.assertEqual(found, Outcome(127, error="/no/such/program: No such file or directory\n"))

    def test_a_program_that_does_not_end_is_ended_with_all_that_it_started(self) -> None:
        place = Path(self.mktemp()).absolute()
        code = (
            "import os, subprocess, sys, time\n"
            f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            f"open({str(place)!r}, 'w').write(str(child.pid))\n"
            "print('begun', flush=True)\n"
            "time.sleep(600)\n"
        )
        found = run_program(python(code, timeout_s=1.5))
        self.assertEqual((found.exit_status, found.output), (137, "begun\n"))
        self.assertIn("did not end within 1.5 s", found.error)
        self.gone(int(place.read_text()))

    def gone(self, process: int) -> None:
        """The process ends, or is a zombie that nobody waits for."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                    return
            except FileNotFoundError:
                return
        self.fail("it runs on")

    def test_what_a_program_leaves_behind_is_not_waited_for_and_ended(self) -> None:
        code = (
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "print(child.pid)\n"
        )
        found = run_program(python(code, timeout_s=60))
        self.assertEqual((found.exit_status, found.error), (0, ""))
        self.gone(int(found.output))

    def test_a_flood_is_cut(self) -> None:
        code = "import sys; sys.stdout.write('x' * 3_000_000); sys.stderr.write('y' * 300_000)"
        found = run_program(python(code, timeout_s=60))
        self.assertEqual(found.exit_status, 0)
        self.assertEqual((len(found.output), len(found.error)), (OUTPUT_LIMIT_BYTES, ERROR_LIMIT_BYTES))
        self.assertTrue(found.output.endswith("(cut)\n"))

    def test_bytes_that_are_no_text_are_shown_as_such(self) -> None:
        found = run_program(python("import sys; sys.stdout.buffer.write(b'a\\xff\\0b')"))
        self.assertEqual(found.output, "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b")


class TableTests(SynchronousTestCase):
    def table(self, *programs: Program, known: tuple[str, ...] = ("ping",)) -> CommandTable:
        return CommandTable(program_commands(programs, known, lambda call: succeed(call())))

    def run_line(self, table: CommandTable, line: str) -> Outcome:
        found: Outcome = self.successResultOf(as_deferred(table.run_line(line)))
        return found

    def test_it_is_a_command_like_the_others(self) -> None:
        table = self.table(Program(name="hello", argv=("/bin/echo", "hello"), summary="says it"))
        self.assertEqual(self.run_line(table, "hello"), Outcome(0, "hello\n"))
        self.assertIn("says it", self.run_line(table, "help").output)

    def test_nobody_adds_arguments(self) -> None:
        table = self.table(Program(name="hello", argv=("/bin/echo", "hello")))
        found = self.run_line(table, "hello world")
        self.assertEqual((found.exit_status, found.output), (1, ""))
        self.assertIn("takes no arguments", found.error)

    def test_names_are_taken_once_and_paths_are_whole(self) -> None:
        for programs in (
            (Program(name="ping", argv=("/bin/true",)),),
            (Program(name="help", argv=("/bin/true",)),),
            (Program(name="a", argv=("/bin/true",)), Program(name="a", argv=("/bin/true",))),
            (Program(name="a", argv=("true",)),),
        ):
            self.assertRaises(Invalid, self.table, *programs)

    def test_settings_are_checked(self) -> None:
        good = parse('[[commands]]\nname = "disk"\nargv = ["/bin/df", "-h"]\n', EngineSettings, "se.toml")
        self.assertEqual(good.commands[0].argv, ("/bin/df", "-h"))
        for bad in (
            'name = "A"\nargv = ["/x"]',
            'name = "a"\nargv = []',
            'name = "a"',
            'name = "a"\nargv = ["/x"]\nshell = true',
        ):
            self.assertRaises(LocalError, parse, f"[[commands]]\n{bad}\n", EngineSettings, "se.toml")
