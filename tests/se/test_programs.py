"""Commands by the settings of a service engine: real programs, their output while they run, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import as_deferred, pause
from avinet.errors import Invalid, LocalError
from avinet.se import guard, programs
from avinet.se.commands import CommandTable
from avinet.se.programs import AT_ONCE, Program, Programs
from avinet.se.settings import EngineSettings
from avinet.settings import parse
from avinet.wire.command import Ended
from tests.se.consoles import Console

PATIENCE_S = 30.0


def python(code: str, **changes: Any) -> Program:
    return Program(name="test", argv=(sys.executable, "-c", code), **changes)


class Held(Console):
    """Reads nothing until it is told to."""

    @override
    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        producer.pauseProducing()


class Timed:
    """Real processes, whose time is the test's."""

    def __init__(self, clock: Clock) -> None:
        self.callLater = clock.callLater
        self.spawnProcess = reactor.spawnProcess  # type: ignore[attr-defined]


SLEEPER = "[sys.executable, '-c', 'import time; time.sleep(600)']"


class ProgramCase(TestCase):
    timeout = 120

    @override
    def setUp(self) -> None:
        self.console = Console()
        self.programs = Programs(reactor, (), (), grace_s=PATIENCE_S)

    async def run_program(self, program: Program) -> Ended:
        return await self.programs.run(program, self.console, program.timeout_s)

    async def gone(self, process: int) -> None:
        """The process ends, or is a zombie that nobody waits for."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                    return
            except FileNotFoundError:
                return
            await pause(reactor, 0.01)
        self.fail("it runs on")


class ProgramTests(ProgramCase):
    async def test_what_it_prints_and_how_it_ends(self) -> None:
        found = await self.run_program(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
        self.assertEqual((found, self.console.output, self.console.error), (Ended(exit_status=3), b"out\n", b"err\n"))

    async def test_what_it_prints_is_there_before_its_end(self) -> None:
        go = Path(self.mktemp()).absolute()
        code = f"import os, time\nprint('begun', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('ended')"
        seen = self.console.printed(b"begun\n")
        running = as_deferred(self.run_program(python(code, timeout_s=60)))
        await seen
        self.assertFalse(running.called)
        go.touch()
        self.assertEqual((await running).exit_status, 0)
        self.assertEqual(self.console.output, b"begun\nended\n")

    async def test_its_arguments_reach_no_shell(self) -> None:
        await self.run_program(Program(name="echo", argv=("/bin/echo", "$HOME", "`id`", "a;b", "*")))
        self.assertEqual(self.console.output, b"$HOME `id` a;b *\n")

    async def test_it_knows_nothing_of_ours(self) -> None:
        os.environ["AVINET_SECRET"] = "s"
        self.addCleanup(os.environ.pop, "AVINET_SECRET")
        code = "import os, sys; print(os.getcwd(), sorted(os.environ), sys.stdin.read() == '', sorted(os.listdir('/proc/self/fd')))"
        await self.run_program(python(code))
        said = self.console.output.decode()
        self.assertTrue(said.startswith("/ "), said)
        self.assertNotIn("AVINET", said)
        self.assertTrue(said.endswith("True ['0', '1', '2', '3']\n"), f"3 is the folder that is listed: {said}")

    async def test_signals_mean_to_it_what_they_mean_elsewhere(self) -> None:
        code = "import signal, os; print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)); os.kill(os.getpid(), 10)"
        found = await self.run_program(python(code))
        self.assertEqual(found, Ended(exit_status=138, signal="USR1"))

    async def test_a_program_that_is_not_there(self) -> None:
        found = await self.run_program(Program(name="x", argv=("/no/such/program",)))
        self.assertEqual(found.exit_status, 127)
        self.assertEqual(self.console.error, b"/no/such/program: No such file or directory\n")

    async def test_a_program_that_cannot_be_run(self) -> None:
        found = await self.run_program(Program(name="x", argv=("/etc/passwd",)))
        self.assertEqual(found.exit_status, 126)
        self.assertEqual(self.console.error, b"/etc/passwd: Permission denied\n")

    async def test_a_program_that_does_not_end_is_ended_with_all_that_it_started(self) -> None:
        place = Path(self.mktemp()).absolute()
        code = (
            "import subprocess, sys, time\n"
            f"near = subprocess.Popen({SLEEPER})\n"
            f"far = subprocess.Popen({SLEEPER}, start_new_session=True)\n"
            f"open({str(place)!r}, 'w').write(f'{{near.pid}} {{far.pid}}')\n"
            "print('begun', flush=True)\n"
            "time.sleep(600)\n"
        )
        clock = Clock()
        self.programs = Programs(Timed(clock), (), (), grace_s=PATIENCE_S)
        seen = self.console.printed(b"begun\n")
        running = as_deferred(self.run_program(python(code, timeout_s=2.5)))
        await seen
        clock.advance(2.5)
        found = await running
        self.assertEqual((found, self.console.output), (Ended(exit_status=143, signal="TERM"), b"begun\n"))
        self.assertIn(b"did not end within 2.5 s", self.console.error)
        for process in place.read_text().split():
            await self.gone(int(process))

    async def test_one_that_is_deaf_is_killed_after_a_while(self) -> None:
        self.programs = Programs(reactor, (), (), grace_s=0.5)
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('begun', flush=True); time.sleep(600)"
        seen = self.console.printed(b"begun\n")
        running = as_deferred(self.run_program(python(code, timeout_s=60)))
        await seen
        running.cancel()
        running.cancel()
        self.assertEqual(await running, Ended(exit_status=137, signal="KILL"))

    async def test_cancelled_it_may_say_goodbye(self) -> None:
        code = (
            "import os, signal, time\n"
            "signal.signal(15, lambda *_: (os.write(1, b'bye\\n'), os._exit(4)))\n"
            "print('begun', flush=True)\n"
            "time.sleep(600)\n"
        )
        seen = self.console.printed(b"begun\n")
        running = as_deferred(self.run_program(python(code, timeout_s=60)))
        await seen
        running.cancel()
        self.assertEqual(await running, Ended(exit_status=4))
        self.assertEqual(self.console.output, b"begun\nbye\n")

    async def test_what_a_program_leaves_behind_is_not_waited_for_and_ended(self) -> None:
        code = (
            "import subprocess, sys\n"
            f"near = subprocess.Popen({SLEEPER})\n"
            f"far = subprocess.Popen({SLEEPER}, start_new_session=True)\n"
            "print(near.pid, far.pid)\n"
        )
        found = await self.run_program(python(code, timeout_s=60))
        self.assertEqual((found.exit_status, self.console.error), (0, b""))
        for process in self.console.output.split():
            await self.gone(int(process))

    async def test_a_program_whose_guard_is_killed_dies_with_it(self) -> None:
        code = "import os, time; print(os.getppid(), os.getpid(), flush=True); time.sleep(600)"
        seen = self.console.printed(b"\n")
        running = as_deferred(self.run_program(python(code, timeout_s=60)))
        await seen
        parent, program = map(int, self.console.output.split())
        os.kill(parent, signal.SIGKILL)
        self.assertEqual((await running).signal, "KILL")
        await self.gone(program)

    async def test_whoever_survives_a_killed_guard_is_not_waited_for(self) -> None:
        """It holds the pipes open; what was in them when the guard died is read, and the run is over."""
        place, console = Path(self.mktemp()).absolute(), Held()
        code = (
            "import os, signal, subprocess, sys, time\n"
            f"far = subprocess.Popen({SLEEPER}, start_new_session=True)\n"
            f"open({str(place)!r}, 'w').write(str(far.pid))\n"
            "os.write(1, b'x' * 1000)\n"
            "os.kill(os.getppid(), signal.SIGKILL)\n"
            "time.sleep(600)\n"
        )
        running = as_deferred(self.programs.run(python(code), console, 60))
        producer, until = console.producer, time.monotonic() + PATIENCE_S
        while producer.transport.pid is not None:
            self.assertLess(time.monotonic(), until)
            await pause(reactor, 0.01)
        survivor = int(place.read_text())
        self.addCleanup(os.kill, survivor, signal.SIGKILL)
        self.assertNoResult(running)
        producer.resumeProducing()
        self.assertEqual((await running).signal, "KILL")
        self.assertEqual(console.output, b"x" * 1000)
        os.kill(survivor, 0)

    async def test_whoever_cannot_be_killed_is_told_of(self) -> None:
        """It holds the pipes open, too: its guard goes without it after a while."""
        script = Path(self.mktemp()).absolute()
        script.write_text(
            f"import sys; sys.path.append({str(Path(guard.__file__).parent)!r})\n"
            "import guard\n"
            "guard._LAST_S, guard._kill = 0.0, lambda *_: None\n"
            "guard.main(float(sys.argv[1]), sys.argv[2:])\n"
        )
        self.patch(programs, "_GUARD", script)
        code = f"import subprocess, sys; print(subprocess.Popen({SLEEPER}).pid)"
        found = await self.run_program(python(code, timeout_s=60))
        self.addCleanup(os.kill, int(self.console.output), signal.SIGKILL)
        self.assertEqual(found, Ended(exit_status=0))
        self.assertEqual(self.console.error, b"test: processes that it started cannot be killed: 1\n")

    def test_what_starts_another_whenever_it_is_killed_is_given_no_time_for_that(self) -> None:
        found, killed, slept = [[1], [2], [3], [3], []], [], []

        def reap(*_: int) -> tuple[int, int]:
            if not found:
                raise ChildProcessError
            return 0, 0

        self.patch(guard, "_children", lambda: found.pop(0))
        self.patch(guard, "_kill", lambda process, _: killed.append((process, len(slept))))
        self.patch(guard, "os", SimpleNamespace(waitpid=reap, WNOHANG=os.WNOHANG))
        self.patch(guard, "select", SimpleNamespace(select=lambda *_: slept.append(None)))
        self.assertEqual(guard._end_all(), 0)
        self.assertEqual((killed, len(slept)), ([(1, 0), (2, 0), (3, 0), (3, 0)], 1))

    async def test_nobody_takes_its_output_so_it_waits(self) -> None:
        """A program that would print for ever is stopped by its pipe, and goes on when somebody reads."""
        code = "import os, sys\nfor number in range(3000): sys.stdout.write('x' * 1000)\nsys.stdout.flush()\n"
        seen = self.console.printed(b"x")
        running = as_deferred(self.run_program(python(code, timeout_s=60)))
        await seen
        self.console.producer.pauseProducing()
        held = len(self.console.output)
        for _ in range(20):
            await pause(reactor, 0.01)
        self.assertEqual(len(self.console.output), held)
        self.assertFalse(running.called)
        self.console.producer.resumeProducing()
        self.assertEqual((await running).exit_status, 0)
        self.assertEqual(len(self.console.output), 3_000_000)

    async def test_ended_while_its_output_is_unread_there_is_nothing_to_end(self) -> None:
        """Whoever reads has paused it: cancelled, or late, it still ends as it did, and all of its output comes."""
        clock, console = Clock(), Held()
        self.programs = Programs(Timed(clock), (), (), grace_s=PATIENCE_S)
        code = "import sys; sys.stdout.write('x' * 1000); sys.exit(3)"
        running = as_deferred(self.programs.run(python(code), console, 60))
        producer, until = console.producer, time.monotonic() + PATIENCE_S
        while 0 in producer.transport.pipes:
            self.assertLess(time.monotonic(), until)
            await pause(reactor, 0.01)
        running.cancel()
        clock.advance(60)
        self.assertNoResult(running)
        producer.stopProducing()
        self.assertEqual(await running, Ended(exit_status=3))
        self.assertEqual((console.output, console.error), (b"x" * 1000, b""))

    async def test_only_so_many_run_at_once(self) -> None:
        programs = Programs(
            reactor, [Program(name="wait", argv=("/bin/sleep", "600"), timeout_s=60)], (), grace_s=PATIENCE_S
        )
        table = CommandTable(reactor, programs.commands)
        running = [as_deferred(table.run("wait", [], Console())) for _ in range(AT_ONCE)]
        found = await table.run("wait", [], self.console)
        self.assertEqual(found.exit_status, 1)
        self.assertIn(b"programs run already", self.console.error)
        for each in running:
            each.cancel()
        self.assertEqual({(await each).signal for each in running}, {"TERM"})
        self.assertEqual((await table.run("wait", [], Console(), 0.1)).signal, "TERM")


class DeadEngineTests(ProgramCase):
    async def test_with_the_process_that_runs_it_it_ends_too(self) -> None:
        """The service engine is killed in the middle: its programs end, and what they have started."""
        place = Path(self.mktemp()).absolute()
        program = (
            "import os, subprocess, sys, time\n"
            f"far = subprocess.Popen({SLEEPER}, start_new_session=True)\n"
            f"open({str(place)!r} + '.new', 'w').write(f'{{os.getpid()}} {{far.pid}}')\n"
            f"os.rename({str(place)!r} + '.new', {str(place)!r})\n"
            "time.sleep(600)\n"
        )
        code = (
            "from twisted.internet import reactor\n"
            "from avinet.aio import as_deferred\n"
            "from avinet.se.programs import Program, Programs\n"
            "from tests.se.consoles import Console\n"
            "from tests.se.test_programs import python\n"
            f"running = as_deferred(Programs(reactor, (), (), grace_s=0.5).run(python({program!r}), Console(), 600))\n"
            "reactor.run()\n"
        )
        engine = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
        self.addCleanup(engine.wait)
        self.addCleanup(engine.kill)
        until = time.monotonic() + PATIENCE_S
        while not place.exists():
            self.assertLess(time.monotonic(), until)
            await pause(reactor, 0.01)
        engine.kill()
        for process in place.read_text().split():
            await self.gone(int(process))


class TableTests(ProgramCase):
    def table(self, *programs: Program, known: tuple[str, ...] = ("ping",)) -> CommandTable:
        return CommandTable(reactor, Programs(reactor, programs, known).commands)

    async def test_it_is_a_command_like_the_others(self) -> None:
        table = self.table(Program(name="hello", argv=("/bin/echo", "hello"), summary="says it"))
        self.assertEqual(await table.run_line("hello", self.console), Ended(exit_status=0))
        self.assertEqual(self.console.output, b"hello\n")
        await table.run_line("help", self.console)
        self.assertIn(b"says it", self.console.output)

    async def test_nobody_adds_arguments(self) -> None:
        table = self.table(Program(name="hello", argv=("/bin/echo", "hello")))
        self.assertEqual(await table.run_line("hello world", self.console), Ended(exit_status=1))
        self.assertIn(b"takes no arguments", self.console.error)

    def test_names_are_taken_once_and_paths_are_whole(self) -> None:
        for added in (
            (Program(name="ping", argv=("/bin/true",)),),
            (Program(name="help", argv=("/bin/true",)),),
            (Program(name="a", argv=("/bin/true",)), Program(name="a", argv=("/bin/true",))),
            (Program(name="a", argv=("true",)),),
        ):
            self.assertRaises(Invalid, self.table, *added)

    def test_settings_are_checked(self) -> None:
        good = parse('[[commands]]\nname = "disk"\nargv = ["/bin/df", "-h"]\n', EngineSettings, "se.toml")
        self.assertEqual(good.commands[0].argv, ("/bin/df", "-h"))
        for bad in (
            'name = "A"\nargv = ["/x"]',
            'name = "a"\nargv = []',
            'name = "a"',
            'name = "a"\nargv = ["/x"]\nshell = true',
            'name = "a"\nargv = ["/x"]\ntimeout_s = 100000',
        ):
            self.assertRaises(LocalError, parse, f"[[commands]]\n{bad}\n", EngineSettings, "se.toml")
