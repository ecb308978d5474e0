"""The live tunnels of a node: who may log in, one session for each service engine, what becomes of a second login."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.enrolment.directory import Login
from avinet.errors import AvinetError, Forbidden, Unavailable
from avinet.flow.places import Places
from avinet.rest.client import Client
from avinet.ssh.identity import Identity
from avinet.ssh.tunnel import Tunnel
from avinet.wire.session import Hello

ENGINE_USER = "aviseuser"
CONTROL, SSH, LOGS = "control:80", "ssh:22", "logs:80"


class KeyDirectory(Protocol):
    """The authorized keys of `aviseuser`, looked up in memory."""

    def login(self, public_key: str) -> Login | None:
        """Whose key it is; None for a key that may not log in."""


@dataclass(eq=False, slots=True)
class Session:
    """One live tunnel of one service engine."""

    login: Login
    tunnel: Tunnel
    peer: str
    since: float
    place: int
    """Where it is in the line of those that come back when the node was lost."""
    hello: Hello | None = None
    """What it said first, but for its configuration, of which there is newer word."""
    can_be_asked: bool = False
    """Whether it has offered its control service."""
    outdated: bool = False
    """Whether its ratchet is behind: it may be a copy, and is on its way out."""
    control: Client | None = None
    """The client of its control service, once something was asked of it."""
    logs_client: Client | None = None
    """The same of its service for request logs."""

    @property
    def id(self) -> str:
        """The service engine's id."""
        return self.login.id


class Sessions:
    """The sessions by service engine, and the decision who becomes one; of those that come back, `logins_per_second`.

    `alarm(kind, login, peer)` records what an operator should see. `ready` is called when a session can be asked,
    `gone` when it has ended.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        keys: KeyDirectory,
        *,
        alarm: Callable[[str, str, str], None],
        ready: Callable[[Session], None],
        gone: Callable[[Session], None],
        probe_s: float = 2.0,
        logins_per_second: float = 300.0,
    ) -> None:
        self._clock = clock
        self._keys = keys
        self._alarm = alarm
        self._ready = ready
        self._gone = gone
        self._probe_s = probe_s
        self._logins_per_second = logins_per_second
        self._places = Places()
        self._live: dict[str, Session] = {}
        self._entering: set[str] = set()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def known(self, user: str, public_key: str) -> bool:
        """Whether a signature by this key is worth checking."""
        return user == ENGINE_USER and self._keys.login(public_key) is not None

    async def admit(self, user: str, public_key: str, peer: str) -> Login:
        """The login that a verified key opens.

        A service engine has one tunnel to a node. When it has one already, that one is probed: silent, it is closed
        and the new one takes over; alive, two copies of one key are at work: an alarm, and the old one stays. Raises
        `Forbidden` or `Unavailable`.
        """
        login = self._keys.login(public_key) if user == ENGINE_USER else None
        if login is None:
            raise Forbidden(f"no service engine has this key as {user}")
        if login.id in self._entering:
            raise Unavailable(f"{login.id} is logging in already", retry_after_s=self._probe_s)
        self._entering.add(login.id)
        try:
            await self._make_way(login, peer)
        finally:
            self._entering.discard(login.id)
        if self._keys.login(public_key) != login:
            raise Forbidden(f"the key of {login.id} was revoked while it logged in")
        return login

    async def _make_way(self, login: Login, peer: str) -> None:
        old = self._live.get(login.id)
        if old is None:
            return
        if old.outdated or old.login != login:  # the key was changed: whoever has the new one is the one
            self.cut(login.id, "another tunnel of the same service engine takes over")
            return
        try:
            await old.tunnel.probe(self._probe_s)
        except AvinetError:
            self.cut(login.id, "another tunnel of the same service engine takes over")
            return
        self._alarm("clone", login.id, peer)
        raise Unavailable(f"{login.id} has a live tunnel from {old.peer}", retry_after_s=60)

    def left(self, identity: Identity) -> None:
        """A connection that was admitted has ended; `lost` has been told of its tunnel, if it came so far."""

    def opened(self, login: Login, tunnel: Tunnel, peer: str) -> Session:
        """A tunnel has been authenticated and stands."""
        self.cut(login.id, "another tunnel of the same service engine takes over")
        session = Session(login, tunnel, peer, self._clock.seconds(), self._places.take())
        self._live[login.id] = session
        tunnel.when_lost().addCallback(lambda why: self.lost(session, why))
        self.log.info("{id} has opened its tunnel from {peer}", id=login.id, peer=peer)
        return session

    def of(self, tunnel: Tunnel) -> Session:
        """The session of a tunnel. Raises `Unavailable` when it is that of another tunnel by now."""
        session = self.get(tunnel.identity.admitted.id)
        if session.tunnel is not tunnel:
            raise Unavailable(f"another tunnel of {session.id} has taken over")
        return session

    def offered(self, session: Session, service: str) -> None:
        """The service engine forwards one more of its services."""
        if service == CONTROL:
            session.can_be_asked = True
            self._ready(session)

    def lost(self, session: Session, why: str) -> None:
        """The tunnel of `session` has ended."""
        if self._live.get(session.id) is session:
            del self._live[session.id]
            self._places.leave(session.place)
            self.hang_up(session)
            logs, session.logs_client = session.logs_client, None
            if logs is not None:
                logs.drop()
            self._gone(session)
            self.log.info("{id} has lost its tunnel: {why}", id=session.id, why=why)

    def get(self, id: str) -> Session:
        """The session of a service engine. Raises `Unavailable` when it has none."""
        session = self._live.get(id)
        if session is None:
            raise Unavailable(
                f"service engine {id} is not connected", hint="see avictl se show for when it was last seen"
            )
        return session

    def control(self, session: Session) -> Client:
        """The client of the control service of a session, made when it is needed first.

        Raises `Unavailable` while it is not on offer: a service engine that has come back offers it a moment later.
        """
        if not session.can_be_asked:
            raise Unavailable(f"service engine {session.id} cannot be asked yet")
        if session.control is None:
            session.control = self._client(session, CONTROL)
        return session.control

    def logs(self, session: Session) -> Client:
        """The client of the service for request logs of a session.

        Raises `Unavailable` when there is another session by now, or while that service is not on offer.
        """
        if self._live.get(session.id) is not session:
            raise Unavailable(f"service engine {session.id} has lost its tunnel")
        if LOGS not in session.tunnel.offered:
            raise Unavailable(f"service engine {session.id} does not offer its request logs")
        if session.logs_client is None:
            session.logs_client = self._client(session, LOGS)
        return session.logs_client

    def _client(self, session: Session, service: str) -> Client:
        endpoint, authority = session.tunnel.endpoint(service), service.partition(":")[0]
        return Client(self._clock, endpoint, authority=authority, where=f"service engine {session.id}")

    def hang_up(self, session: Session) -> None:
        """Nothing more is to be asked of a session for long: keep neither connection nor client for it."""
        control, session.control = session.control, None
        if control is not None:
            control.drop()

    def slot_s(self, session: Session) -> float:
        """How many seconds after a loss of the node it should dial again: one after the other."""
        return session.place / self._logins_per_second

    def find(self, id: str) -> Session | None:
        """The session of a service engine, if it has one."""
        return self._live.get(id)

    def cut(self, id: str, why: str) -> None:
        """End the session of a service engine, if it has one."""
        session = self._live.get(id)
        if session is not None:
            self.cut_off(session, why)

    def cut_off(self, session: Session, why: str) -> None:
        """End this session, be there another one by now or not."""
        self.lost(session, why)
        session.tunnel.close(why)
