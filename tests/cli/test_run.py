"""`avictl run` and `avictl jobs`: what is printed is there as it comes, and a code tells whether all was well."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml
from typing_extensions import override

from avinet.cli.exits import INTERRUPTED, REFUSED, REMOTE, UNREACHABLE, USAGE
from avinet.controller.job_followers import printed
from avinet.wire.jobs import (
    LINE_BYTES,
    Job,
    JobEnded,
    JobEvent,
    JobLeftOut,
    JobOutput,
    JobResult,
    JobResults,
    JobSeen,
    JobStarted,
)
from tests.cli import fleet
from tests.cli.scripted import PATIENCE_S, Asked, ScriptedCase, said, told

PONG = JobResult(number=1, id="se-1", outcome="done", exit_status=0, output="pong from se-1\nmore\n")
FAR = JobResult(number=2, id="se-2", outcome="unreachable", error="service engine se-2 is not connected")
BAD = JobResult(number=3, id="se-3", outcome="done", exit_status=127, error="there is no command 'x'\n")


class RunCase(ScriptedCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.results = [PONG]
        self.state = "done"
        self.answers(self.node)

    @property
    def job(self) -> Job:
        failed = sum(each.exit_status != 0 for each in self.results)
        changes: Any = {"state": self.state, "targets": len(self.results), "ended": len(self.results), "failed": failed}
        return msgspec.structs.replace(fleet.JOB, **changes)

    def events(self) -> list[JobEvent]:
        running = JobSeen(job=msgspec.structs.replace(self.job, state="running"))
        told = [event for each in self.results for event in (JobStarted(id=each.id), *printed(each))]
        return [running, *told, JobSeen(job=self.job)]

    def node(self, asked: Asked) -> bytes:
        path, _, query = asked.target.partition("?")
        if "follow=1" in query or path.endswith("/output"):
            return told(*self.events())
        if asked.method == "POST":
            return said(self.job)
        fields = dict(pair.split("=") for pair in query.split("&") if pair)
        left = [each for each in self.results if each.number > int(fields.get("after", 0))]
        return said(JobResults(job=self.job, items=left[:1]))


class RunTests(RunCase):
    def test_what_each_prints_has_its_id_and_the_last_lines_are_the_sum(self) -> None:
        self.results = [PONG, FAR, BAD]
        ended = self.avictl("run", "se-1,se-2,se-3", "ping")
        self.assertEqual(ended.code, REMOTE)
        self.assertEqual(ended.out, "se-1: pong from se-1\nse-1: more\n")
        self.assertEqual(
            ended.err.splitlines(),
            [
                "se-2: unreachable: service engine se-2 is not connected",
                "se-3: there is no command 'x'",
                "job 0000000000001-abc done: 1 of 3 ended well, in 0ms",
                "  exit 127: 1: se-3",
                "  ok: 1: se-1",
                "  unreachable: 1: se-2",
            ],
        )
        self.assertEqual(self.avictl("run", "--no-prefix", "se-1,se-2,se-3", "ping").out, "pong from se-1\nmore\n")

    def test_what_one_prints_is_printed_as_it_is(self) -> None:
        ended = self.avictl("run", "se-1", "ping")
        self.assertEqual((ended.code, ended.out, ended.err), (0, "pong from se-1\nmore\n", ""))
        self.results = [BAD]
        ended = self.avictl("run", "se-3", "x")
        self.assertEqual((ended.code, ended.out, ended.err), (REMOTE, "", "there is no command 'x'\n"))

    def test_on_a_terminal_it_is_aligned_and_errors_are_marked(self) -> None:
        long = msgspec.structs.replace(PONG, id="se-1000")
        self.results = [long, BAD]
        code, shown = self.on_terminal("run", "se-1000,se-3", "ping")
        self.assertEqual(code, REMOTE)
        self.assertIn(b"se-1000 | pong from se-1\r\n", shown)
        self.assertIn(b"se-3    ! there is no command 'x'\r\n", shown)

    def test_lines_are_whole_however_they_come(self) -> None:
        job = msgspec.structs.replace(fleet.JOB, targets=2)
        pieces = [("se-1", "on"), ("se-2", "tw"), ("se-1", "e\nthr"), ("se-2", "o\n"), ("se-1", "ee")]
        ends = [JobEnded(number=at, id=id, outcome="done", exit_status=0) for at, id in enumerate(("se-1", "se-2"), 1)]
        printed = [JobOutput(id=id, text=text) for id, text in pieces]
        self.answers(told(JobSeen(job=job), *printed, *ends, JobSeen(job=job)))
        self.assertEqual(self.avictl("run", "-l", "a=b", "x").out, "se-1: one\nse-2: two\nse-1: three\n")

    def test_a_line_without_end_is_printed_before_it_fills_the_memory(self) -> None:
        job = msgspec.structs.replace(fleet.JOB, targets=2)
        flood = [JobOutput(id="se-1", text="x" * 16384) for _ in range(20)]
        self.answers(told(JobSeen(job=job), *flood, JobSeen(job=job)))
        lines = self.avictl("run", "-l", "a=b", "x").out.splitlines()
        self.assertLess(max(map(len, lines)), 100_000)

    def test_what_is_left_out_is_said(self) -> None:
        events = [*fleet.RUN[:3], JobLeftOut(id="se-1", bytes=12345), *fleet.RUN[3:]]
        self.answers(told(*events))
        self.assertEqual(self.avictl("run", "se-1", "x").err, "... (12345 bytes left out)\n")

    def test_it_is_shown_while_it_runs(self) -> None:
        """The node sends the end only after the first line was seen on the terminal."""
        seen = threading.Event()

        def node(asked: Asked) -> Iterator[bytes]:
            if asked.target.endswith("/cancellation"):
                seen.set()
                yield said(b"", 204)
                return
            whole = told(*fleet.RUN)
            at = whole.index(b'{"event":"ended"')
            at = whole.rindex(b"\r\n", 0, at - 2) + 2
            yield whole[:at]
            seen.wait(PATIENCE_S)
            yield whole[at:]

        self.answers(node)
        code, shown = self.on_terminal("run", "se-1", "ping", typed=b"\x03", when=b"pong")
        self.assertTrue(seen.is_set(), "Ctrl-C asks the node to end it")
        self.assertEqual(code, 0, shown)
        self.assertIn(b"ending job 0000000000001-abc; Ctrl-C again leaves it as it is", shown)

    def test_ctrl_c_ends_it_when_nobody_reads_what_it_prints(self) -> None:
        """Standard error is a full pipe, in the middle of whose writing the signal comes."""
        cancelled = threading.Event()

        def node(asked: Asked) -> Iterator[bytes]:
            if asked.target.endswith("/cancellation"):
                cancelled.set()
                yield said(b"", 204)
                return
            flood = [JobOutput(id="se-1", stream="err", text="x" * 16384 + "\n") for _ in range(16)]
            yield told(*fleet.RUN[:2], *flood, whole=False)
            cancelled.wait(PATIENCE_S)
            yield told(*fleet.RUN[2:]).partition(b"\r\n\r\n")[2]

        self.answers(node)
        near, far = os.pipe()
        with open(near, "rb") as shown:
            process = subprocess.Popen(
                [sys.executable, "-m", "avinet.cli", "--socket", self.path, "run", "se-1", "ping"],
                stdout=subprocess.DEVNULL,
                stderr=far,
            )
            until = time.monotonic() + PATIENCE_S
            while select.select([], [far], [], 0)[1] and time.monotonic() < until:
                os.sched_yield()
            self.assertFalse(select.select([], [far], [], 0)[1], "the pipe is full")
            os.close(far)
            process.send_signal(signal.SIGINT)
            ended = cancelled.wait(PATIENCE_S)
            printed = shown.read()
        process.wait(PATIENCE_S)
        self.assertTrue(ended, printed[-2000:])
        self.assertEqual(process.returncode, 0, printed[-2000:])

    def test_it_ends_when_its_reader_goes(self) -> None:
        """One that is only looked at goes on."""
        cancelled = threading.Event()
        flood = [JobOutput(id="se-1", text="x" * 16384 + "\n") for _ in range(16)]

        def node(asked: Asked) -> Iterator[bytes]:
            if asked.target.endswith("/cancellation"):
                cancelled.set()
                yield said(b"", 204)
                return
            yield told(*fleet.RUN[:2], *flood, *fleet.RUN[2:])

        self.answers(node)
        for words, ends in (("jobs", "show", "0000000000001-abc", "--follow"), False), (("run", "se-1", "ping"), True):
            command = [sys.executable, "-m", "avinet.cli", "--socket", self.path, *words]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                process.stdout.read(10)
                process.stdout.close()
                self.assertEqual(process.stderr.read(), b"")
            self.assertEqual(cancelled.is_set(), ends, words)

    def test_a_second_ctrl_c_leaves_it_running_and_says_how_to_look(self) -> None:
        over = threading.Event()
        self.addCleanup(over.set)

        running = told(fleet.RUN[0], fleet.RUN[1], whole=False)

        def silent(asked: Asked) -> Iterator[bytes]:
            if asked.target.endswith("/cancellation"):
                yield said(b"", 204)
                return
            yield running + told(fleet.RUN[2], whole=False).partition(b"\r\n\r\n")[2]
            over.wait(PATIENCE_S)

        self.answers(silent)
        code, shown = self.on_terminal(
            "run", "se-1", "ping", typed=b"\x03", when=b"pong", again=(b"\x03", b"Ctrl-C again")
        )
        self.assertEqual(code, INTERRUPTED, shown)
        self.assertIn(b"look with: avictl jobs show 0000000000001-abc --follow", shown)

    def test_all_well_is_0(self) -> None:
        self.assertEqual(self.avictl("run", "-l", "site=paris", "ping").code, 0)
        self.results, self.state = [PONG, msgspec.structs.replace(PONG, number=2, id="se-2")], "cancelled"
        self.assertEqual(self.avictl("run", "-l", "site=paris", "ping").code, REMOTE)

    def test_one_without_an_outcome_is_an_error_of_its_own(self) -> None:
        for outcome, code in (("unreachable", UNREACHABLE), ("unknown", UNREACHABLE), ("refused", REFUSED)):
            self.results = [msgspec.structs.replace(FAR, outcome=outcome)]
            ended = self.avictl("run", "se-2", "ping")
            self.assertEqual((ended.code, ended.out), (code, ""))
            self.assertEqual(ended.err, "avictl: service engine se-2 is not connected\n")

    def test_one_that_a_signal_has_ended(self) -> None:
        end = JobEnded(number=1, id="se-1", outcome="done", exit_status=143, signal="TERM")
        self.answers(told(*fleet.RUN[:3], end, fleet.RUN[4]))
        ended = self.avictl("run", "se-1", "ping")
        self.assertEqual((ended.code, ended.err), (REMOTE, "ended by signal TERM\n"))

    def test_what_is_asked_for(self) -> None:
        for typed, wanted in {
            "run se-1,se-2 config --all": {"command": "config", "arguments": ["--all"], "ids": ["se-1", "se-2"]},
            "run -l site=paris --batch 5 --failures 2 --at-once 3 --timeout 5 ping x": {
                "command": "ping",
                "arguments": ["x"],
                "selector": "site=paris",
                "batch": 5,
                "failures": 2,
                "at_once": 3,
                "timeout_s": 5.0,
            },
        }.items():
            self.asked.clear()
            self.avictl(*typed.split())
            self.assertEqual(json.loads(self.asked[0].body), wanted)
            self.assertEqual(self.asked[0].target, "/v1/jobs?follow=1")

    def test_it_need_not_be_waited_for(self) -> None:
        ended = self.avictl("run", "--detach", "se-1", "ping")
        self.assertEqual((ended.code, ended.out, len(self.asked)), (0, "0000000000001-abc\n", 1))

    def test_programs_have_each_event_as_a_line_of_json(self) -> None:
        self.results = [PONG, FAR]
        lines = [json.loads(each) for each in self.avictl("-o", "json", "run", "se-1,se-2", "ping").out.splitlines()]
        self.assertEqual(
            [(each["event"], each.get("id")) for each in lines],
            [
                ("job", None),
                ("started", "se-1"),
                ("output", "se-1"),
                ("ended", "se-1"),
                ("started", "se-2"),
                ("ended", "se-2"),
                ("job", None),
            ],
        )
        self.assertEqual(lines[-1]["job"]["state"], "done")
        documents = list(yaml.safe_load_all(self.avictl("-o", "yaml", "run", "se-1,se-2", "ping").out))
        self.assertEqual(documents, lines)

    def test_what_is_no_command_line(self) -> None:
        self.assertEqual(self.avictl("run", "se-1").code, USAGE)
        self.assertEqual(self.avictl("run", "-l", "site=paris").code, USAGE)
        self.assertEqual(self.avictl("run").code, USAGE)

    def test_an_answer_that_is_broken_off_is_no_end_and_says_how_to_look(self) -> None:
        for broken in (told(*fleet.RUN[:3], whole=False), told(*fleet.RUN[:3]), told(*fleet.RUN[:3])[:-20]):
            self.answers(broken)
            ended = self.avictl("run", "se-1", "ping")
            self.assertEqual(ended.code, UNREACHABLE)
            self.assertIn("look with: avictl jobs show 0000000000001-abc --follow", ended.err)
        self.answers(told(b'{"event":"strange"}'))
        self.assertEqual(self.avictl("run", "se-1", "ping").code, UNREACHABLE)
        self.answers(told(b"x" * (LINE_BYTES + 1)))
        self.assertEqual(self.avictl("run", "se-1", "ping").code, UNREACHABLE)

    def test_signs_of_life_are_not_shown(self) -> None:
        self.answers(told(*fleet.RUN[:2], b"", b"", *fleet.RUN[2:]))
        self.assertEqual(self.avictl("run", "se-1", "ping").out, "pong from se-1\n")


class JobsTests(RunCase):
    def test_one_job_and_what_became_of_it(self) -> None:
        self.results = [PONG, FAR]
        lines = self.avictl("jobs", "show", "0000000000001-abc").out.splitlines()
        self.assertTrue(lines[0].startswith("ping, by ann, "), lines)
        shown = ["se-1  ok  pong from se-1", "se-2  unreachable  service engine se-2 is not connected"]
        self.assertEqual(lines[1:], shown)
        whole = self.avictl("jobs", "show", "0000000000001-abc", "--output-of", "se-1")
        self.assertEqual(whole.out, "pong from se-1\nmore\n")

    def test_one_is_followed_from_its_start_or_from_now_on(self) -> None:
        self.results = [PONG, FAR]
        ended = self.avictl("jobs", "show", "0000000000001-abc", "--follow")
        self.assertEqual((ended.code, ended.out), (REMOTE, "se-1: pong from se-1\nse-1: more\n"))
        self.assertEqual(self.asked[-1].target, "/v1/jobs/0000000000001-abc/output")
        self.avictl("jobs", "show", "0000000000001-abc", "-f", "--from-now", "--no-prefix")
        self.assertEqual(self.asked[-1].target, "/v1/jobs/0000000000001-abc/output?from_now=1")

    def test_a_node_that_repeats_itself_is_not_listened_to(self) -> None:
        again = said(JobResults(job=fleet.JOB, items=[PONG]))
        self.answers(again)
        self.assertEqual(self.avictl("jobs", "show", "0000000000001-abc").code, UNREACHABLE)

    def test_without_a_verb_it_lists(self) -> None:
        self.answers(said(fleet.JOBS))
        self.assertIn("0000000000001-abc", self.avictl("jobs").out)
