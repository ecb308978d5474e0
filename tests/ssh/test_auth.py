"""Who is let in: the key that signed, known to the node, one at a time; and nobody else."""

from __future__ import annotations

from base64 import b64decode

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Conflict, PeerError, Unavailable
from avinet.ssh import phases
from avinet.ssh.auth import Claim
from avinet.ssh.strings import Reader, string, uint32
from tests.ssh.attacker import Siege
from tests.ssh.pair import USER, USER_KEY, Guests, line_of

OTHER = Ed25519PrivateKey.generate()
FAILURE, SUCCESS, PK_OK = phases.USERAUTH_FAILURE, phases.USERAUTH_SUCCESS, phases.USERAUTH_PK_OK


def besieged(guests: Guests | None = None) -> Siege:
    """A siege whose attacker has come to the authentication service."""
    siege = Siege(admission=guests)
    siege.attacker.begin()
    siege.flush()
    siege.attacker.heard.clear()
    return siege


class IdentityTests(SynchronousTestCase):
    """The identity is the key that signed, and nothing that was said before."""

    def test_the_key_that_signs_is_let_in(self) -> None:
        siege = besieged()
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        self.assertEqual(siege.attacker.heard_numbers(), [SUCCESS])
        assert siege.server.identity is not None
        self.assertEqual(siege.server.identity.user, USER)
        self.assertEqual(siege.server.identity.public_key, line_of(USER_KEY))
        self.assertEqual(siege.server.identity.address, "192.0.2.1:22")
        self.assertEqual(siege.server.identity.admitted, 1)
        self.assertTrue(siege.server.identity.fingerprint.startswith("SHA256:"))
        self.assertIs(siege.services[0].identity, siege.server.identity)
        self.assertEqual(siege.refusals, [])
        siege.end()

    def test_asking_for_some_keys_and_signing_with_another(self) -> None:
        """(S6)"""
        siege = besieged(Guests({(USER, line_of(USER_KEY)), (USER, line_of(OTHER))}))
        siege.attacker.say(*siege.attacker.query(key=USER_KEY))
        siege.attacker.say(*siege.attacker.query(key=OTHER))
        siege.attacker.say(*siege.attacker.claim(key=USER_KEY))
        siege.flush()
        self.assertEqual(siege.attacker.heard_numbers(), [PK_OK, PK_OK, SUCCESS])
        assert siege.server.identity is not None
        self.assertEqual(siege.server.identity.public_key, line_of(USER_KEY))
        siege.end()

    def test_showing_one_key_and_signing_with_another(self) -> None:
        """(S6)"""
        siege = besieged(Guests({(USER, line_of(USER_KEY)), (USER, line_of(OTHER))}))
        siege.attacker.say(*siege.attacker.claim(key=USER_KEY, signer=OTHER))
        siege.flush()
        self.assertEqual(siege.attacker.heard_numbers(), [FAILURE])
        self.assertEqual(siege.guests.admitted, [])
        siege.end()
        self.assertEqual([refusal.why for refusal in siege.refusals], ["its signature is wrong"])

    def test_a_signature_for_another_user_service_or_session(self) -> None:
        users = Guests({(USER, line_of(USER_KEY)), ("avictlruser", line_of(USER_KEY))})
        siege = besieged(users)
        _, body = siege.attacker.claim(USER)
        siege.attacker.say(50, string(b"avictlruser") + body[4 + len(USER) :])
        other = besieged()
        siege.attacker.say(*other.attacker.claim())
        siege.flush()
        self.assertEqual(siege.attacker.heard_numbers(), [FAILURE, FAILURE])
        siege.end()
        other.end()


class RefusalTests(SynchronousTestCase):
    """Everything but a known Ed25519 key is turned down (S7, S16)."""

    def refused(self, siege: Siege, number: int, body: bytes) -> str:
        """Why a request was turned down, without asking the admission."""
        siege.attacker.say(number, body)
        siege.flush()
        self.assertEqual(siege.attacker.heard, [(FAILURE, string(b"publickey") + b"\0")])
        self.assertEqual(siege.guests.admitted, [])
        siege.end()
        self.assertEqual(len(siege.refusals), 1)
        why: str = siege.refusals[0].why
        return why

    def test_passwords_and_other_methods(self) -> None:
        for method in (b"password", b"keyboard-interactive", b"hostbased", b"gssapi-with-mic", b"\x1b[31m\xff"):
            siege = besieged()
            why = self.refused(siege, *siege.attacker.request(USER, method, b"\0" + string(b"secret")))
            self.assertNotIn("\x1b", why)
            self.assertNotIn("secret", why)

    def test_asking_what_there_is_costs_no_line(self) -> None:
        siege = besieged()
        siege.attacker.say(*siege.attacker.request(USER, b"none"))
        siege.flush()
        self.assertEqual(siege.attacker.heard_numbers(), [FAILURE])
        siege.end()
        self.assertEqual(siege.refusals, [])

    def test_unknown_users_and_keys_of_others(self) -> None:
        guests = {(USER, line_of(USER_KEY)), ("avictlruser", line_of(OTHER))}
        for user, key in (
            ("root", USER_KEY),
            ("", USER_KEY),
            ("avictlruser", USER_KEY),
            (USER, OTHER),
            (USER + "\0", USER_KEY),
            (USER, Ed25519PrivateKey.generate()),
        ):
            siege = besieged(Guests(guests))
            self.assertIn("not known", self.refused(siege, *siege.attacker.claim(user, key)))
            self.assertEqual(siege.refusals[0].public_key, line_of(key))
            siege = besieged(Guests(guests))
            self.assertIn("not known", self.refused(siege, *siege.attacker.query(user, key)))

    def test_rsa_and_other_kinds_of_keys_without_a_look_at_them(self) -> None:
        """(S7)"""
        blob = Key(rsa.generate_private_key(65537, 2048).public_key()).blob()
        huge = string(b"ssh-rsa") + string(b"\1\0\1") + string(b"\1" * 16_384)
        for algorithm in (
            b"ssh-rsa",
            b"rsa-sha2-512",
            b"ssh-dss",
            b"ecdsa-sha2-nistp256",
            b"sk-ssh-ed25519@openssh.com",
        ):
            for shown in (blob, huge, b"", b"\0\0\0\0" * 8000):
                siege = besieged()
                rest = b"\1" + string(algorithm) + string(shown) + string(b"")
                why = self.refused(siege, *siege.attacker.request(USER, b"publickey", rest))
                self.assertIn(algorithm.decode(), why)
                self.assertEqual(siege.guests.looked_up, 0)

    def test_another_service_than_channels(self) -> None:
        siege = besieged()
        number, body = siege.attacker.claim()
        self.refused(siege, number, body.replace(b"\0\0\0\x0essh-connection", b"\0\0\0\x0cssh-userauth"))

    def test_a_broken_request_ends_the_connection(self) -> None:
        probe = besieged()
        _, good = probe.attacker.claim()
        probe.end()
        huge = b"\1" + string(b"ssh-ed25519") + string(b"\0\0\0\0" * 8000) + string(b"")
        bad = (
            b"",
            good[:-1],
            good + b"\0",
            good.replace(b"publickey\1", b"publickey\2"),
            string(b"\xff\xfe") + good[4 + len(USER) :],
            string(b"u" * 30_000) + good[4 + len(USER) :],
            string(USER.encode()) + string(b"ssh-connection") + string(b"publickey") + huge,
            uint32(2**32 - 1),
        )
        for body in bad:
            siege = besieged()
            siege.attacker.say(phases.USERAUTH_REQUEST, body)
            siege.flush()
            self.assertTrue(siege.cut)
            self.assertEqual(siege.guests.admitted, [])
            self.assertEqual(self.flushLoggedErrors(), [])
            siege.end()

    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_a_changed_request_is_never_admitted_as_someone_else(self, draw: st.DataObject) -> None:
        siege = besieged()
        number, body = siege.attacker.claim()
        changed = bytearray(body)
        changed[draw.draw(st.integers(0, len(body) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
        siege.attacker.say(number, bytes(changed))
        siege.flush()
        self.assertEqual(siege.services, [])
        self.assertEqual(self.flushLoggedErrors(), [])
        siege.end()


class CountTests(SynchronousTestCase):
    """Twelve requests in all, whatever they are (S13)."""

    def test_the_thirteenth_request_is_the_end(self) -> None:
        for method in ("none", "query", "claim", "password"):
            siege = besieged(Guests({(USER, line_of(OTHER))}))
            message = {
                "none": siege.attacker.request(USER, b"none"),
                "query": siege.attacker.query(key=OTHER),
                "claim": siege.attacker.claim(),
                "password": siege.attacker.request(USER, b"password", b"\0" + string(b"x")),
            }[method]
            for _ in range(12):
                siege.attacker.say(*message)
            siege.flush()
            self.assertFalse(siege.cut)
            self.assertEqual(len(siege.attacker.heard), 12)
            siege.attacker.say(*message)
            siege.flush()
            self.assertTrue(siege.cut)
            code = Reader(siege.attacker.heard[-1][1], "test").uint32()
            self.assertEqual(code, 14)
            siege.end()
            self.assertEqual(len(siege.refusals), 1)

    def test_each_request_costs_one_look_up(self) -> None:
        """(S14)"""
        siege = besieged(Guests(set()))
        for _ in range(5):
            siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        self.assertEqual(siege.guests.looked_up, 5)
        siege.end()


class SlowAdmissionTests(SynchronousTestCase):
    """The admission takes its time; the peer does not wait as it should (S5)."""

    def balanced(self, siege: Siege) -> None:
        """As many have left as were let in."""
        self.assertEqual(len(siege.guests.gone), len(siege.services))
        self.assertEqual(len(siege.guests.gone), len(siege.guests.admitted))

    def test_two_signed_requests_at_once_make_one_login(self) -> None:
        siege = besieged(Guests({(USER, line_of(USER_KEY)), (USER, line_of(OTHER))}, slow=True))
        siege.attacker.say_all(siege.attacker.claim(), siege.attacker.claim(key=OTHER))
        siege.flush()
        self.assertEqual(len(siege.guests.asked), 1)
        siege.guests.asked[0].callback(None)
        siege.flush()
        self.assertEqual(len(siege.guests.asked), 1)
        self.assertEqual(siege.guests.admitted, [(USER, line_of(USER_KEY))])
        self.assertEqual(siege.attacker.heard_numbers(), [SUCCESS])
        siege.end()
        self.balanced(siege)

    def test_a_failing_request_is_answered_before_the_next_is_looked_at(self) -> None:
        siege = besieged(Guests(slow=True, error=Conflict("it is a clone")))
        siege.attacker.say_all(siege.attacker.claim(), siege.attacker.claim())
        siege.flush()
        self.assertEqual(len(siege.guests.asked), 1)
        siege.guests.asked[0].callback(None)
        siege.flush()
        self.assertEqual(len(siege.guests.asked), 2)
        siege.guests.asked[1].callback(None)
        siege.flush()
        self.assertEqual(siege.attacker.heard_numbers(), [FAILURE, FAILURE])
        siege.end()
        self.assertEqual([refusal.why for refusal in siege.refusals], ["it is a clone"])

    def test_a_connection_that_ends_meanwhile_cancels_the_admission(self) -> None:
        siege = besieged(Guests(slow=True))
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        asked = siege.guests.asked[0]
        siege.wires.right.abortConnection()
        siege.flush()
        self.assertTrue(asked.called)
        self.assertEqual(siege.services, [])
        siege.end()
        self.balanced(siege)

    def test_an_admission_that_does_not_heed_the_cancelling_is_told_that_its_guest_left(self) -> None:
        class Stubborn(Guests):
            async def admit(self, user: str, public_key: str, address: str) -> object:
                try:
                    return await super().admit(user, public_key, address)
                except CancelledError:
                    self.admitted.append((user, public_key))
                    return "late"

        siege = besieged(Stubborn(slow=True))
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        siege.wires.right.abortConnection()
        siege.flush()
        self.assertEqual([identity.admitted for identity in siege.guests.gone], ["late"])
        self.assertEqual(siege.services, [])
        siege.end()

    def test_an_admission_that_comes_while_the_connection_is_being_closed_lets_nobody_in(self) -> None:
        siege = besieged(Guests(slow=True))
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        siege.server.close("the node stops")
        siege.guests.asked[0].callback(None)
        self.assertEqual(siege.services, [])
        siege.end()
        self.assertEqual(len(siege.guests.gone), 1)

    def test_the_login_time_goes_on(self) -> None:
        siege = besieged(Guests(slow=True))
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        siege.clock.advance(31)
        siege.flush()
        self.assertTrue(siege.cut)
        self.assertTrue(siege.guests.asked[0].called)
        self.assertEqual(siege.services, [])
        siege.end()

    def test_what_is_sent_meanwhile_is_bounded(self) -> None:
        siege = besieged(Guests(slow=True))
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        for _ in range(3):
            siege.attacker.say(phases.IGNORE, string(bytes(30_000)))
            siege.flush()
        self.assertTrue(siege.cut)
        self.assertIn("did not wait", siege.refusals[0].why)
        siege.end()

    def test_channels_behind_a_request_that_fails_or_succeeds(self) -> None:
        """(S2)"""
        channel = (90, string(b"session") + bytes(12))
        for slow in (False, True):
            for error in (None, Conflict("no")):
                siege = besieged(Guests(slow=slow, error=error))
                siege.attacker.say_all(siege.attacker.claim(), channel)
                siege.flush()
                if slow:
                    siege.guests.asked[0].callback(None)
                    siege.flush()
                self.assertTrue(siege.cut)
                self.assertEqual([service.received for service in siege.services], [[]] * (error is None))
                siege.end()
                self.balanced(siege)


class AnswerTests(SynchronousTestCase):
    """What the admission says reaches the peer."""

    def test_come_back_later(self) -> None:
        siege = besieged(Guests(error=Unavailable("the store has no quorum", retry_after_s=7.2)))
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        self.assertTrue(siege.cut)
        number, payload = siege.attacker.heard[-1]
        reader = Reader(payload, "test")
        self.assertEqual((number, reader.uint32()), (phases.DISCONNECT, 12))
        self.assertEqual(reader.text(), "the store has no quorum, retry-after=8")
        siege.end()
        self.assertEqual(len(siege.refusals), 1)

    def test_a_fault_of_the_admission_is_ours(self) -> None:
        siege = besieged(Guests(error=ZeroDivisionError()))
        siege.attacker.say(*siege.attacker.claim())
        siege.flush()
        self.assertTrue(siege.cut)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        siege.end()


class ClaimTests(SynchronousTestCase):
    """Requests as values."""

    @given(st.binary(max_size=300))
    def test_any_bytes_are_a_claim_or_a_fault_of_the_peer(self, data: bytes) -> None:
        try:
            Claim.decode(data)
        except PeerError:
            return

    def test_a_query_has_no_signature(self) -> None:
        siege = besieged()
        claim = Claim.decode(siege.attacker.query()[1])
        self.assertIsNone(claim.signature)
        self.assertEqual(claim.blob, b64decode(line_of(USER_KEY).split()[1]))
        siege.end()
