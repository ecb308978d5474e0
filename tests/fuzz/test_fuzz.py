"""The fuzzer runs, finds what is there, and finds nothing else: what is kept of its inputs is harmless (S33)."""

from __future__ import annotations

import gc
import io
from contextlib import redirect_stdout
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import corpus, steps
from tests.fuzz.__main__ import CLEAN, FOUND, KEPT_BYTES, line, main
from tests.fuzz.session import Outcome, fuzz
from tests.fuzz.targets import PLANTED, TARGETS, Target
from tests.fuzz.watch import Found, watched
from tests.peers import require

SEED = 1
RUNS = 50
"""Of each target, after its seeds and what is kept."""
MOST_RUNS = 20_000
"""Within which the planted fault is found; it takes about a fifth."""


def inputs(target: Target) -> list[bytes]:
    """All that the fuzzer begins with."""
    _, seeds = target.load()
    return [*seeds, *corpus.kept(target.name)]


class CorpusTests(SynchronousTestCase):
    def replay(self, name: str) -> None:
        target = TARGETS[name]
        run, _ = target.load()
        gc.collect()
        with watched():
            for data in inputs(target):
                try:
                    run(data)
                except Exception as error:
                    raise AssertionError(f"{name}: {data.hex()}") from error
            gc.collect()

    def test_server(self) -> None:
        self.replay("server")

    def test_client(self) -> None:
        self.replay("client")

    def test_the_other_targets(self) -> None:
        for name in TARGETS.keys() - {"server", "client"}:
            self.replay(name)

    def test_something_is_kept_for_each_target_and_not_too_much(self) -> None:
        for name, target in TARGETS.items():
            kept = corpus.kept(name)
            self.assertTrue(kept, name)
            self.assertLessEqual(sum(map(len, kept)), KEPT_BYTES, name)
            self.assertLessEqual(max(map(len, kept)), target.most_bytes, name)
        self.assertEqual({path.stem for path in corpus.HERE.iterdir()}, set(TARGETS))


class FuzzerTests(SynchronousTestCase):
    def test_a_short_run_finds_nothing_and_leaves_no_descriptor_open(self) -> None:
        require("atheris")
        for target in TARGETS.values():
            begins_with = len(set(inputs(target)))
            outcome = fuzz(target, SEED, runs=begins_with + RUNS)
            self.assertTrue(outcome.clean, outcome.said)
            self.assertGreaterEqual(outcome.runs, begins_with + RUNS, outcome.said)
            self.assertGreater(outcome.edges, 10)

    def test_a_planted_fault_is_found_and_can_be_seen_again(self) -> None:
        require("atheris")
        planted, _ = PLANTED.load()
        honest, _ = TARGETS["server"].load()
        for data in inputs(PLANTED):
            planted(data)
        outcome = fuzz(PLANTED, SEED, runs=MOST_RUNS)
        self.assertFalse(outcome.clean)
        self.assertIn("KeyError", outcome.why)
        finding = outcome.finding
        assert finding is not None
        self.assertRaises(Found, planted, finding)
        honest(finding)
        self.flushLoggedErrors(KeyError)
        path = Path(self.mktemp())
        path.write_bytes(finding)
        for name, code, said in ((PLANTED.name, FOUND, "KeyError"), ("server", CLEAN, "nothing was found")):
            with redirect_stdout(io.StringIO()) as out:
                self.assertEqual(main([name, "--replay", str(path)]), code)
            self.assertIn(said, out.getvalue())
        self.flushLoggedErrors(KeyError)

    def test_what_is_not_clean_is_said(self) -> None:
        fine = Outcome("x", 0, "", runs=7, descriptors=(4, 4))
        self.assertIn("7 runs", line(fine))
        self.assertIn("ok", line(fine))
        for bad in (
            Outcome("x", 77, "", descriptors=(4, 4), finding=b""),
            Outcome("x", 0, "", descriptors=(4, 5)),
            Outcome("x", 1, "", descriptors=(4, 4)),
            Outcome("x", 0, ""),
        ):
            self.assertFalse(bad.clean)
            self.assertIn("FOUND", line(bad))


class StepTests(SynchronousTestCase):
    @given(st.binary(max_size=600), st.integers(0, 1 << 32), st.integers(1, 600))
    @settings(max_examples=100)
    def test_every_input_is_a_program_and_what_becomes_of_it_is_one(self, data: bytes, seed: int, most: int) -> None:
        program = [*steps.steps(data)]
        self.assertEqual([*steps.steps(steps.joined(program))], program)
        words = [b"\1", b"\0\1\2"]
        mutated = steps.mutated(data, most, seed, lambda step, size: Random(seed).randbytes(3)[:size], words)
        self.assertLessEqual(len(mutated), most)
        self.assertLessEqual(len(steps.crossed(data, mutated, most, seed)), most)

    @given(st.binary(max_size=300))
    @settings(max_examples=100)
    def test_choices_never_run_out(self, data: bytes) -> None:
        draw = steps.Draw(data)
        for _ in range(200):
            self.assertLess(draw.below(5), 5)
            self.assertLess(draw.number(), 1 << 32)
            self.assertLessEqual(len(draw.some(9)), 9)
        self.assertEqual(draw.rest(), b"")

    def test_what_is_kept_is_read_as_it_was_written(self) -> None:
        folder = Path(self.mktemp())
        corpus.spread([b"a", b"", b"b" * 300], folder)
        self.assertEqual(sorted(corpus.gathered(folder)), [b"", b"a", b"b" * 300])
