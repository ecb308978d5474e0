"""HAProxy's runtime API over UNIX sockets, and what its answers mean (HAProxy management guide, section 9)."""

from __future__ import annotations

import csv
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import within
from avinet.dataplane.render import FRONTEND, RELAY
from avinet.errors import Unavailable

TIMEOUT_S = 5.0
ANSWER_BYTES = 32 * 1024 * 1024
_MASTER = re.compile(r"^(\d+)\s+master\s+(\d+)\s+\[failed: (\d+)\]", re.MULTILINE)
_DESCRIPTION = re.compile(r"^description: *(\S+)", re.MULTILINE)
_WORKER = re.compile(r"^(\d+)\s+worker\s+(\d+)\s", re.MULTILINE)


@dataclass(frozen=True)
class Processes:
    """What `show proc` says: the master, how often it has reloaded and failed to, the current workers, and those that
    have made room for them and are not done yet.
    """

    master: int
    reloads: int
    failed: int
    workers: tuple[int, ...]
    old: tuple[int, ...] = ()


@dataclass(frozen=True)
class WorkerState:
    """Whether a worker is to stop, and how many connections its frontends have, that of its ring among them."""

    stopping: bool
    connections: int


@dataclass(frozen=True)
class ServerLine:
    """A server in `show stat`; `changed_s` is how long ago its state changed.

    `open` is what it has to do now, `total` how often it was dialled since the worker began.
    """

    backend: str
    server: str
    status: str
    changed_s: float
    check: str
    open: int
    total: int


@dataclass(frozen=True)
class FrontendLine:
    """A frontend in `show stat`: open connections, and all since the worker began."""

    name: str
    open: int
    total: int


class _Collector(Protocol):
    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._parts: list[bytes] = []
        self._left = ANSWER_BYTES

    @override
    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            assert self.transport is not None
            self.transport.loseConnection()
        else:
            self._parts.append(data)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.whole.called:
            self.whole.callback(b"".join(self._parts))


async def ask(reactor: Any, socket: Path, command: str, timeout_s: float = TIMEOUT_S) -> str:
    """What HAProxy answers to `command` on the UNIX socket at `socket`. Raises `Unavailable`."""
    return (await ask_raw(reactor, socket, command, timeout_s)).decode("utf-8", "replace")


async def ask_raw(reactor: Any, socket: Path, command: str, timeout_s: float = TIMEOUT_S) -> bytes:
    """The bytes of its answer; see `ask`."""
    factory = Factory.forProtocol(_Collector)
    factory.noisy = False
    protocol: Any = None
    try:
        protocol = await UNIXClientEndpoint(reactor, str(socket), timeout=timeout_s).connect(factory)
        protocol.transport.write(command.encode("ascii") + b"\n")
        protocol.transport.loseWriteConnection()
        answer: bytes = await within(reactor, timeout_s, protocol.whole, f"HAProxy ({command.split()[0]})")
        return answer
    except (ConnectError, OSError) as error:
        raise Unavailable(f"HAProxy does not answer: {error}") from error
    finally:
        if protocol is not None:
            protocol.transport.abortConnection()


def processes(answer: str) -> Processes:
    """The meaning of `show proc`. Raises `Unavailable` when there is none."""
    master = _MASTER.search(answer)
    if master is None:
        raise Unavailable("HAProxy's master has no answer")
    workers, old = (
        tuple(int(each[1]) for each in _WORKER.finditer(part)) for part in answer.partition("# old workers")[::2]
    )
    return Processes(int(master[1]), int(master[2]), int(master[3]), workers, old)


def description(answer: str) -> str:
    """The `description` of the configuration that runs, in an answer to `show info`."""
    found = _DESCRIPTION.search(answer)
    return found[1] if found else ""


def _whole(answer: str) -> str:
    """`answer`, which ends with an empty line unless its worker died in the middle of it. Raises `Unavailable`."""
    if not answer.endswith("\n\n"):
        raise Unavailable("HAProxy has given half an answer")
    return answer


def events(answer: bytes) -> bytes:
    """The lines in an answer to `show events`, each with its end. Raises `Unavailable` for half of one."""
    if not answer.endswith(b"\n\n") and answer != b"\n":
        raise Unavailable("HAProxy has given half an answer")
    return answer[:-1]


def worker_state(answer: str) -> WorkerState:
    """The state of a worker in its answer to `show info`. Raises `Unavailable`."""
    found = dict(line.partition(": ")[::2] for line in _whole(answer).splitlines())
    try:
        return WorkerState(found["Stopping"] == "1", int(found["CurrConns"]))
    except (KeyError, ValueError) as error:
        raise Unavailable("HAProxy does not say whether it is to stop") from error


def dropped_logs(answer: str) -> int:
    """How many records could not be sent, in an answer to `show info`. Raises `Unavailable` for half of one."""
    lines = _whole(answer).splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("DroppedLogs:")), 0)


def stat_lines(answer: str) -> tuple[list[FrontendLine], list[ServerLine]]:
    """The frontends and servers in `show stat`, of the services that operators know.

    Raises `Unavailable` for half an answer.
    """
    found = list(csv.DictReader(_whole(answer).lstrip("# ").splitlines()))
    if any(None in row.values() for row in found):
        raise Unavailable("HAProxy has given half an answer")
    rows = [row for row in found if row["pxname"] != RELAY]
    frontends = [
        FrontendLine(row["pxname"].removeprefix(FRONTEND), int(row["scur"] or 0), int(row["stot"] or 0))
        for row in rows
        if row["svname"] == "FRONTEND"
    ]
    return frontends, [_server_line(row) for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")]


def _server_line(row: dict[str, str]) -> ServerLine:
    check = " ".join(each for each in (row["check_status"].lstrip("* "), row["check_code"], row["last_chk"]) if each)
    return ServerLine(
        row["pxname"],
        row["svname"],
        row["status"],
        float(row["lastchg"] or 0),
        check,
        int(row["scur"] or 0),
        int(row["connect"] or 0),
    )


def state_of(answer: str, text: str) -> str:
    """What `show servers state` says of those servers that are in the configuration `text` at the same place.

    HAProxy believes the address and the port in a state file more than those in its configuration.
    """
    places = _places(text)
    lines = answer.splitlines()
    head = [line for line in lines[:2] if line == "1" or line.startswith("#")]
    names = next((line.lstrip("# ").split() for line in head if line.startswith("#")), [])
    kept = [line for line in lines[len(head) :] if _stays(dict(zip(names, line.split(), strict=False)), places)]
    return "\n".join([*head, *kept]) + "\n"


def _stays(state: dict[str, str], places: dict[tuple[str, str], tuple[str, str]]) -> bool:
    place = places.get((state.get("be_name", ""), state.get("srv_name", "")))
    if place is None or place[1] != state.get("srv_port"):
        return False
    if (named := state.get("srv_fqdn", "-")) != "-":
        return named == place[0]
    try:
        return ipaddress.ip_address(place[0]) == ipaddress.ip_address(state.get("srv_addr", ""))
    except ValueError:
        return False


def _places(text: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Host and port of each server in a configuration, by the names of its backend and its own."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    backend = ""
    for line in text.splitlines():
        words = line.split()
        if not line.startswith(" "):
            backend = words[1] if words[:1] == ["backend"] else ""
        elif backend and words[0] == "server":
            host, _, port = words[2].rpartition(":")
            found[backend, words[1]] = host.removeprefix("ipv6@").strip("[]"), port
    return found


def first_alert(said: Sequence[str]) -> str:
    """The first thing that HAProxy found wrong, without its decorations."""
    for line in said:
        if "[ALERT]" in line:
            text = line.partition(": ")[2]
            return re.sub(r"^config : |parsing \[[^]]*\] : ", "", text).strip()
    return " ".join(said[-1:]) or "no reason given"
