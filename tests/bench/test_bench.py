"""What `bin/bench` prints, writes and ends with, for benchmarks that measure nothing."""

import io
import json
from pathlib import Path

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from bench.__main__ import BENCHES, FAILED, MET, MISSED, main
from bench.measure import BenchError, Effort, at_least, below, case, figures, machine, memory_mb

FIELDS = {"bench", "case", "unit", "better", "ours", "peer", "ratio", "must", "met", "runs", "machine"}


def start(effort, say):
    say("starting things")
    yield case("start", "one thing", "s", [0.5, 0.25, 0.75], must="< 1 s", met=below(1))


def slow(effort, say):
    yield case("slow", "another", "s", [2.0], must="< 1 s", met=below(1))


def raced(effort, say):
    yield case(
        "raced",
        "bytes",
        "MB/s",
        [300.0, 280.0],
        must="≥ 1.5 ×",
        met=at_least(1.5),
        better="higher",
        peer=("OpenSSH", [100.0, 200.0]),
    )


def lame(effort, say):
    yield from start(effort, say)
    raise BenchError("there is no ssh: install openssh-client")


def patient(effort, say):
    yield case("patient", "runs", "s", [1.0] * effort.choose(1, 5, 9), must="< 2 s", met=below(2))


FAKES = {"start": start, "slow": slow, "raced": raced, "lame": lame, "patient": patient}


class BenchTests(SynchronousTestCase):
    def run_bench(self, *arguments):
        """The exit code, what was printed, and what was written as JSON."""
        path = Path(self.mktemp())
        said = io.StringIO()
        code = main(
            [*arguments, "--json", str(path)],
            benches=dict.fromkeys(FAKES, ""),
            find=FAKES.__getitem__,
            console=Console(file=said, width=300),
        )
        return code, said.getvalue(), json.loads(path.read_text())

    def test_what_is_met_ends_with_zero(self):
        code, said, written = self.run_bench("start")
        self.assertEqual(code, MET)
        self.assertEqual(len(written), 1)
        self.assertIn("starting things", said)

    def test_an_object_has_the_agreed_fields_and_nothing_else(self):
        _, _, [found] = self.run_bench("start")
        self.assertEqual(set(found), FIELDS)
        self.assertEqual(found["ours"], {"median": 0.5, "min": 0.25, "max": 0.75})
        self.assertEqual((found["peer"], found["ratio"]), (None, None))
        self.assertEqual((found["must"], found["met"], found["runs"], found["better"]), ("< 1 s", True, 3, "lower"))
        self.assertEqual(found["machine"], machine())

    def test_a_peer_has_a_name_figures_and_a_ratio(self):
        code, said, [found] = self.run_bench("raced")
        self.assertEqual(code, MET)
        self.assertEqual(found["peer"], {"name": "OpenSSH", "median": 150.0, "min": 100.0, "max": 200.0})
        self.assertEqual(found["ratio"], 1.933)
        self.assertIn("OpenSSH: 150 (100–200)", said)
        self.assertIn("1.93 ×", said)

    def test_the_table_shows_median_range_and_what_was_asked_for(self):
        _, said, _ = self.run_bench("start")
        row = said.splitlines()[-3]
        for part in ("one thing", "0.5 (0.25–0.75)", "< 1 s", "yes"):
            self.assertIn(part, row)

    def test_one_figure_that_is_missed_is_enough(self):
        code, said, written = self.run_bench("start", "slow")
        self.assertEqual(code, MISSED)
        self.assertEqual([each["met"] for each in written], [True, False])
        self.assertIn("NO", said)

    def test_what_cannot_be_run_says_what_is_missing_and_keeps_what_was_measured(self):
        code, said, written = self.run_bench("lame")
        self.assertEqual(code, FAILED)
        self.assertIn("install openssh-client", said)
        self.assertEqual(len(written), 1)

    def test_the_effort_is_chosen_on_the_command_line(self):
        runs = [self.run_bench("patient", *more)[2][0]["runs"] for more in (["--quick"], [], ["--full"])]
        self.assertEqual(runs, [1, 5, 9])

    def test_all_runs_everything_once(self):
        _, _, written = self.run_bench("all", "start")
        self.assertEqual(len({each["bench"] for each in written}), len(written) - 1)  # `lame` is a `start` too


class MeasureTests(SynchronousTestCase):
    def test_an_even_number_of_values_has_the_mean_of_the_two_in_the_middle(self):
        self.assertEqual(figures([4, 1, 3, 2]).median, 2.5)

    def test_a_figure_at_the_limit_is_not_below_it(self):
        self.assertFalse(below(1.0)(figures([1.0]), None))

    def test_without_a_peer_no_ratio_is_met(self):
        self.assertFalse(at_least(1.0)(figures([1.0]), None))

    def test_the_effort_is_normal_unless_it_was_said_otherwise(self):
        self.assertEqual(Effort().choose("quick", "normal", "full"), "normal")

    def test_every_benchmark_that_is_offered_is_there(self):
        from bench.__main__ import find

        self.assertTrue(all(callable(find(name)) for name in BENCHES))

    def test_the_memory_of_a_process_is_more_than_nothing(self):
        import os

        self.assertGreater(memory_mb(os.getpid()), 1)
