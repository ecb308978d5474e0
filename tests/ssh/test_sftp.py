"""Files come out of one folder, and nothing else does."""

from __future__ import annotations

import os
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.interfaces import ISFTPFile, ISFTPServer
from twisted.conch.ssh import filetransfer as fx
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from avinet.errors import LocalError
from avinet.ssh.sftp import LISTED_NAMES, OPEN_HANDLES, READ_BYTES, REQUEST_BYTES, FileServer, Folder, names_of
from avinet.ssh.strings import Reader, string, uint32

SECRET = b"a secret outside of the folder"
WRONG_NAMES = [
    b"..",
    b"../secret",
    b"/../secret",
    b"sub/../../secret",
    b"a.log/..",
    b"....",
    b".hidden",
    b"a\0.log",
    b"a.log\0",
    b"a b",
    b"a\nb",
    b"-rf",
    b"\xff",
    "é".encode(),
    b"a\\b",
    b"a*",
    b"~",
    b"x" * 129,
    b"/".join([b"d"] * 9),
]


class Consumer:
    """A transport whose reader can stop taking."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False
        self.producer: Any = None
        self.reading = True
        self.limit = 1 << 40

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def write(self, data: bytes) -> None:
        self.written += data
        if len(self.written) > self.limit:
            self.producer.pauseProducing()

    def loseConnection(self) -> None:
        self.closed = True

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True


class SFTPCase(SynchronousTestCase):
    def setUp(self) -> None:
        outside = Path(self.mktemp())
        self.folder = outside / "logs"
        (self.folder / "sub" / "deep").mkdir(parents=True)
        (outside / "secret").write_bytes(SECRET)
        (self.folder / "a.log").write_bytes(b"first\nsecond\n")
        (self.folder / "sub" / "b.log").write_bytes(b"below")
        (self.folder / ".hidden").write_bytes(b"hidden")
        (self.folder / "link").symlink_to("../secret")
        (self.folder / "loop").symlink_to(".")
        (self.folder / "elsewhere").symlink_to(outside.absolute())
        os.mkfifo(self.folder / "pipe")
        self.open_before = len(os.listdir("/proc/self/fd"))
        self.start()

    def start(self) -> None:
        """A new server in place of the last one."""
        self.transport = Consumer()
        self.server = FileServer(Folder(self.folder))
        self.server.makeConnection(self.transport)  # type: ignore[arg-type]
        self._serial = 0

    def tearDown(self) -> None:
        self.server.connectionLost()
        self.assertEqual(len(os.listdir("/proc/self/fd")), self.open_before, "no descriptor is left open")

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """The kind and the body of the answer to a request."""
        self._serial += 1
        self.transport.written.clear()
        self.server.dataReceived(uint32(len(body) + 5) + bytes((kind,)) + uint32(self._serial) + body)
        reader = Reader(bytes(self.transport.written), "answer")
        reader.uint32()
        kind = reader.byte()
        self.assertEqual(reader.uint32(), self._serial)
        return kind, reader.rest()

    def status(self, kind: int, body: bytes) -> int:
        """The code of an answer that is a status."""
        answered, answer = self.ask(kind, body)
        self.assertEqual(answered, fx.FXP_STATUS)
        return int.from_bytes(answer[:4], "big")

    def handle(self, kind: int, body: bytes) -> bytes:
        """The handle in the answer, as it is sent back."""
        answered, answer = self.ask(kind, body)
        self.assertEqual(answered, fx.FXP_HANDLE)
        return answer

    def open(self, path: bytes) -> bytes:
        return self.handle(fx.FXP_OPEN, string(path) + uint32(fx.FXF_READ) + uint32(0))

    def read(self, handle: bytes, offset: int, length: int) -> tuple[int, bytes]:
        return self.ask(fx.FXP_READ, handle + struct.pack(">QL", offset, length))


class ReadingTests(SFTPCase):
    def test_provides_what_conch_asks_for(self) -> None:
        folder = Folder(self.folder)
        self.addCleanup(folder.close)
        verifyObject(ISFTPServer, folder)
        file = folder.openFile(b"a.log", fx.FXF_READ, {})
        verifyObject(ISFTPFile, file)
        file.close()

    def test_a_file_is_read_in_pieces(self) -> None:
        handle = self.open(b"/a.log")
        self.assertEqual(self.read(handle, 0, 6), (fx.FXP_DATA, string(b"first\n")))
        self.assertEqual(self.read(handle, 6, 100), (fx.FXP_DATA, string(b"second\n")))
        kind, answer = self.read(handle, 13, 100)
        self.assertEqual((kind, answer[:4]), (fx.FXP_STATUS, uint32(fx.FX_EOF)))
        self.assertEqual(self.status(fx.FXP_CLOSE, handle), fx.FX_OK)

    def test_a_file_below_is_read(self) -> None:
        self.assertEqual(self.read(self.open(b"sub//./b.log"), 0, 100), (fx.FXP_DATA, string(b"below")))

    def test_one_answer_is_never_large(self) -> None:
        (self.folder / "large").write_bytes(bytes(1 << 20))
        _, answer = self.read(self.open(b"large"), 0, (1 << 32) - 1)
        self.assertEqual(len(answer), 4 + READ_BYTES)

    def test_offsets_beyond_any_file_are_its_end(self) -> None:
        handle = self.open(b"a.log")
        for offset in (1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            _, answer = self.read(handle, offset, 100)
            self.assertEqual(answer[:4], uint32(fx.FX_EOF))

    def test_a_folder_is_listed_without_what_is_not_to_be_had(self) -> None:
        handle = self.handle(fx.FXP_OPENDIR, string(b"/"))
        kind, answer = self.ask(fx.FXP_READDIR, handle)
        self.assertEqual(kind, fx.FXP_NAME)
        self.assertEqual(answer[:4], uint32(2))
        self.assertIn(string(b"a.log"), answer)
        self.assertIn(string(b"sub"), answer)
        for name in (b"hidden", b"link", b"loop", b"elsewhere", b"pipe"):
            self.assertNotIn(name, answer)
        self.assertEqual(self.status(fx.FXP_READDIR, handle), fx.FX_EOF)

    def test_a_crowded_folder_is_listed_up_to_a_limit(self) -> None:
        for n in range(LISTED_NAMES + 10):
            (self.folder / "sub" / f"n{n}").touch()
        handle = self.handle(fx.FXP_OPENDIR, string(b"sub"))
        count = 0
        while (answer := self.ask(fx.FXP_READDIR, handle))[0] == fx.FXP_NAME:
            self.assertLess(len(answer[1]), 100_000)
            count += int.from_bytes(answer[1][:4], "big")
        self.assertLessEqual(count, LISTED_NAMES)

    def test_sizes_are_told(self) -> None:
        for kind in (fx.FXP_STAT, fx.FXP_LSTAT):
            answered, answer = self.ask(kind, string(b"a.log"))
            self.assertEqual((answered, struct.unpack(">Q", answer[4:12])), (fx.FXP_ATTRS, (13,)))
        self.assertEqual(self.ask(fx.FXP_FSTAT, self.open(b"a.log"))[1], answer)
        self.assertEqual(self.ask(fx.FXP_STAT, string(b"/"))[0], fx.FXP_ATTRS)

    def test_paths_begin_at_the_folder(self) -> None:
        for path, real in [(b".", b"/"), (b"", b"/"), (b"/", b"/"), (b"sub/./b.log", b"/sub/b.log")]:
            kind, answer = self.ask(fx.FXP_REALPATH, string(path))
            self.assertEqual((kind, answer[:4]), (fx.FXP_NAME, uint32(1)))
            self.assertTrue(answer[4:].startswith(string(real)))

    def test_what_is_not_there_is_not_found(self) -> None:
        for path in (b"nothing", b"nothing/at/all", b"a.log/below"):
            for kind in (fx.FXP_STAT, fx.FXP_LSTAT, fx.FXP_OPENDIR):
                self.assertEqual(self.status(kind, string(path)), fx.FX_NO_SUCH_FILE)

    def test_a_folder_that_is_not_there_is_said_at_once(self) -> None:
        self.assertRaises(LocalError, Folder, self.folder / "nothing")
        self.assertRaises(LocalError, Folder, self.folder / "elsewhere")


class EscapeTests(SFTPCase):
    """Ways out of the folder, all of them closed."""

    def test_names_that_are_not_allowed(self) -> None:
        """(H2)"""
        for name in WRONG_NAMES:
            for kind in (fx.FXP_STAT, fx.FXP_LSTAT, fx.FXP_OPENDIR, fx.FXP_REALPATH):
                self.assertEqual(self.status(kind, string(name)), fx.FX_PERMISSION_DENIED, name)
            opened = self.status(fx.FXP_OPEN, string(name) + uint32(fx.FXF_READ) + uint32(0))
            self.assertEqual(opened, fx.FX_PERMISSION_DENIED, name)

    def test_links_lead_nowhere(self) -> None:
        """(H2)"""
        for path in (b"link", b"loop", b"elsewhere", b"elsewhere/secret", b"loop/a.log", b"loop/loop/a.log"):
            opened = self.status(fx.FXP_OPEN, string(path) + uint32(fx.FXF_READ) + uint32(0))
            self.assertIn(opened, (fx.FX_PERMISSION_DENIED, fx.FX_NO_SUCH_FILE), path)
            self.assertIn(self.status(fx.FXP_STAT, string(path)), (fx.FX_PERMISSION_DENIED, fx.FX_NO_SUCH_FILE), path)
            self.assertIn(self.status(fx.FXP_OPENDIR, string(path)), (fx.FX_PERMISSION_DENIED, fx.FX_NO_SUCH_FILE))

    def test_a_folder_that_becomes_a_link_leads_nowhere(self) -> None:
        """(H2)"""
        (self.folder / "sub" / "b.log").unlink()
        (self.folder / "sub" / "deep").rmdir()
        (self.folder / "sub").rmdir()
        (self.folder / "sub").symlink_to("..")
        opened = self.status(fx.FXP_OPEN, string(b"sub/secret") + uint32(fx.FXF_READ) + uint32(0))
        self.assertIn(opened, (fx.FX_PERMISSION_DENIED, fx.FX_NO_SUCH_FILE))

    def test_what_is_no_file_is_not_opened(self) -> None:
        """(H2)"""
        for path in (b"pipe", b"sub", b"/"):
            opened = self.status(fx.FXP_OPEN, string(path) + uint32(fx.FXF_READ) + uint32(0))
            self.assertEqual(opened, fx.FX_PERMISSION_DENIED)

    def test_nothing_is_written(self) -> None:
        """(H2)"""
        for flags in (fx.FXF_WRITE, fx.FXF_READ | fx.FXF_WRITE, fx.FXF_CREAT, fx.FXF_READ | fx.FXF_TRUNC, 0, 1 << 31):
            self.assertEqual(
                self.status(fx.FXP_OPEN, string(b"a.log") + uint32(flags) + uint32(0)), fx.FX_PERMISSION_DENIED
            )
        handle = self.open(b"a.log")
        for kind in range(256):
            if kind not in self.server._requests:
                self.assertEqual(self.status(kind, handle + bytes(16)), fx.FX_OP_UNSUPPORTED)
        self.assertEqual((self.folder / "a.log").read_bytes(), b"first\nsecond\n")

    @given(st.binary(max_size=60))
    def test_any_path_is_refused_or_names_of_allowed_characters(self, path: bytes) -> None:
        """(H2)"""
        try:
            names = names_of(path)
        except fx.SFTPError as error:
            self.assertEqual(error.code, fx.FX_PERMISSION_DENIED)
        else:
            for name in names:
                self.assertTrue(name.isascii())
                self.assertFalse(name.startswith((b".", b"-")))
                self.assertFalse(set(name) & set(b"/\0\\\n "))


class HostileTests(SFTPCase):
    def test_open_files_are_limited(self) -> None:
        opens = string(b"a.log") + uint32(fx.FXF_READ) + uint32(0)
        handles = [self.open(b"a.log") for _ in range(OPEN_HANDLES - 1)] + [self.handle(fx.FXP_OPENDIR, string(b"/"))]
        self.assertEqual(self.status(fx.FXP_OPEN, opens), fx.FX_FAILURE)
        self.assertEqual(self.status(fx.FXP_OPENDIR, string(b"/")), fx.FX_FAILURE)
        for handle in handles[-2:]:
            self.assertEqual(self.status(fx.FXP_CLOSE, handle), fx.FX_OK)
        self.open(b"a.log")

    def test_attempts_that_fail_are_not_counted(self) -> None:
        for _ in range(OPEN_HANDLES * 3):
            self.status(fx.FXP_OPEN, string(b"pipe") + uint32(fx.FXF_READ) + uint32(0))
            self.status(fx.FXP_OPENDIR, string(b"a.log"))
        self.open(b"a.log")

    def test_handles_that_do_not_exist_cost_a_line_of_status(self) -> None:
        for kind, rest in ((fx.FXP_READ, bytes(12)), (fx.FXP_FSTAT, b""), (fx.FXP_READDIR, b"")):
            self.assertEqual(self.status(kind, string(b"123") + rest), fx.FX_FAILURE)
        self.status(fx.FXP_CLOSE, string(b"123"))

    def test_requests_that_are_cut_short_are_answered(self) -> None:
        for kind in sorted(self.server._requests):
            if kind != fx.FXP_INIT:
                self.assertEqual(self.status(kind, b""), fx.FX_BAD_MESSAGE)

    def test_a_request_that_is_too_long_ends_the_session(self) -> None:
        for length in (REQUEST_BYTES + 1, (1 << 32) - 1, 0, 4):
            self.start_again()
            self.server.dataReceived(uint32(length) + bytes(100))
            self.assertTrue(self.transport.closed)
            self.server.dataReceived(bytes(1000))

    def start_again(self) -> None:
        self.server.connectionLost()
        self.start()

    def test_answers_wait_until_the_peer_takes_them(self) -> None:
        """(S24)"""
        (self.folder / "large").write_bytes(bytes(1 << 20))
        handle = self.open(b"large")
        self.transport.written.clear()
        self.transport.limit = 64 * 1024
        request = handle + struct.pack(">QL", 0, READ_BYTES)
        self.server.dataReceived((uint32(len(request) + 5) + bytes((fx.FXP_READ,)) + uint32(1) + request) * 500)
        self.assertFalse(self.transport.reading)
        self.assertLess(len(self.transport.written), 64 * 1024 + 2 * READ_BYTES)
        answers = 0
        while not self.transport.reading:
            answers += len(self.transport.written)
            self.transport.written.clear()
            self.server.resumeProducing()
        answers += len(self.transport.written)
        self.assertEqual(answers, 500 * (READ_BYTES + 13))

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=10), st.integers(1, 30))
    def test_any_requests_in_any_pieces_raise_nothing(self, requests: list[tuple[int, bytes]], piece: int) -> None:
        """(S33)"""
        self.start_again()
        data = b"".join(uint32(len(body) + 5) + bytes((kind,)) + uint32(9) + body for kind, body in requests)
        for at in range(0, len(data), piece):
            self.server.dataReceived(data[at : at + piece])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertFalse(self.transport.closed)

    def test_a_whole_file_comes_out_as_it_is(self) -> None:
        data = os.urandom(200_001)
        (self.folder / "random").write_bytes(data)
        handle, got = self.open(b"random"), b""
        while (answer := self.read(handle, len(got), 65536))[0] == fx.FXP_DATA:
            got += answer[1][4:]
        self.assertEqual(sha256(got).digest(), sha256(data).digest())
