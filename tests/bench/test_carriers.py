"""What the benchmarks measure with: the ends of the traffic, and the CPU of processes that have ended."""

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from bench.carriers import cpu_s, descendants, stage
from tests.peers import require


class CpuTests(SynchronousTestCase):
    def test_children_count_once_they_have_ended(self):
        mine, all_of_it = cpu_s(os.getpid()), cpu_s(os.getpid(), children=True)
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
        theirs = cpu_s(os.getpid(), children=True) - all_of_it - (cpu_s(os.getpid()) - mine)
        self.assertGreater(theirs, 0.1)

    def test_descendants_are_seen_while_they_run(self):
        command = [sys.executable, "-c", "import subprocess; subprocess.run(['cat'])"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            child.stdin.write(b"x")
            child.stdin.flush()
            child.stdout.read(1)  # so `cat` runs
            found = descendants(os.getpid())
            self.assertEqual((found[0], len(found)), (child.pid, 2))
            child.stdin.close()
        self.assertEqual(descendants(os.getpid()), ())


class TrafficTests(SynchronousTestCase):
    def setUp(self):
        require("cc")

    def test_many_connections_are_opened_and_answered_however_many_at_a_time(self):
        with stage({"answer": ("answer",)}) as on:
            for at_once in (1, 7, 300):
                _, count = on.run("opens", str(on.targets["answer"]), "50", str(at_once))[0].split()
                self.assertEqual(count, "50")
