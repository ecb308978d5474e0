"""A request that goes wrong on a real service engine is before the eyes of an operator at once."""

from __future__ import annotations

import json
import subprocess
import threading

from typing_extensions import override

from demo.machine import AVICTL
from tests.integration.node import PATIENCE_S
from tests.integration.serving import ServingCase
from tests.peers import require


class Case(ServingCase):
    service = {"significant": {"statuses": ["501"], "per_second": 3}}  # read, and not written

    @override
    def setUp(self) -> None:
        super().setUp()
        self.machine.until("it serves", lambda: self.ask("GET", "/well") == 200)


class TailTests(Case):
    def test_what_goes_wrong_is_followed_and_what_is_held_back_is_counted(self) -> None:
        with subprocess.Popen(
            [*AVICTL, "--output", "json", "logs", "tail", "se-1", "--service", "web"],
            env=self.machine.environment,
            stdout=subprocess.PIPE,
        ) as tail:
            late = threading.Timer(PATIENCE_S, tail.kill)
            late.start()
            self.addCleanup(late.cancel)
            self.addCleanup(tail.kill)
            assert tail.stdout is not None
            self.assertEqual(self.ask("PURGE", "/wrong-0"), 501, "the server knows GET alone")
            first = json.loads(tail.stdout.readline())
            self.assertEqual((first["event"], first["id"], first["why"]), ("record", "se-1", ["status"]))
            self.assertEqual((first["record"]["path"], first["record"]["method"]), ("/wrong-0", "PURGE"))
            for number in range(1, 21):
                self.ask("PURGE", f"/wrong-{number}")
            came, held = 1, 0
            while came + held < 21:
                event = json.loads(tail.stdout.readline())
                came += event["event"] == "record"
                held += event.get("records", 0)
            self.assertGreater(held, 0)
            tail.kill()
        shown = self.machine.avictl("logs", "tail", "--no-follow", "--label", "site=test")
        self.assertIn("PURGE", shown)
        self.assertNotIn("/well", shown)
        self.assertEqual(self.machine.avictl("logs", "tail", "--no-follow", "--label", "site=elsewhere"), "")


class AwayTests(Case):
    balanced = "haproxy"

    @override
    def setUp(self) -> None:
        require("haproxy")
        super().setUp()

    def test_what_goes_wrong_while_its_process_is_away_is_significant_when_it_is_back(self) -> None:
        self.machine.kill("se-1")
        self.assertEqual(self.ask("PURGE", "/meanwhile"), 501, "HAProxy serves on")
        self.node.start_engine("se-1")

        def shown() -> bool:
            return "/meanwhile" in self.machine.avictl("logs", "tail", "--no-follow")

        self.machine.until("it is shown", shown)
