"""What is kept of certificates on a disk: whole after a crash, sealed, private, and nothing that was damaged is used."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import LocalError
from avinet.se.keystore import Held, Keystore, checked
from tests.issuing import Issuer, rsa_key
from tests.se.delivery import material


class KeystoreTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.keystore = Keystore(self.state)
        self.issuer = Issuer()
        self.shop = checked(material("shop", 5, self.issuer.serve("shop.example", key=rsa_key())))
        self.api = checked(material("api", 6, self.issuer.serve("api.example")))

    def keep(self, held: Held) -> None:
        self.keystore.lay_out(held)
        self.keystore.keep(held.version.name)

    def test_without_anything_there_is_nothing(self) -> None:
        self.assertEqual(Keystore(self.state).read(), {})
        self.assertEqual(list(self.state.iterdir()), [])

    def test_what_is_kept_is_read_again(self) -> None:
        self.keep(self.shop)
        self.keep(self.api)
        self.assertEqual(Keystore(self.state).read(), {"shop": self.shop, "api": self.api})

    def test_another_version_takes_the_place_of_one(self) -> None:
        self.keep(self.shop)
        after = checked(material("shop", 9, self.issuer.serve("shop.example")))
        self.keep(after)
        self.assertEqual(Keystore(self.state).read(), {"shop": after})

    def test_what_is_removed_is_gone(self) -> None:
        self.keep(self.shop)
        self.keystore.remove("shop")
        self.keystore.remove("never")
        self.assertEqual(Keystore(self.state).read(), {})

    def test_what_was_laid_out_and_not_kept_changes_nothing(self) -> None:
        self.keep(self.shop)
        after = checked(material("shop", 9, self.issuer.serve("shop.example")))
        self.keystore.lay_out(after)
        self.assertEqual(Keystore(self.state).read(), {"shop": self.shop})
        self.assertEqual([each.name for each in (self.state / "certificates").iterdir()], ["shop.json"])
        self.keystore.lay_out(after)
        self.keystore.discard("shop")
        self.keystore.discard("never")
        self.assertEqual([each.name for each in (self.state / "certificates").iterdir()], ["shop.json"])

    def test_keys_are_sealed_and_files_private(self) -> None:
        self.keep(self.shop)
        secret = [line for line in self.shop.certificate.key_pem.splitlines() if len(line) > 20]
        for path in self.state.rglob("*"):
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)
            if path.is_file():
                self.assertFalse([line for line in secret if line.encode() in path.read_bytes()], path)

    def test_a_copy_of_the_certificates_without_the_key_beside_them_opens_nothing(self) -> None:
        self.keep(self.shop)
        (self.state / "secrets.key").unlink()
        self.assertEqual(Keystore(self.state).read(), {})
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_what_is_damaged_or_of_another_is_lost_and_the_rest_is_read(self) -> None:
        for held in (self.shop, self.api):
            self.keep(held)
        folder = self.state / "certificates"
        text = (folder / "shop.json").read_text()
        (folder / "other.json").write_text(text)
        (folder / "newer.json").write_text(text.replace('"shop"', '"newer"'))
        (folder / "shop.json").write_text(text.replace('"revision":5', '"revision":7'))
        (folder / "torn.json").write_text(text[:100])
        (folder / ".api.json.1.new").write_text(text)
        self.assertEqual(Keystore(self.state).read(), {"api": self.api})
        lost = [f"{each}.json.damaged" for each in ("newer", "other", "shop", "torn")]
        for _ in range(2):
            self.assertEqual(sorted(each.name for each in folder.iterdir()), ["api.json", *lost])
            self.assertEqual(Keystore(self.state).read(), {"api": self.api})
        self.assertEqual((folder / "other.json.damaged").read_text(), text)

    def test_what_was_set_aside_goes_when_another_takes_its_place_and_with_all(self) -> None:
        folder = self.state / "certificates"
        for held in (self.shop, self.api):
            self.keep(held)
            (folder / f"{held.version.name}.json").write_text("{")
        (self.state / "secrets.key").write_bytes(b"short")
        self.assertEqual(Keystore(self.state).read(), {})
        self.keep(self.shop)
        self.assertEqual(sorted(each.name for each in folder.iterdir()), ["api.json.damaged", "shop.json"])
        self.keystore.remove_damaged()
        self.assertEqual([each.name for each in folder.iterdir()], ["shop.json"])
        self.assertEqual(sorted(each.name for each in self.state.iterdir()), ["certificates", "secrets.key"])

    def test_a_key_that_is_damaged_is_set_aside_and_made_anew(self) -> None:
        self.keep(self.shop)
        for damaged in (b"short", bytes(33), b""):
            (self.state / "secrets.key").write_bytes(damaged)
            self.assertEqual(Keystore(self.state).read(), {})
            self.assertEqual((self.state / "secrets.key.damaged").read_bytes(), damaged)
            self.keep(self.api)
            self.assertEqual(Keystore(self.state).read(), {"api": self.api})

    def test_what_cannot_be_read_now_is_as_it_was_later(self) -> None:
        for held in (self.shop, self.api):
            self.keep(held)
        (self.state / "certificates" / "torn.json").write_text("{")
        before = {path: path.read_bytes() for path in self.state.rglob("*") if path.is_file()}
        for method, name in (
            ("open", "secrets.key"),
            ("lstat", "secrets.key"),
            ("open", "shop.json"),
            ("iterdir", "certificates"),
        ):
            for number in (errno.EIO, errno.EMFILE, errno.EACCES):
                failing = self.patch(Path, method, fails_at(name, number, getattr(Path, method)))
                error = self.assertRaises(LocalError, Keystore(self.state).read)
                failing.restore()
                self.assertIn(name, str(error))
                self.assertIn(os.strerror(number), str(error))
                after = {path: path.read_bytes() for path in self.state.rglob("*") if path.is_file()}
                self.assertEqual(after, before)
        self.assertEqual(Keystore(self.state).read(), {"shop": self.shop, "api": self.api})

    def test_what_cannot_be_written_leaves_the_one_before(self) -> None:
        self.keep(self.shop)
        (self.state / "certificates" / "api.json").mkdir()
        self.assertRaises(LocalError, self.keep, self.api)
        (self.state / "certificates" / "api.json").rmdir()
        self.assertEqual(Keystore(self.state).read(), {"shop": self.shop})


def fails_at(name: str, number: int, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of paths that fails with this error for those of this name."""

    def call(path: Path, *given: Any, **named: Any) -> Any:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return method(path, *given, **named)

    return call
