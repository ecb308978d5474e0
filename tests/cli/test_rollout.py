"""`avictl config apply --rollout` and what it shows of it, line by line as it goes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from typing_extensions import override

from avinet.cli.exits import REFUSED, REMOTE, USAGE
from avinet.wire.fleet import DocumentList
from avinet.wire.message import encode
from avinet.wire.problem import Problem
from avinet.wire.rollout import Rollout, RolloutFailure, RolloutPlan
from tests.cli import fleet
from tests.cli.scripted import Asked, ScriptedCase, problem, said


def rollout(**fields: Any) -> Rollout:
    made = Rollout(name="web", version=3, former=2, state="running", author="ann", by="node-1", started=fleet.TIME)
    return msgspec.structs.replace(made, batches=2, targets=4, plan=RolloutPlan(observe_s=10), **fields)


COURSE = [
    rollout(phase="opening"),
    rollout(phase="applying", batch=1, opened=1),
    rollout(phase="applying", batch=1, opened=1, pending=1),
    rollout(phase="observing", batch=1, opened=1, well=1),
    rollout(phase="applying", batch=2, opened=4, well=1, pending=3),
    rollout(phase="applying", batch=2, opened=4, well=2, pending=1, waiting=1),
    rollout(phase="observing", batch=2, opened=4, well=3, waiting=1),
]
FINISHED = rollout(state="finished", batch=2, opened=4, well=3, waiting=1)
FAILED = [RolloutFailure(id="se-2", why="server web/blue is down")]
BACK = rollout(state="rolled-back", batch=1, opened=1, failed=1, failures=FAILED, why="se-2: server web/blue is down")


class FollowCase(ScriptedCase):
    """A node where each question has the next answer of `course`, with tags by their number."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.course: list[Rollout] = []
        self.answers(self.node)
        self.file = self.folder / "web.json"
        self.file.write_bytes(encode(fleet.DOCUMENT))

    def node(self, asked: Asked) -> bytes:
        if asked.method == "POST":
            return said(fleet.APPLIED)
        number = sum(each.method == "GET" for each in self.asked) - 1
        found = self.course[min(number, len(self.course) - 1)]
        return said(msgspec.structs.replace(found, tag=f"t{min(number, len(self.course) - 1)}"))


class FollowTests(FollowCase):
    def test_each_change_is_a_line_until_the_end(self) -> None:
        self.course = [*COURSE, FINISHED]
        ended = self.avictl("config", "rollout", "follow", "web")
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertEqual(
            ended.out.splitlines(),
            [
                "web: batch 1 of 2: 1 of 4 service engines",
                "web: 0 are well, 1 to come",
                "web: 1 are well; observed for 10s",
                "web: batch 2 of 2: 4 of 4 service engines",
                "web: 1 are well, 3 to come",
                "web: 2 are well, 1 to come, 1 are away",
                "web: 3 are well, 1 are away; observed for 10s",
                "web: finished: 3 of 4 service engines are well, 1 are away",
            ],
        )
        self.assertEqual(self.asked[1].target, "/v1/rollouts/web?seen=t0&wait_s=20")

    def test_one_that_is_taken_back_ends_with_7_and_says_why(self) -> None:
        self.course = [*COURSE[:2], BACK]
        ended = self.avictl("config", "apply", "-f", str(self.file), "--rollout", "--follow")
        self.assertEqual(ended.code, REMOTE)
        self.assertEqual(
            ended.out.splitlines()[-2:],
            ["web: not well: se-2: server web/blue is down", "web: rolled back: se-2: server web/blue is down"],
        )

    def test_one_that_is_stopped_or_paused_says_what_to_do(self) -> None:
        paused = rollout(state="paused", batch=1, opened=1, well=1)
        stopped = msgspec.structs.replace(BACK, state="stopped")
        self.course = [COURSE[1], paused, stopped]
        ended = self.avictl("config", "rollout", "follow", "web")
        self.assertEqual(ended.code, REMOTE)
        self.assertIn("web: paused by node-1; avictl config rollout resume web", ended.out)
        self.assertIn("avictl config rollout abort web takes it back", ended.out.splitlines()[-1])

    def test_programs_have_its_end_as_one_message(self) -> None:
        self.course = [*COURSE, FINISHED]
        ended = self.avictl("-o", "json", "config", "apply", "-f", str(self.file), "--rollout", "--follow")
        self.assertEqual((ended.code, json.loads(ended.out)["state"]), (0, "finished"))

    def test_what_is_unchanged_is_not_followed(self) -> None:
        self.answers(said(msgspec.structs.replace(fleet.APPLIED, changed=False)))
        ended = self.avictl("config", "apply", "-f", str(self.file), "--rollout", "--follow")
        self.assertEqual((ended.code, ended.out), (0, "web: unchanged, version 3\n"))

    def test_one_that_ended_before_is_shown_once(self) -> None:
        self.course = [BACK]
        ended = self.avictl("config", "rollout", "follow", "web")
        self.assertEqual((ended.code, len(self.asked), len(ended.out.splitlines())), (REMOTE, 1, 3))

    def test_another_version_that_takes_its_place_is_followed(self) -> None:
        other = msgspec.structs.replace(COURSE[1], version=4, author="bob")
        self.course = [COURSE[1], other, msgspec.structs.replace(FINISHED, version=4)]
        ended = self.avictl("config", "rollout", "follow", "web")
        self.assertEqual((ended.code, ended.out.count("version 4 takes its place, by bob")), (0, 1), ended)


class OrderTests(FollowCase):
    def order(self, *options: str) -> dict[str, Any]:
        self.avictl("config", "apply", "-f", str(self.file), "--rollout", *options)
        plan: dict[str, Any] = json.loads(self.asked[-1].body).get("plan", {})
        return plan

    def test_the_plan_is_what_was_said_and_else_the_nodes(self) -> None:
        self.assertEqual(self.order(), {})
        self.assertEqual(self.order("--batch", "2, 25%,75%"), {"batches": ["2", "25%", "75%"]})
        self.assertEqual(
            self.order("--batch-size", "5", "--observe", "2m", "--deadline", "10", "--lost", "1m", "--max-failed", "3"),
            {"batch_size": 5, "observe_s": 120.0, "deadline_s": 10.0, "lost_s": 60.0, "max_failed": 3},
        )
        self.assertEqual(
            self.order("--pause", "--no-auto-rollback", "--errors", "2.5", "--requests", "100"),
            {"pause": True, "auto_rollback": False, "errors_percent": 2.5, "least_requests": 100},
        )

    def test_force_is_said_in_every_form(self) -> None:
        self.order("--force")
        self.assertTrue(json.loads(self.asked[-1].body)["force"])
        self.answers(said(fleet.APPLIED))
        self.avictl("config", "apply", "-f", str(self.file), "--force")
        self.assertEqual(self.asked[-1].target, "/v1/configurations/web?force=1")
        self.answers(said(b""))
        self.avictl("config", "delete", "web", "--force")
        self.assertEqual(self.asked[-1].target, "/v1/configurations/web?force=1")

    def test_what_makes_no_sense_is_refused_before_the_node_is_asked(self) -> None:
        apply = ("config", "apply", "-f", str(self.file))
        for options in (("--batch", "1"), ("--follow",), ("--max-failed", "0"), ("--no-auto-rollback",)):
            self.assertIn("--rollout", self.refused(USAGE, *apply, *options))
        self.refused(USAGE, *apply, "--rollout", "--batch", "1", "--batch-size", "2")
        for options in (
            ("--batch", "0"),
            ("--batch", "101%"),
            ("--batch", ""),
            ("--observe", "soon"),
            ("--errors", "0"),
        ):
            self.refused(REFUSED, *apply, "--rollout", *options)
        self.assertEqual(self.asked, [])

    def test_a_refusal_names_the_way_out(self) -> None:
        said_no = Problem(status=409, title="Conflict", detail="version 2 of document web is being rolled out")
        self.answers(problem(said_no, 409))
        self.assertIn("is being rolled out", self.refused(REFUSED, "config", "apply", "-f", str(self.file)))


class ShownTests(ScriptedCase):
    def test_listings_say_that_a_roll_out_is_under_way(self) -> None:
        line = "web: version 3: running, batch 2 of 4, 10 of 100 service engines (1 failed, 1 away)"
        for words in ("config list", "config history web"):
            self.answers(said(DocumentList(items=[fleet.DOCUMENT_VERSION], rollouts=[fleet.ROLLOUT])))
            self.assertIn(line, self.avictl(*words.split()).out)
        versions = [fleet.DOCUMENT_VERSION, msgspec.structs.replace(fleet.DOCUMENT_VERSION, version=2)]
        self.answers(
            lambda asked: said(
                DocumentList(items=versions, rollouts=[fleet.ROLLOUT]) if "?" in asked.target else versions[1]
            )
        )
        ended = self.avictl("config", "diff", "web")
        self.assertEqual((ended.code, ended.out), (0, ""))
        self.assertIn(line, ended.err)

    def test_the_status_and_the_doctor_say_so_too(self) -> None:
        status = msgspec.structs.replace(fleet.STATUS, rollouts=[fleet.ROLLOUT])
        self.answers(lambda asked: said(status if asked.target == "/v1/status" else fleet.ENGINES))
        self.assertIn("roll-out       web: version 3: running", self.avictl("status").out)
        self.assertEqual(self.avictl("doctor").code, 0)
        stopped = msgspec.structs.replace(fleet.ROLLOUT, state="stopped", why="se-1: server web/blue is down")
        self.answers(said(msgspec.structs.replace(fleet.STATUS, rollouts=[stopped])))
        ended = self.avictl("doctor")
        self.assertEqual(ended.code, 1)
        self.assertIn("BAD  roll-out: web, version 3: stopped", ended.out)
