"""`avictl run` on several, and `avictl jobs`: results in lines as they come, and a code that tells whether all was well."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from typing_extensions import override

from avinet.cli.exits import REMOTE, UNREACHABLE, USAGE
from avinet.wire.jobs import JobResult, JobResults
from tests.cli import fleet
from tests.cli.scripted import Asked, ScriptedCase, said

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

    def node(self, asked: Asked) -> bytes:
        failed = sum(each.exit_status != 0 for each in self.results)
        changes: Any = {"state": self.state, "targets": len(self.results), "ended": len(self.results), "failed": failed}
        job = msgspec.structs.replace(fleet.JOB, **changes)
        if asked.method == "POST":
            return said(job)
        query = dict(pair.split("=") for pair in asked.target.partition("?")[2].split("&") if pair)
        left = [each for each in self.results if each.number > int(query.get("after", 0))]
        return said(JobResults(job=job, items=left[:1]))


class RunTests(RunCase):
    def test_each_is_a_line_and_the_last_line_is_the_sum(self) -> None:
        self.results = [PONG, FAR, BAD]
        ended = self.avictl("run", "se-1,se-2,se-3", "ping")
        self.assertEqual((ended.code, ended.err), (REMOTE, ""))
        self.assertEqual(
            ended.out.splitlines(),
            [
                "se-1  ok  pong from se-1",
                "se-2  unreachable  service engine se-2 is not connected",
                "se-3  exit 127  there is no command 'x'",
                "job 0000000000001-abc done: 1 of 3 ended well, in 0ms",
            ],
        )

    def test_all_well_is_0(self) -> None:
        self.assertEqual(self.avictl("run", "-l", "site=paris", "ping").code, 0)
        self.state = "cancelled"
        self.assertEqual(self.avictl("run", "-l", "site=paris", "ping").code, REMOTE)

    def test_what_is_asked_for(self) -> None:
        for typed, wanted in {
            "run se-1,se-2 config --all": {"command": "config", "arguments": ["--all"], "ids": ["se-1", "se-2"]},
            "run -l site=paris --batch 5 --failures 2 --at-once 3 ping x": {
                "command": "ping",
                "arguments": ["x"],
                "selector": "site=paris",
                "batch": 5,
                "failures": 2,
                "at_once": 3,
            },
        }.items():
            self.asked.clear()
            self.avictl(*typed.split())
            self.assertEqual(json.loads(self.asked[0].body), {**wanted, "timeout_s": 10.0})
            self.assertEqual(self.asked[0].target, "/v1/jobs")

    def test_it_need_not_be_waited_for(self) -> None:
        ended = self.avictl("run", "--detach", "se-1", "ping")
        self.assertEqual((ended.code, ended.out, len(self.asked)), (0, "0000000000001-abc\n", 1))

    def test_the_whole_is_json_for_programs(self) -> None:
        self.results = [PONG, FAR]
        found = json.loads(self.avictl("-o", "json", "run", "se-1,se-2", "ping").out)
        self.assertEqual([each["id"] for each in found["items"]], ["se-1", "se-2"])
        self.assertEqual(found["job"]["state"], "done")

    def test_what_is_no_command_line(self) -> None:
        self.assertEqual(self.avictl("run", "se-1").code, USAGE)
        self.assertEqual(self.avictl("run", "-l", "site=paris").code, USAGE)
        self.assertEqual(self.avictl("run").code, USAGE)

    def test_a_node_that_repeats_itself_is_not_listened_to(self) -> None:
        again = said(JobResults(job=fleet.JOB, items=[PONG]))
        self.answers(lambda asked: said(fleet.JOB) if asked.method == "POST" else again)
        self.assertEqual(self.avictl("run", "se-1,se-2", "ping").code, UNREACHABLE)


class JobsTests(RunCase):
    def test_one_job_and_what_became_of_it(self) -> None:
        self.results = [PONG, FAR]
        lines = self.avictl("jobs", "show", "0000000000001-abc").out.splitlines()
        self.assertTrue(lines[0].startswith("ping, by ann, "), lines)
        shown = ["se-1  ok  pong from se-1", "se-2  unreachable  service engine se-2 is not connected"]
        self.assertEqual(lines[1:], shown)
        whole = self.avictl("jobs", "show", "0000000000001-abc", "--output-of", "se-1")
        self.assertEqual(whole.out, "pong from se-1\nmore\n")

    def test_without_a_verb_it_lists(self) -> None:
        self.answers(said(fleet.JOBS))
        self.assertIn("0000000000001-abc", self.avictl("jobs").out)
