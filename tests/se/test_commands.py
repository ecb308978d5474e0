"""The table of commands: looked up, run, and never near a shell."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Unavailable
from avinet.se.commands import BUILT_IN_S, Command, CommandTable, Outcome, no_arguments
from avinet.wire.command import OUTPUT_LIMIT_BYTES
from tests.se.consoles import Console


async def echo(arguments: Sequence[str]) -> str:
    return "|".join(arguments)


async def fail(arguments: Sequence[str]) -> str:
    raise Unavailable("HAProxy does not answer")


async def long() -> str:
    return "x" * (2 * OUTPUT_LIMIT_BYTES)


async def hang() -> str:
    return await Deferred()


CLOCK = Clock()
TABLE = CommandTable(
    CLOCK,
    [
        Command("hang", "for ever", no_arguments(hang)),
        Command("echo", "say it", echo, "WORD..."),
        Command("fail", "fail", fail),
        Command("long", "a lot", no_arguments(long)),
    ],
)


class CommandTests(SynchronousTestCase):
    def line(self, line: str) -> Outcome:
        console = Console()
        ended = self.successResultOf(ensureDeferred(TABLE.run_line(line, console)))
        return Outcome(ended.exit_status, console.output.decode(), console.error.decode())

    def test_words_and_quotes_and_nothing_else_of_a_shell(self) -> None:
        self.assertEqual(self.line("echo a 'b c' \"d\"").output, "a|b c|d")
        for each in ("$HOME", "`id`", "$(id)", "*", "a;b", "a&&b", "|", ">x", "~"):
            self.assertEqual(self.line(f"echo {each}").output, each)
        self.assertEqual(self.line("echo a\nfail").output, "a|fail")

    def test_what_is_wrong_is_said_with_a_status(self) -> None:
        for line, status, said in (
            ("", 2, "say which command"),
            ("   ", 2, "say which command"),
            ("echo 'a", 2, "not whole"),
            ("nothing", 127, "there is no command 'nothing'"),
            ("x" * 1000, 127, "there is no command"),
            ("long a", 1, "takes no arguments"),
            ("fail", 1, "HAProxy does not answer"),
        ):
            outcome = self.line(line)
            self.assertEqual((outcome.exit_status, outcome.output), (status, ""), line)
            self.assertIn(said, outcome.error)
            self.assertEqual(outcome.error.count("\n"), 1)
            self.assertLess(len(outcome.error), 200)

    def test_output_is_bounded_and_says_where_it_was_cut(self) -> None:
        output = self.line("long").output
        self.assertLessEqual(len(output), OUTPUT_LIMIT_BYTES)
        self.assertTrue(output.endswith("... (cut)\n"))

    def test_none_takes_for_ever(self) -> None:
        for seconds, timeout_s in ((5, 5.0), (BUILT_IN_S, None), (BUILT_IN_S, 1000.0)):
            console = Console()
            running = ensureDeferred(TABLE.run("hang", [], console, timeout_s))
            CLOCK.advance(seconds - 0.1)
            self.assertNoResult(running)
            CLOCK.advance(0.1)
            self.assertEqual(self.successResultOf(running).exit_status, 1)
            self.assertIn(b"no answer within", console.error)

    def test_one_that_is_cancelled_says_so(self) -> None:
        console = Console()
        running = ensureDeferred(TABLE.run("hang", [], console))
        running.cancel()
        self.assertEqual(self.successResultOf(running).exit_status, 143)
        self.assertEqual(console.error, b"hang was cancelled\n")

    def test_help_lists_them_all(self) -> None:
        self.assertEqual(
            [line.split()[0] for line in self.line("help").output.splitlines()],
            ["echo", "fail", "hang", "help", "long"],
        )
