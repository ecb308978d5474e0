"""Sessions: one command or one subsystem each, and nothing else of what a shell server does."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid, LocalError, PeerError
from avinet.ssh.channel import Channel
from avinet.ssh.identity import Identity
from avinet.ssh.messages import (
    CHANNEL_CLOSE,
    CHANNEL_DATA,
    CHANNEL_EOF,
    CHANNEL_EXTENDED_DATA,
    CHANNEL_FAILURE,
    CHANNEL_OPEN,
    CHANNEL_OPEN_CONFIRMATION,
    CHANNEL_OPEN_FAILURE,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    CHANNEL_WINDOW_ADJUST,
    SHORTAGE,
    UNKNOWN_KIND,
)
from avinet.ssh.session import SessionConnection
from avinet.ssh.strings import string, uint32
from avinet.wire.command import Ended
from tests.ssh.joined import Below, Talker, deliver

IDENTITY = Identity("avictlruser", "ssh-ed25519 AAAA", "a test")
STATUS = b"exit-status"


class Engine:
    """A session service whose peer is the test; its commands end when the test says so, or at once."""

    def __init__(self, *, window: int = 100_000, files: Any = None, command_s: float = 120.0) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        self.running: Deferred[Ended] | None = None
        self.console: Any = None
        self.answer: Any = (0, b"out", b"")
        self.connection = SessionConnection(self.clock, IDENTITY, self._run, files, command_s=command_s)
        self.below: Any = Below()
        self.connection.transport = self.below
        self.connection.serviceStarted()
        self.window = window
        self.cancelled: list[object] = []

    async def _run(self, line: str, console: Channel) -> Ended:
        self.lines.append(line)
        self.console = console
        if self.answer is None:
            self.running = Deferred(self.cancelled.append)
            return await self.running
        if isinstance(self.answer, Exception):
            raise self.answer
        status, out, errors = self.answer
        console.write(out)
        console.write_error(errors)
        return Ended(exit_status=status)

    def say(self, number: int, payload: bytes) -> list[tuple[int, bytes]]:
        """What it answers to a message."""
        deliver(self.connection, number, payload)
        return self.hear()

    def hear(self) -> list[tuple[int, bytes]]:
        """What it has said since."""
        for _ in range(5):
            self.clock.advance(0)
        said = list(self.below.out)
        self.below.out.clear()
        return said

    def open(self) -> bytes:
        """The number of a new session."""
        ((number, payload),) = self.say(
            CHANNEL_OPEN, string(b"session") + uint32(7) + uint32(self.window) + uint32(32768)
        )
        assert number == CHANNEL_OPEN_CONFIRMATION
        return payload[4:8]

    def ask(self, channel: bytes, name: bytes, body: bytes = b"") -> list[tuple[int, bytes]]:
        """What it answers to a request that wants an answer."""
        return self.say(CHANNEL_REQUEST, channel + string(name) + b"\1" + body)

    def exec(self, line: bytes) -> list[tuple[int, bytes]]:
        """What it answers to a command in a new session."""
        return self.ask(self.open(), b"exec", string(line))


def ended(status: int) -> list[tuple[int, bytes]]:
    """How a session ends."""
    return [
        (CHANNEL_REQUEST, uint32(7) + string(STATUS) + b"\0" + uint32(status)),
        (CHANNEL_EOF, uint32(7)),
        (CHANNEL_CLOSE, uint32(7)),
    ]


class Producer:
    """What prints, and is paused."""

    def __init__(self) -> None:
        self.paused = False
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.paused = True


class ExecTests(SynchronousTestCase):
    def test_a_command_is_taken_then_answered_then_over(self) -> None:
        engine = Engine()
        said = engine.exec(b"status --short")
        self.assertEqual(engine.lines, ["status --short"])
        self.assertEqual(said[0], (CHANNEL_SUCCESS, uint32(7)))
        self.assertEqual(said[1], (CHANNEL_DATA, uint32(7) + string(b"out")))
        self.assertEqual(said[2:], ended(0))
        engine.say(CHANNEL_CLOSE, uint32(0))
        self.assertEqual(engine.connection.channels, 0)
        self.assertEqual(engine.clock.getDelayedCalls(), [])

    def test_errors_are_told_apart(self) -> None:
        engine = Engine()
        engine.answer = (3, b"out", b"err")
        said = engine.exec(b"ping")
        self.assertEqual(said[1], (CHANNEL_DATA, uint32(7) + string(b"out")))
        self.assertIn((CHANNEL_EXTENDED_DATA, uint32(7) + uint32(1) + string(b"err")), said)
        self.assertEqual([each for each in said if each[0] == CHANNEL_REQUEST], ended(3)[:1])
        self.assertEqual(said[-2:], ended(3)[1:])

    def test_much_output_waits_for_the_peers_window(self) -> None:
        """(S24)"""
        engine = Engine(window=1000)
        engine.answer = (0, bytes(5000), b"e" * 1000)
        said = engine.exec(b"dump")
        self.assertEqual(sum(len(payload) - 8 for number, payload in said if number == CHANNEL_DATA), 1000)
        self.assertNotIn(CHANNEL_EOF, [number for number, _ in said])
        for _ in range(4):
            said = engine.say(CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(1000))
            self.assertEqual(sum(len(payload) - 8 for number, payload in said if number == CHANNEL_DATA), 1000)
        said = engine.say(CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(1000))
        self.assertEqual(said[0], (CHANNEL_EXTENDED_DATA, uint32(7) + uint32(1) + string(b"e" * 1000)))
        self.assertEqual(said[1:], ended(0)[1:])

    def test_what_it_prints_is_there_while_it_runs(self) -> None:
        engine = Engine()
        engine.answer = None
        self.assertEqual(engine.exec(b"follow"), [(CHANNEL_SUCCESS, uint32(7))])
        engine.console.write(b"one")
        self.assertEqual(engine.hear(), [(CHANNEL_DATA, uint32(7) + string(b"one"))])
        engine.console.write_error(b"two")
        self.assertEqual(engine.hear(), [(CHANNEL_EXTENDED_DATA, uint32(7) + uint32(1) + string(b"two"))])

    def test_both_streams_keep_their_order_while_they_wait_for_window(self) -> None:
        engine = Engine(window=2)
        engine.answer = None
        engine.exec(b"follow")
        for write, data in [("write", b"abc"), ("write_error", b"DE"), ("write", b"fg"), ("write_error", b"H")]:
            getattr(engine.console, write)(data)
        said = engine.hear() + engine.say(CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(100))
        parts = [payload[12 if number == CHANNEL_EXTENDED_DATA else 8 :] for number, payload in said]
        self.assertEqual(parts, [b"ab", b"c", b"DE", b"fg", b"H"])

    def test_what_prints_waits_while_the_peer_takes_neither_stream(self) -> None:
        for stream in ("write", "write_error"):
            engine = Engine(window=1000)
            engine.answer = None
            engine.exec(b"follow")
            producer = Producer()
            engine.console.registerProducer(producer, True)
            while not producer.paused and len(producer.calls) < 100:
                producer.calls.append("write")
                getattr(engine.console, stream)(bytes(8192))
            self.assertLess(len(producer.calls), 12)
            for _ in range(len(producer.calls) * 9):
                engine.say(CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(1000))
            self.assertFalse(producer.paused, stream)

    def test_a_signal_that_has_ended_it_is_told(self) -> None:
        """RFC 4254, section 6.10."""
        engine = Engine()
        engine.answer = None
        engine.exec(b"follow")
        assert engine.running is not None
        engine.running.callback(Ended(exit_status=143, signal="TERM"))
        body = string(b"exit-signal") + b"\0" + string(b"TERM") + b"\0" + string(b"") + string(b"")
        self.assertEqual(engine.hear(), [(CHANNEL_REQUEST, uint32(7) + body), *ended(143)[1:]])

    def test_a_failed_command_says_why(self) -> None:
        engine = Engine()
        engine.answer = Invalid("there is no such thing")
        said = engine.exec(b"ping")
        self.assertIn((CHANNEL_EXTENDED_DATA, uint32(7) + uint32(1) + string(b"there is no such thing\n")), said)
        self.assertIn(ended(255)[0], said)

    def test_a_fault_of_ours_ends_the_session_and_says_nothing(self) -> None:
        engine = Engine()
        engine.answer = RuntimeError("a secret")
        said = engine.exec(b"ping")
        self.assertEqual(said[1:], ended(255))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_command_has_a_deadline(self) -> None:
        engine = Engine(command_s=10)
        engine.answer = None
        engine.exec(b"sleep")
        engine.clock.advance(10)
        self.assertIn(ended(255)[0], engine.hear())
        self.assertEqual(engine.clock.getDelayedCalls(), [])

    def test_a_command_whose_peer_goes_is_cancelled(self) -> None:
        engine = Engine()
        engine.answer = None
        engine.exec(b"sleep")
        engine.say(CHANNEL_CLOSE, uint32(0))
        self.assertEqual(engine.cancelled, [engine.running])
        self.assertEqual(engine.clock.getDelayedCalls(), [])

    def test_standard_input_is_read_and_forgotten(self) -> None:
        engine = Engine()
        engine.answer = None
        engine.exec(b"sleep")
        for _ in range(100):
            engine.say(CHANNEL_DATA, uint32(0) + string(bytes(32768)))
        engine.say(CHANNEL_EOF, uint32(0))
        assert engine.running is not None
        engine.running.callback(Ended(exit_status=0))
        self.assertEqual(engine.hear(), ended(0))

    def test_a_session_does_one_thing(self) -> None:
        engine = Engine()
        engine.answer = None
        channel = engine.open()
        engine.ask(channel, b"exec", string(b"first"))
        for name in (b"exec", b"subsystem"):
            self.assertEqual(engine.ask(channel, name, string(b"sftp")), [(CHANNEL_FAILURE, uint32(7))])
        self.assertEqual(engine.lines, ["first"])

    def test_a_command_that_is_no_text_or_too_long_is_refused(self) -> None:
        engine = Engine()
        for line in (b"\xff", bytes(5000), "é".encode()):
            self.assertEqual(engine.exec(line), [(CHANNEL_FAILURE, uint32(7))])

    def test_what_is_cut_short_is_the_peers_fault(self) -> None:
        engine = Engine()
        channel = engine.open()
        self.assertRaises(PeerError, engine.ask, channel, b"exec", b"\0\0\0\5hi")
        self.assertRaises(PeerError, engine.ask, channel, b"exec", string(b"hi") + b"more")


class RefusalTests(SynchronousTestCase):
    def test_there_is_no_shell_no_terminal_and_no_forwarding(self) -> None:
        engine = Engine()
        channel = engine.open()
        terminal = string(b"xterm") + uint32(80) + uint32(24) + uint32(0) + uint32(0) + string(b"")
        for name, body in [
            (b"shell", b""),
            (b"pty-req", terminal),
            (b"x11-req", b"\0" + string(b"MIT-MAGIC-COOKIE-1") + string(b"00") + uint32(0)),
            (b"auth-agent-req@openssh.com", b""),
            (b"env", string(b"LD_PRELOAD") + string(b"/tmp/x.so")),
            (b"signal", string(b"KILL")),
            (b"subsystem", string(b"sftp")),
            (b"subsystem", string(b"netconf")),
        ]:
            self.assertEqual(engine.ask(channel, name, body), [(CHANNEL_FAILURE, uint32(7))])
        self.assertEqual(engine.ask(channel, b"exec", string(b"ping"))[0], (CHANNEL_SUCCESS, uint32(7)))

    def test_other_channels_are_unknown(self) -> None:
        engine = Engine()
        for kind in (b"direct-tcpip", b"forwarded-tcpip", b"x11", b"direct-streamlocal@openssh.com"):
            ((number, payload),) = engine.say(CHANNEL_OPEN, string(kind) + uint32(7) + uint32(1000) + uint32(1000))
            self.assertEqual((number, payload[:8]), (CHANNEL_OPEN_FAILURE, uint32(7) + uint32(UNKNOWN_KIND)))

    def test_sessions_are_limited(self) -> None:
        """(S30)"""
        engine = Engine()
        for _ in range(16):
            engine.open()
        ((number, payload),) = engine.say(CHANNEL_OPEN, string(b"session") + uint32(7) + uint32(1000) + uint32(1000))
        self.assertEqual((number, payload[:8]), (CHANNEL_OPEN_FAILURE, uint32(7) + uint32(SHORTAGE)))

    def test_a_session_that_asks_for_nothing_leaves_nothing(self) -> None:
        """(S29)"""
        engine = Engine()
        for id in range(1000):
            engine.open()
            said = engine.say(CHANNEL_EOF, uint32(id)) + engine.say(CHANNEL_CLOSE, uint32(id))
            self.assertIn((CHANNEL_CLOSE, uint32(7)), said)
        self.assertEqual((engine.connection.channels, engine.connection.strays), (0, 0))


class SubsystemTests(SynchronousTestCase):
    def test_the_subsystem_has_the_channel(self) -> None:
        made: list[Talker] = []

        def files() -> IProtocol:
            made.append(Talker())
            return made[-1]

        engine = Engine(files=files)
        channel = engine.open()
        self.assertEqual(engine.ask(channel, b"subsystem", string(b"sftp")), [(CHANNEL_SUCCESS, uint32(7))])
        engine.say(CHANNEL_DATA, channel + string(b"request"))
        made[0].transport.write(b"answer")
        self.assertEqual(engine.hear(), [(CHANNEL_DATA, uint32(7) + string(b"answer"))])
        self.assertEqual(made[0].received, b"request")
        self.assertEqual(engine.say(CHANNEL_EOF, channel), ended(0))
        self.assertEqual(len(made[0].lost), 1)

    def test_files_that_cannot_be_read_are_refused(self) -> None:
        def files() -> Protocol:
            raise LocalError("there is no folder")

        engine = Engine(files=files)
        channel = engine.open()
        self.assertEqual(engine.ask(channel, b"subsystem", string(b"sftp")), [(CHANNEL_FAILURE, uint32(7))])
