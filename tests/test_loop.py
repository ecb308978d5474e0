"""The reactor of our processes, each in a process of its own: there is only one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import avinet

HOME = Path(avinet.__file__).parent.parent
TALK = """
import sys
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from avinet.loop import reactor
from avinet.sockets import direct

plain = reactor()
assert plain is reactor() is sys.modules["twisted.internet.reactor"]

class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)
        raise ValueError("a fault while something is read")

    def connectionLost(self, reason):
        raise ValueError("a fault at the end")

class Ask(Protocol):
    def connectionMade(self):
        self.transport.write(b"hello")

    def dataReceived(self, data):
        assert data == b"hello"

    def connectionLost(self, reason):
        print("answered", type(plain).__name__)
        plain.stop()

port = direct(plain).listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
TCP4ClientEndpoint(direct(plain), "127.0.0.1", port.getHost().port).connect(Factory.forProtocol(Ask))
plain.callLater(20, plain.stop)
plain.run()
"""
CHOSEN = """
from twisted.internet import pollreactor
pollreactor.install()
from avinet.loop import reactor
print("chosen", type(reactor()).__name__)
"""


TURNS = """
from avinet.loop import reactor
plain, said = reactor(), []
a, b = (lambda: said.append("a")), (lambda: said.append("b"))

def c():
    said.append("c")
    plain.at_end_of_turn(a)
    plain.at_end_of_turn(d)

def d():
    said.append("d")
    if said.count("d") < 2:
        plain.at_end_of_turn(d)

def fault():
    plain.at_end_of_turn(b)
    raise ValueError("a fault at the end of a turn")

def ask():
    plain.at_end_of_turn(a)
    plain.at_end_of_turn(a)
    said.append("asked")
    plain.at_end_of_turn(b)
    said.append("asked again")
    plain.at_end_of_turn(fault)
    plain.at_end_of_turn(c)
    plain.callLater(0, plain.stop)

plain.callWhenRunning(ask)
plain.run()
print(*said)
"""


class LoopTests(SynchronousTestCase):
    def said(self, script: str) -> str:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, cwd=HOME, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout.decode().strip()

    def test_it_carries_and_a_fault_of_a_protocol_ends_nothing_else(self) -> None:
        self.assertEqual(self.said(TALK), "answered PlainReactor")

    def test_one_has_something_to_do_at_the_end_of_a_turn_and_others_end_its_wait(self) -> None:
        self.assertEqual(self.said(TURNS), "asked a asked again b b c a d d")

    def test_another_one_that_was_chosen_stays(self) -> None:
        self.assertEqual(self.said(CHOSEN), "chosen PollReactor")
