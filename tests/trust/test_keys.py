"""Keys as OpenSSH has them: its own tools read ours, ours are what its tools say; files are private."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid, LocalError, Unauthenticated
from avinet.trust import keys
from tests.peers import require

LINE = keys.public_line(keys.generate())


def ssh_keygen(*arguments: str) -> str:
    done = subprocess.run([require("ssh-keygen"), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class KeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "key"

    def test_openssh_reads_ours(self) -> None:
        key = keys.generate()
        keys.save_private(self.path, key)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        line = ssh_keygen("-y", "-f", str(self.path))
        self.assertEqual(line.split()[:2], keys.public_line(key).split())
        self.assertIn(keys.fingerprint(keys.public_line(key)), ssh_keygen("-l", "-f", str(self.path)).split())

    def test_ours_reads_what_openssh_made(self) -> None:
        ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.path))
        key = keys.load_private(self.path)
        self.assertEqual(keys.public_line(key), self.path.with_suffix(".pub").read_text().strip())

    def test_what_is_no_ed25519_key_for_us_is_refused_in_a_line(self) -> None:
        ssh_keygen("-q", "-t", "ecdsa", "-N", "", "-f", str(self.path))
        self.assertIn("not Ed25519", str(self.assertRaises(LocalError, keys.load_private, self.path)))
        other = self.folder / "locked"
        ssh_keygen("-q", "-t", "ed25519", "-N", "secret", "-f", str(other))
        self.assertIn(str(other), str(self.assertRaises(LocalError, keys.load_private, other)))
        self.path.write_bytes(b"rubbish")
        self.assertIn(str(self.path), str(self.assertRaises(LocalError, keys.load_private, self.path)))

    def test_a_key_is_made_once(self) -> None:
        made = keys.load_or_make(self.path)
        self.assertEqual(keys.public_line(keys.load_or_make(self.path)), keys.public_line(made))

    def test_only_the_one_form_is_a_public_key(self) -> None:
        kind, blob = LINE.split()
        for line in (
            "",
            blob,
            f"{LINE} comment",
            f" {LINE}",
            f"{LINE}\n",
            f"restrict {LINE}",
            f"ssh-rsa {blob}",
            f"{kind}  {blob}",
            f"{kind} {blob[:-4]}",
            f"{kind} {blob}AAAA",
            LINE.replace("AAAAC3", "AAAAC4"),
        ):
            self.assertRaises(Invalid, keys.parse_public_line, line)
            self.assertRaises(Invalid, keys.fingerprint, line)

    def test_a_signature_is_by_the_key_over_the_data(self) -> None:
        key = keys.generate()
        line, signature = keys.public_line(key), key.sign(b"data")
        keys.verify(line, signature, b"data")
        for wrong in (
            (LINE, signature, b"data"),
            (line, signature, b"date"),
            (line, b"", b"data"),
            ("", signature, b"data"),
        ):
            self.assertRaises(Unauthenticated, keys.verify, *wrong)

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=100))
    def test_no_text_is_more_than_invalid(self, text: str) -> None:
        for line in (text, f"ssh-ed25519 {text}"):
            self.assertRaises(Invalid, keys.fingerprint, line)
