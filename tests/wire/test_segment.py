"""Manifests and gaps: what a segment says of itself, and that merging gaps forgets no record."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid
from avinet.wire.segment import GAPS, SERVICES, Gap, Manifest, manifest_bytes, merged, read_manifest, with_limits

TIMES = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(sorted)
GAP = st.builds(
    lambda after, records, reason, times: Gap(
        after=after, records=records, reason=reason, from_ms=times[0], to_ms=times[1]
    ),
    st.integers(0, 30),
    st.none() | st.integers(0, 50),
    st.sampled_from(["parse", "dropped", "full", "cap", "crash"]),
    TIMES,
)
MANIFEST = Manifest(
    schema=1, engine="se-1", generation=2, first=5, last=7, rows=3, from_ms=10, to_ms=20, services={"shop": 3},
    bytes=1000, sha256="0" * 64, gaps=[Gap(after=5, records=2, reason="full", from_ms=1, to_ms=2)],
)  # fmt: skip


def counted(gaps: list[Gap]) -> dict[str, int | None]:
    """The records of each reason, None where they cannot be known."""
    known: Counter[str] = Counter()
    for gap in gaps:
        known[gap.reason] += gap.records or 0
    return {
        reason: None if any(gap.records is None for gap in gaps if gap.reason == reason) else number
        for reason, number in known.items()
    }


class MergingTests(SynchronousTestCase):
    @given(st.lists(GAP, max_size=60), st.integers(5, 20))
    def test_there_are_as_many_as_allowed_and_every_record_is_still_counted(self, gaps: list[Gap], limit: int) -> None:
        found = merged(gaps, limit)
        self.assertLessEqual(len(found), limit)
        self.assertEqual(counted(found), counted(gaps))

    @given(st.lists(GAP, max_size=60), st.integers(5, 20))
    def test_each_lies_in_one_that_is_told(self, gaps: list[Gap], limit: int) -> None:
        found = merged(gaps, limit)
        for gap in gaps:
            self.assertTrue(
                any(
                    each.reason == gap.reason
                    and each.after <= gap.after
                    and each.from_ms <= gap.from_ms
                    and each.to_ms >= gap.to_ms
                    for each in found
                ),
                gap,
            )

    @given(st.lists(GAP, max_size=60), st.integers(5, 20))
    def test_merging_again_changes_nothing(self, gaps: list[Gap], limit: int) -> None:
        found = merged(gaps, limit)
        self.assertEqual(merged(found, limit), found)

    def test_losses_at_one_place_are_one_gap(self) -> None:
        one = Gap(after=3, records=1, reason="full", from_ms=5, to_ms=6)
        other = Gap(after=3, records=4, reason="full", from_ms=7, to_ms=9)
        self.assertEqual(merged([one, other]), [Gap(after=3, records=5, reason="full", from_ms=5, to_ms=9)])

    def test_segments_removed_in_a_row_are_one_gap_and_others_are_not(self) -> None:
        first = Gap(after=0, records=10, reason="cap", from_ms=1, to_ms=2)
        second = Gap(after=10, records=5, reason="cap", from_ms=3, to_ms=4)
        far = Gap(after=20, records=5, reason="cap", from_ms=5, to_ms=6)
        self.assertEqual(
            merged([far, second, first]), [Gap(after=0, records=15, reason="cap", from_ms=1, to_ms=4), far]
        )

    def test_two_crashes_stay_two(self) -> None:
        crashes = [Gap(after=3, reason="crash", from_ms=t, to_ms=t + 1) for t in (1, 50)]
        self.assertEqual(merged(crashes), crashes)


class ManifestTests(SynchronousTestCase):
    def test_one_comes_back_as_it_was_written(self) -> None:
        self.assertEqual(read_manifest(manifest_bytes(MANIFEST)), MANIFEST)

    def test_one_that_contradicts_itself_is_refused(self) -> None:
        for change in ({"rows": 4}, {"last": 4}, {"from_ms": 21}, {"services": {"shop": 2}}):
            wrong = msgspec.structs.replace(MANIFEST, **change)
            self.assertRaises(Invalid, read_manifest, manifest_bytes(wrong))

    def test_one_with_too_much_in_it_is_refused(self) -> None:
        gaps = [Gap(after=n, records=1, reason="full", from_ms=0, to_ms=0) for n in range(GAPS + 1)]
        wrong = msgspec.structs.replace(MANIFEST, gaps=gaps)
        self.assertRaises(Invalid, read_manifest, manifest_bytes(wrong))
        self.assertEqual(len(read_manifest(manifest_bytes(with_limits(wrong))).gaps), GAPS // 2 + 1)

    def test_the_rows_of_too_many_services_are_counted_together(self) -> None:
        services = {f"s-{n}": n + 1 for n in range(SERVICES + 5)} | {"x" * 65: 7}
        rows = sum(services.values())
        many = msgspec.structs.replace(MANIFEST, first=1, last=rows, rows=rows, services=services)
        found = read_manifest(manifest_bytes(with_limits(many))).services
        self.assertEqual(found[""], 1 + 2 + 3 + 4 + 5 + 7)
        self.assertEqual(len(found), SERVICES + 1)
