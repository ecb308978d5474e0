"""Which message may come when: the whole order of an SSH connection as a pure machine, for both roles.

Two things go on beside each other: the stage (opening → service → login → connected) and the key exchange, which opens
the connection and may come again when it stands. A message that is out of order ends the connection.
"""

from __future__ import annotations

import enum

from avinet.errors import PeerError
from avinet.ssh.messages import (
    CHANNEL_OPEN_CONFIRMATION,
    CHANNEL_OPEN_FAILURE,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
)

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG = 1, 2, 3, 4
SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = 5, 6, 7
KEXINIT, NEWKEYS, KEX_INIT, KEX_REPLY = 20, 21, 30, 31
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER, USERAUTH_PK_OK = 50, 51, 52, 53, 60

_KEX = range(20, 50)
_USERAUTH = range(50, 80)
_CONNECTION = range(80, 128)
_ANSWERS = frozenset((REQUEST_SUCCESS, REQUEST_FAILURE, CHANNEL_OPEN_CONFIRMATION, CHANNEL_OPEN_FAILURE))
"""What paramiko sends in the middle of a key exchange that it began, as we asked: RFC 4253 §7.1 has it wait."""


class Stage(enum.Enum):
    """How far the connection has come."""

    OPENING = "before its first keys"
    SERVICE = "before it asked for a service"
    LOGIN = "before it was logged in"
    CONNECTED = "after it was logged in"


class Exchange(enum.Enum):
    """What this end waits for in a key exchange."""

    NONE = "outside a key exchange"
    METHOD = "in a key exchange"
    NEWKEYS = "before its new keys"


class Verdict(enum.Enum):
    """What becomes of a message."""

    TAKE = enum.auto()
    SKIP = enum.auto()
    UNKNOWN = enum.auto()


class Phases:
    """The order of one connection; `packets_before_login` bounds what a peer may send until it is logged in."""

    def __init__(self, *, client: bool, packets_before_login: int) -> None:
        self.stage = Stage.OPENING
        self.strict = False
        self.exchange = Exchange.NONE
        self.sending_blocked = False
        self._client = client
        self._left = packets_before_login
        self._aside = False
        self._skip_guess = False

    @property
    def exchanging(self) -> bool:
        """Whether a key exchange is under way on either side."""
        return self.sending_blocked or self.exchange is not Exchange.NONE

    # what arrives

    def received(self, number: int) -> Verdict:
        """What to do with message `number`. Raises `PeerError` when it must not come now."""
        if self.stage is Stage.CONNECTED:
            if self.exchange is Exchange.NONE and number in _CONNECTION:  # nearly all that ever comes
                return Verdict.TAKE
        else:
            self._left -= 1
            if self._left < 0:
                raise PeerError(f"it sent too many packets {self.stage.value}")
        if number == DISCONNECT:
            return Verdict.TAKE
        if number in _KEX:
            return self._exchange_message(number)
        if number in (IGNORE, UNIMPLEMENTED, DEBUG):
            return self._aside_message(number)
        if self.stage is Stage.CONNECTED and number in _ANSWERS:
            return Verdict.TAKE
        if self.stage is Stage.OPENING or self.exchange is not Exchange.NONE:
            raise self._wrong(number)
        if number in _USERAUTH:
            return self._login_message(number)
        if number in _CONNECTION:
            if self.stage is not Stage.CONNECTED:
                raise self._wrong(number)
            return Verdict.TAKE
        if number in (SERVICE_REQUEST, SERVICE_ACCEPT):
            if self.stage is not Stage.SERVICE or self._client is (number == SERVICE_REQUEST):
                raise self._wrong(number)
            return Verdict.TAKE
        if number == EXT_INFO:
            raise PeerError("it sent EXT_INFO, which it was not asked for")
        return Verdict.UNKNOWN

    def _aside_message(self, number: int) -> Verdict:
        """IGNORE, DEBUG, UNIMPLEMENTED: always legal, but in the first exchange of a strict peer."""
        if self.stage is Stage.OPENING:
            self._aside = True
            if self.strict:
                raise self._wrong(number)
        return Verdict.SKIP

    def _exchange_message(self, number: int) -> Verdict:
        if number == KEXINIT:
            if self.exchange is not Exchange.NONE or self.stage in (Stage.SERVICE, Stage.LOGIN):
                raise self._wrong(number)
            return Verdict.TAKE
        if number == NEWKEYS:
            if self.exchange is not Exchange.NEWKEYS:
                raise self._wrong(number)
            return Verdict.TAKE
        if self.exchange is not Exchange.METHOD:
            raise self._wrong(number)
        if self._skip_guess:
            self._skip_guess = False
            return Verdict.SKIP
        if number != (KEX_REPLY if self._client else KEX_INIT):
            raise self._wrong(number)
        self.exchange = Exchange.NEWKEYS
        return Verdict.TAKE

    def _login_message(self, number: int) -> Verdict:
        if self._client:
            if self.stage is not Stage.LOGIN or number not in (USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER):
                raise self._wrong(number)
            return Verdict.SKIP if number == USERAUTH_BANNER else Verdict.TAKE
        if number != USERAUTH_REQUEST or self.stage is Stage.SERVICE:
            raise self._wrong(number)
        # RFC 4252 §5.1: a request that comes after the success is silently ignored.
        return Verdict.SKIP if self.stage is Stage.CONNECTED else Verdict.TAKE

    def _wrong(self, number: int) -> PeerError:
        when = self.exchange.value if self.exchange is not Exchange.NONE else self.stage.value
        return PeerError(f"it sent message {number} {when}")

    # what happens

    def proposed(self, *, strict: bool, skip_guess: bool) -> None:
        """The peer's KEXINIT was read: it offers strict key exchange, and its guess must be passed over."""
        if self.stage is Stage.OPENING:
            self.strict = strict
            if strict and self._aside:
                raise PeerError("its key exchange did not begin with KEXINIT, although it is strict")
        self.exchange = Exchange.METHOD
        self._skip_guess = skip_guess

    def sent(self, number: int) -> None:
        """This end sent message `number`."""
        if number == KEXINIT:
            self.sending_blocked = True
        elif number == NEWKEYS:
            self.sending_blocked = False

    def keyed(self) -> None:
        """The peer's NEWKEYS was taken: it sends with its new keys from now on."""
        self.exchange = Exchange.NONE
        if self.stage is Stage.OPENING:
            self.stage = Stage.SERVICE

    def login_began(self) -> None:
        """The authentication service runs."""
        self.stage = Stage.LOGIN

    def logged_in(self) -> None:
        """Both ends know each other."""
        self.stage = Stage.CONNECTED

    # what may be sent

    def may_send(self, number: int) -> bool:
        """Whether message `number` may go out now, or must wait for the new keys (RFC 4253 §7.1)."""
        if not self.sending_blocked:
            return True
        return number in _KEX or number in (DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG)
