"""Pulls while something fails for real: the file system of the archive is full, or a service engine stands still."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from pathlib import Path

from typing_extensions import override

from avinet.wire.segment import Manifest
from tests.integration.pulls import SEGMENT_BYTES, PullCase, segment
from tests.peers import missing, require


class StoppedCase(PullCase):
    """A service engine may stand still in the middle of a segment."""

    def three(self) -> list[Manifest]:
        """Segments of `se-1`, of which not all come between two looks."""
        return [segment(self.spool("se-1"), "se-1", first, 1000, SEGMENT_BYTES) for first in (1, 1001, 2001)]

    def stopped_while_it_comes(self, id: str) -> str:
        """A pull of `id`, whose process stands still since some of it came."""
        pull = self.node.avictl("logs", "pull", id, "--detach").stdout.decode().strip()
        self.machine.until("some of it has come", self.part)
        self.signal(id, signal.SIGSTOP)
        self.addCleanup(self.signal, id, signal.SIGCONT)
        return pull

    def signal(self, id: str, what: signal.Signals) -> None:
        os.kill(self.machine.process(id), what)


class FullDiskTests(StoppedCase):
    """The archive has a file system of its own, in memory, that only the node sees."""

    ROOM_BYTES = 4 * SEGMENT_BYTES

    @override
    def setUp(self) -> None:
        unshare = require("unshare")
        if os.geteuid() != 0 or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
            missing("only root can mount a file system for one process")
        super().setUp()
        folder = self.node.folder / "controller" / "archive"
        folder.mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o size={self.ROOM_BYTES},mode=700 archive {folder} && exec "$@"'
        self.settle("\n[archive]\nspare_mib = 0\n", unshare, "-m", "sh", "-c", mount, "sh")

    @property
    @override
    def archive(self) -> Path:
        return Path(f"/proc/{self.machine.process('controller')}/root{super().archive}")

    def fill(self) -> Path:
        """A file that leaves no byte."""
        path = self.archive / "filler"
        with path.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1024 * 1024)):
                    pass
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
        return path

    def test_what_is_full_is_said_and_when_there_is_room_it_goes_well(self) -> None:
        """Before a segment has begun, and in the middle of one (E11)."""
        there = self.three()
        self.start("se-1")
        filler = self.fill()
        shown = self.node.avictl("logs", "pull", "se-1")
        self.assertEqual((shown.returncode, shown.stderr.count(b"\n")), (7, 1), shown)
        self.assertIn(b"se-1: failed: there is no room for a segment of 64", shown.stderr)
        self.assertEqual(self.have(), 0)
        filler.unlink()
        pull = self.stopped_while_it_comes("se-1")
        filler = self.fill()
        self.signal("se-1", signal.SIGCONT)
        seen = self.ended(pull)["engines"][0]
        self.assertEqual(seen["state"], "failed")
        self.assertRegex(seen["why"], "^(there is no room for a segment|cannot write .* No space left on device)")
        self.assertEqual(self.part(), 0, "it keeps nothing full")
        wanted = {each.sha256 for each in there}
        self.assertLess(set(self.archived().values()), wanted)
        filler.unlink()
        shown = self.node.avictl("logs", "pull", "se-1")
        self.assertEqual((shown.returncode, shown.stderr), (0, b""), shown)
        self.assertEqual(set(self.archived().values()), wanted)


class StalledTests(StoppedCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.settle("\n[pulls]\nat_once = 1\nstalled_s = 1.0\n")

    def test_one_that_stands_still_lets_others_in_and_is_gone_on_with_at_the_byte(self) -> None:
        there = self.three()
        other = segment(self.spool("se-2"), "se-2", 1, 10)
        self.start("se-1", "se-2")
        pull = self.stopped_while_it_comes("se-1")
        shown = self.node.avictl("logs", "pull", "se-2")
        self.assertEqual((shown.returncode, shown.stderr), (0, b""), shown)
        before = self.have() - other.bytes
        total = sum(each.bytes for each in there)
        self.assertTrue(0 < before < total)
        self.assertNotIn("finished", self.seen(pull)["pull"])
        self.signal("se-1", signal.SIGCONT)
        seen = self.ended(pull)
        self.assertEqual((seen["engines"][0]["state"], seen["pull"]["here"]), ("done", 3), seen)
        self.assertEqual(seen["pull"]["bytes"], total, "not a byte has come twice")
        self.assertEqual(sorted(self.archived().values()), sorted(each.sha256 for each in [*there, other]))
