"""The image bundle: whole or refused, whatever was done to it on its way."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError, Invalid
from avinet.trust import image
from avinet.trust.authority import new_issuing, new_root
from avinet.trust.image import ISSUER, MANIFEST, ROOTS, SIGNATURE, build_image, fingerprint, open_image, unpack_image

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = new_root("dexample", NOW)
ISSUING = new_issuing(ROOT, "dexample", NOW)
OTHER_ROOT = new_root("dother", NOW)
OTHER_ISSUING = new_issuing(OTHER_ROOT, "dother", NOW)
FILES = {ROOTS: ROOT.certificate_pem, "image.key": b"key", "se.toml": b"", "install/run.sh": b"#!/bin/sh\n" * 100}


def built(files: dict[str, bytes] | None = None, at: datetime = NOW + timedelta(hours=1)) -> bytes:
    return build_image(
        FILES if files is None else files,
        image="image-1",
        domain="dexample",
        built=at.timestamp(),
        not_after=at.timestamp() + 1000,
        issuing=ISSUING,
    )


PACKED = built()


def parts(bundle: bytes = PACKED) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]


def packed(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in more:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


class ImageTests(SynchronousTestCase):
    def refused(self, bundle: bytes) -> AvinetError:
        return self.assertRaises(AvinetError, open_image, bundle)

    def test_what_was_packed_is_unpacked_and_private(self) -> None:
        found = open_image(PACKED, fingerprint(ROOT.certificate))
        self.assertEqual(found.files, FILES)
        folder = Path(self.mktemp())
        unpack_image(found, folder)
        for path, data in FILES.items():
            self.assertEqual((folder / path).read_bytes(), data)
            self.assertEqual((folder / path).stat().st_mode & 0o777, 0o600)

    def test_the_same_contents_make_the_same_bundle_but_for_its_signature(self) -> None:
        again, unsigned = built(), {SIGNATURE: b""}
        self.assertEqual(packed(parts(again) | unsigned), packed(parts() | unsigned))

    def test_each_file_that_was_changed_or_removed_is_noticed(self) -> None:
        self.assertEqual(open_image(packed(parts())).files, FILES)
        for path, data in parts().items():
            self.refused(packed(parts() | {path: data[: len(data) // 2] or b"x"}))
            self.refused(packed({name: kept for name, kept in parts().items() if name != path}))

    def test_what_was_added_is_noticed(self) -> None:
        self.assertIn("extra", str(self.refused(packed(parts() | {"extra": b""}))))

    def test_what_is_no_plain_file_below_the_folder_is_refused(self) -> None:
        for name in ("../up", "/etc/passwd", "a/../../up", ".hidden", "a//b", "a\nb", "a/b/c/d/e/f", "./a", "a\\b"):
            self.assertIn("does not belong", str(self.refused(packed(parts(), member(name)))))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            self.assertIn("does not belong", str(self.refused(packed(parts(), member("extra", kind, "/etc/passwd")))))

    def test_a_file_that_stands_twice_is_refused(self) -> None:
        self.assertIn("does not belong", str(self.refused(packed(parts(), member("se.toml")))))

    def test_a_bundle_that_unpacks_to_too_much_is_refused(self) -> None:
        self.patch(image, "LIMIT_BYTES", 100_000)
        large = member("large")
        large.size = 200_000
        long_name = member("x" * 200_000)
        for bundle in (packed(parts(), large), packed(parts(), long_name), gzip.compress(bytes(10_000_000))):
            self.assertIn("more than 100000 bytes", str(self.refused(bundle)))

    def test_too_many_files_are_refused(self) -> None:
        self.refused(packed(parts(), *[member(f"f{number}") for number in range(image.FILES)]))

    def test_the_root_is_the_one_that_is_expected(self) -> None:
        error = self.assertRaises(Invalid, open_image, PACKED, fingerprint(OTHER_ROOT.certificate))
        self.assertIn("another domain of trust", str(error))

    def test_an_issuer_under_another_root_signs_nothing(self) -> None:
        forged = build_image(
            FILES, image="image-1", domain="dexample", built=NOW.timestamp(), not_after=0, issuing=OTHER_ISSUING
        )
        self.refused(forged)

    def test_an_issuer_that_had_expired_when_it_was_built_signs_nothing(self) -> None:
        self.refused(built(at=NOW + timedelta(days=50 * 365)))

    def test_a_time_of_building_that_is_none_is_refused(self) -> None:
        manifest = msgspec.json.decode(parts()[MANIFEST])
        for time in (1e300, -1e300, 1e15, -1.0):
            self.refused(packed(parts() | {MANIFEST: msgspec.json.encode(manifest | {"built": time})}))

    def test_a_manifest_that_is_none_is_refused(self) -> None:
        for data in (b"", b"null", b"[" * 100_000, b"\xff", b"{}", parts()[MANIFEST].replace(b'"v":1', b'"w":1')):
            self.refused(packed(parts() | {MANIFEST: data}))
        for name in (SIGNATURE, ISSUER, ROOTS):
            self.refused(packed(parts() | {name: b"\xff"}))

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
    def test_any_byte_changed_in_the_packed_bundle_is_a_refusal_or_no_difference(self, at: int, by: int) -> None:
        changed = bytearray(PACKED)
        changed[at] ^= by
        self.tried(lambda: open_image(bytes(changed)))

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 4000), st.integers(1, 255))
    def test_any_byte_changed_in_the_tar_is_a_refusal_or_no_difference(self, at: int, by: int) -> None:
        changed = bytearray(gzip.decompress(PACKED))
        changed[at % len(changed)] ^= by
        self.tried(lambda: open_image(gzip.compress(bytes(changed), 1)))

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, len(PACKED) - 1))
    def test_a_bundle_that_was_cut_off_is_refused(self, length: int) -> None:
        self.refused(PACKED[:length])

    def tried(self, attempt: Callable[[], image.Image]) -> None:
        try:
            found = attempt()
        except AvinetError:
            return
        self.assertEqual(found.files, FILES)
