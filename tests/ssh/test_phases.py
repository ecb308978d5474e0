"""The order of messages, for every message number in every phase and role."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import PeerError
from avinet.ssh.phases import (
    DEBUG,
    DISCONNECT,
    EXT_INFO,
    IGNORE,
    KEX_INIT,
    KEX_REPLY,
    KEXINIT,
    NEWKEYS,
    SERVICE_ACCEPT,
    SERVICE_REQUEST,
    UNIMPLEMENTED,
    USERAUTH_BANNER,
    USERAUTH_FAILURE,
    USERAUTH_REQUEST,
    USERAUTH_SUCCESS,
    Phases,
    Stage,
    Verdict,
)

ASIDE = {IGNORE, UNIMPLEMENTED, DEBUG}
UNNAMED = {0, *range(8, 20), *range(128, 256)}
CHANNELS = set(range(80, 128))
ANSWERS = {81, 82, 91, 92}


def at(stage: Stage, *, client: bool = False, strict: bool = True, packets: int = 1000) -> Phases:
    """Phases that have come to `stage` as they should."""
    phases = Phases(client=client, packets_before_login=packets)
    phases.sent(KEXINIT)
    if stage is Stage.OPENING:
        return phases
    phases.received(KEXINIT)
    phases.proposed(strict=strict, skip_guess=False)
    phases.received(KEX_REPLY if client else KEX_INIT)
    phases.sent(NEWKEYS)
    phases.received(NEWKEYS)
    phases.keyed()
    if stage is not Stage.SERVICE:
        phases.received(SERVICE_ACCEPT if client else SERVICE_REQUEST)
        phases.login_began()
    if stage is Stage.CONNECTED:
        phases.received(USERAUTH_SUCCESS if client else USERAUTH_REQUEST)
        phases.logged_in()
    return phases


def in_exchange(stage: Stage, *, client: bool = False, strict: bool = True, method_done: bool = False) -> Phases:
    """Phases in a key exchange, before the method's message or before NEWKEYS."""
    phases = at(stage, client=client, strict=strict)
    phases.received(KEXINIT)
    phases.sent(KEXINIT)
    phases.proposed(strict=strict, skip_guess=False)
    if method_done:
        phases.received(KEX_REPLY if client else KEX_INIT)
    return phases


def legal(make: object) -> dict[int, Verdict]:
    """What happens to each message number right after `make()`, without those that end the connection."""
    verdicts = {}
    for number in range(256):
        phases = make()  # type: ignore[operator]
        try:
            verdicts[number] = phases.received(number)
        except PeerError:
            continue
    return verdicts


def expected(take: set[int], skip: set[int] = frozenset(), unknown: set[int] = frozenset()) -> dict[int, Verdict]:  # type: ignore[assignment]
    """The verdicts of a phase, ordered by number."""
    table = dict.fromkeys(take | {DISCONNECT}, Verdict.TAKE)
    table |= dict.fromkeys(skip, Verdict.SKIP)
    table |= dict.fromkeys(unknown, Verdict.UNKNOWN)
    return dict(sorted(table.items()))


class ServerOrderTests(SynchronousTestCase):
    """What a client may send, and when: everything else ends the connection (S1, S2, S3)."""

    def test_before_keys_only_the_exchange(self) -> None:
        self.assertEqual(legal(lambda: at(Stage.OPENING)), expected({KEXINIT}, ASIDE))

    def test_in_a_strict_first_exchange_nothing_but_its_next_message(self) -> None:
        self.assertEqual(legal(lambda: in_exchange(Stage.OPENING)), expected({KEX_INIT}))
        self.assertEqual(legal(lambda: in_exchange(Stage.OPENING, method_done=True)), expected({NEWKEYS}))

    def test_a_first_exchange_that_is_not_strict_may_be_interrupted_as_rfc_4253_says(self) -> None:
        self.assertEqual(legal(lambda: in_exchange(Stage.OPENING, strict=False)), expected({KEX_INIT}, ASIDE))

    def test_before_a_service_only_its_request(self) -> None:
        self.assertEqual(legal(lambda: at(Stage.SERVICE)), expected({SERVICE_REQUEST}, ASIDE, UNNAMED))

    def test_before_the_login_only_requests_to_log_in(self) -> None:
        self.assertEqual(legal(lambda: at(Stage.LOGIN)), expected({USERAUTH_REQUEST}, ASIDE, UNNAMED))

    def test_after_the_login_channels_and_new_keys(self) -> None:
        self.assertEqual(
            legal(lambda: at(Stage.CONNECTED)), expected({KEXINIT} | CHANNELS, ASIDE | {USERAUTH_REQUEST}, UNNAMED)
        )

    def test_in_a_later_exchange_no_more_of_channels_than_answers(self) -> None:
        self.assertEqual(legal(lambda: in_exchange(Stage.CONNECTED)), expected({KEX_INIT} | ANSWERS, ASIDE))
        self.assertEqual(
            legal(lambda: in_exchange(Stage.CONNECTED, method_done=True)), expected({NEWKEYS} | ANSWERS, ASIDE)
        )

    def test_in_an_exchange_that_we_began_the_peer_goes_on_until_its_kexinit(self) -> None:
        def begun() -> Phases:
            phases = at(Stage.CONNECTED)
            phases.sent(KEXINIT)
            return phases

        self.assertEqual(legal(begun), legal(lambda: at(Stage.CONNECTED)))


class ClientOrderTests(SynchronousTestCase):
    """What a server may send, and when."""

    def test_before_keys_only_the_exchange(self) -> None:
        self.assertEqual(legal(lambda: at(Stage.OPENING, client=True)), expected({KEXINIT}, ASIDE))
        self.assertEqual(legal(lambda: in_exchange(Stage.OPENING, client=True)), expected({KEX_REPLY}))

    def test_before_a_service_only_its_acceptance(self) -> None:
        self.assertEqual(legal(lambda: at(Stage.SERVICE, client=True)), expected({SERVICE_ACCEPT}, ASIDE, UNNAMED))

    def test_before_the_login_only_its_outcome(self) -> None:
        self.assertEqual(
            legal(lambda: at(Stage.LOGIN, client=True)),
            expected({USERAUTH_SUCCESS, USERAUTH_FAILURE}, ASIDE | {USERAUTH_BANNER}, UNNAMED),
        )

    def test_after_the_login_channels_and_new_keys(self) -> None:
        self.assertEqual(
            legal(lambda: at(Stage.CONNECTED, client=True)), expected({KEXINIT} | CHANNELS, ASIDE, UNNAMED)
        )


class StrictTests(SynchronousTestCase):
    """Strict key exchange is decided by the first KEXINIT and holds for what came before it."""

    def test_a_message_before_a_strict_kexinit_ends_it(self) -> None:
        phases = at(Stage.OPENING)
        phases.received(IGNORE)
        phases.received(KEXINIT)
        with self.assertRaises(PeerError):
            phases.proposed(strict=True, skip_guess=False)

    def test_a_later_exchange_does_not_change_it(self) -> None:
        for strict in (True, False):
            phases = at(Stage.CONNECTED, strict=strict)
            phases.received(KEXINIT)
            phases.proposed(strict=not strict, skip_guess=False)
            self.assertIs(phases.strict, strict)


class ExchangeTests(SynchronousTestCase):
    """One key exchange at a time, one method's message for each."""

    def test_one_method_message_for_each_kexinit(self) -> None:
        phases = in_exchange(Stage.OPENING)
        phases.received(KEX_INIT)
        with self.assertRaises(PeerError):
            phases.received(KEX_INIT)

    def test_a_wrong_guess_is_passed_over_once(self) -> None:
        phases = at(Stage.OPENING)
        phases.received(KEXINIT)
        phases.proposed(strict=True, skip_guess=True)
        self.assertIs(phases.received(34), Verdict.SKIP)
        self.assertIs(phases.received(KEX_INIT), Verdict.TAKE)

    def test_channels_wait_from_our_kexinit_to_our_newkeys(self) -> None:
        phases = at(Stage.CONNECTED)
        self.assertTrue(phases.may_send(94))
        phases.sent(KEXINIT)
        allowed = {number for number in range(256) if phases.may_send(number)}
        self.assertEqual(allowed, {DISCONNECT} | ASIDE | set(range(20, 50)))
        self.assertTrue(phases.exchanging)
        phases.sent(NEWKEYS)
        self.assertTrue(phases.may_send(94))

    def test_ext_info_is_never_taken(self) -> None:
        for stage in Stage:
            for client in (True, False):
                with self.assertRaises(PeerError):
                    at(stage, client=client).received(EXT_INFO)


class BudgetTests(SynchronousTestCase):
    """Before its login a peer may send only so many packets, however small."""

    def test_the_budget_ends(self) -> None:
        phases = at(Stage.SERVICE, packets=10)
        with self.assertRaises(PeerError):
            for _ in range(10):
                phases.received(IGNORE)

    def test_the_login_lifts_it(self) -> None:
        phases = at(Stage.CONNECTED, packets=10)
        for _ in range(100):
            phases.received(IGNORE)
