"""A silent peer is asked, then given up in time; a live one never is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.flow.liveness import Liveness, Verdict


def watch(liveness: Liveness, now: float, heard_at: list[float], until: float) -> tuple[list[float], float | None]:
    """When the peer was probed, and when it was given up, if it sends at `heard_at`."""
    probes = []
    heard = sorted(heard_at)
    while now < until:
        verdict, wait_s = liveness.due(now)
        if verdict is Verdict.DEAD:
            return probes, now
        if verdict is Verdict.PROBE:
            probes.append(now)
        assert wait_s > 0
        now += wait_s
        while heard and heard[0] <= now:
            liveness.heard(heard.pop(0))
    return probes, None


class LivenessTests(SynchronousTestCase):
    def test_a_silent_peer_is_probed_once_and_given_up_in_time(self) -> None:
        """(S34)"""
        probes, dead = watch(Liveness(15.0, 100.0), 100.0, [], 200.0)
        self.assertEqual(probes, [106.0])
        self.assertEqual(dead, 114.25)

    def test_an_answer_to_the_probe_is_enough(self) -> None:
        liveness = Liveness(15.0, 0.0)
        self.assertEqual(liveness.due(0.0), (Verdict.WAIT, 6.0))
        self.assertEqual(liveness.due(6.0)[0], Verdict.PROBE)
        liveness.heard(6.1)
        verdict, wait_s = liveness.due(14.25)
        self.assertEqual(verdict, Verdict.PROBE)
        self.assertGreater(wait_s, 0)

    def test_a_talkative_peer_is_not_asked(self) -> None:
        probes, dead = watch(Liveness(15.0, 0.0), 0.0, [float(n) for n in range(0, 600, 5)], 595.0)
        self.assertEqual((probes, dead), ([], None))

    def test_who_was_stopped_itself_does_not_blame_the_peer(self) -> None:
        liveness = Liveness(15.0, 0.0)
        liveness.due(0.0)
        liveness.due(6.0)
        verdict, wait_s = liveness.due(3600.0)
        self.assertEqual(verdict, Verdict.PROBE)
        self.assertEqual(liveness.due(3600.0 + wait_s)[0], Verdict.DEAD)

    @given(st.floats(0.5, 600.0), st.lists(st.floats(0.0, 1000.0), max_size=30))
    def test_death_is_noticed_within_the_limit_after_the_last_sign(self, limit_s: float, signs: list[float]) -> None:
        """(S34)"""
        probes, dead = watch(Liveness(limit_s, 0.0), 0.0, signs, 1e6)
        assert dead is not None
        last = max([sign for sign in signs if sign <= dead], default=0.0)
        self.assertLessEqual(dead - last, limit_s)
        self.assertTrue(any(last <= probe < dead for probe in probes), "it was asked first")
