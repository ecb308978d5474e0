"""A service engine at work: what the requests of its nodes act on, and what its commands show."""

from __future__ import annotations

import platform
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from avinet import __version__
from avinet.aio import Tasks
from avinet.config.apply import Applier
from avinet.dataplane.interface import Dataplane, ServerState
from avinet.enrolment.identity import Identity
from avinet.errors import Invalid, Unauthenticated
from avinet.logs.spool.spool import Spool
from avinet.se.clock import EngineClock
from avinet.se.commands import Command, CommandTable, Console, Outcome, as_json, no_arguments
from avinet.se.custody import Custody
from avinet.se.diagnose import Diagnosis, Probe
from avinet.se.exports import Exports
from avinet.se.jobs import Journal
from avinet.se.operators import OperatorKeys
from avinet.se.programs import Program, Programs
from avinet.se.records import shown
from avinet.se.runs import Runs, told
from avinet.se.witness import Witness
from avinet.stalls import Stalls
from avinet.trust import keys
from avinet.trust.document import verify_document
from avinet.wire.certificates import CertificatePush, CertificateState
from avinet.wire.command import CommandEvent, CommandRequest, Ended, OperatorKey
from avinet.wire.config import ConfigPush, ConfigState
from avinet.wire.message import decode
from avinet.wire.session import Hello
from avinet.wire.trust import SignedTrust, TrustDocument

DOCUMENT_LIMIT_BYTES = 1024 * 1024


class ServiceEngine:
    """See `avinet.se.control.Engine`. `links` tells the nodes that it has a tunnel to."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        dataplane: Dataplane,
        applier: Applier,
        operators: OperatorKeys,
        *,
        state: Path,
        boot: str,
        clock: EngineClock,
        custody: Custody,
        witness: Witness,
        programs: Sequence[Program],
        tasks: Tasks,
        links: Callable[[], Mapping[str, Probe]],
        rotate: Callable[[], Awaitable[None]],
        trust_changed: Callable[[], None],
        spool: Spool | None,
        exports: Exports,
        stalls: Stalls,
    ) -> None:
        self._reactor = reactor
        self._identity = identity
        self._dataplane = dataplane
        self._applier = applier
        self._operators = operators
        self._boot = boot
        self._clock = clock
        self._custody = custody
        self._started = clock.now()
        self._spool = spool
        self._exports = exports
        self._stalls = stalls
        self._witness = witness
        self._links = links
        self._rotate = rotate
        self._trust_changed = trust_changed
        in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
        self._runs = Runs(reactor, Journal(state / "jobs", in_thread), state / "job-output", in_thread, tasks)
        own = [
            Command("ping", "answer at once", no_arguments(self._ping)),
            Command("status", "who this is, its tunnels, its configuration, its exports", no_arguments(self._status)),
            Command("config", "the configuration that runs", no_arguments(self._config)),
            Command(
                "accept-log", "take the audit log as it is, where its past was lost", no_arguments(self._accept_log)
            ),
            Command(
                "dataplane", "the load balancer, and the health of the servers", no_arguments(self._show_dataplane)
            ),
            Command("diagnose", "what stands between this and its nodes", self._diagnose),
            Command(
                "traffic",
                "take a server out of the balancing, or back into it, until the next start",
                self._traffic,
                "POOL SERVER " + "|".join(get_args(ServerState)),
            ),
        ]
        added = Programs(reactor, programs, [each.name for each in own])
        self.commands = CommandTable(reactor, [*own, *added.commands])

    # What nodes ask for

    async def configure(self, push: ConfigPush) -> ConfigState:
        """See `Engine`."""
        return await self._applier.configure(push)

    async def take_certificates(self, push: CertificatePush) -> CertificateState:
        """See `Engine`."""
        return await self._custody.take(push)

    async def command(self, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        """See `Engine`."""

        async def execute(console: Console) -> Ended:
            self.log.info(
                "job {job}: {command} for {operator}",
                job=request.job,
                command=request.command,
                operator=request.operator or "an operator",
            )
            return await self.commands.run(request.command, request.arguments, console, request.timeout_s)

        return told(await self._runs.start(request.job, execute), 0)

    async def output(self, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        """See `Engine`."""
        return told(await self._runs.find(job, after), after)

    def cancel(self, job: str) -> None:
        """See `Engine`."""
        self._runs.cancel(job)
        self.log.info("job {job} is cancelled", job=job)

    async def run_line(self, line: str, console: Console) -> Ended:
        """A command line as SSH's `exec` carries it."""
        self.log.info("over SSH: {line}", line=line[:200])
        return await self.commands.run_line(line, console)

    async def trust(self, signed: SignedTrust) -> int:
        """See `Engine`."""
        text = signed.document.encode("utf-8")
        at = self._identity.time(self._clock.now())
        try:
            verify_document(text, signed.signature, signed.issuer.encode("ascii"), self._identity.roots(), at)
        except Unauthenticated as error:
            raise Invalid(f"the trust document is not signed as it must be: {error.what}") from error
        document = decode(text, TrustDocument, limit_bytes=DOCUMENT_LIMIT_BYTES, what="trust document")
        if document.epoch > self._identity.epoch:
            self._identity.keep_document(text, document)
            self.log.info("trust document of epoch {epoch} taken", epoch=document.epoch)
            self._trust_changed()
        return self._identity.epoch

    def admit_operator(self, key: OperatorKey) -> str:
        """See `Engine`."""
        self._operators.admit_until(key)
        self.log.info("key of {operator} admitted for a while", operator=key.operator or "an operator")
        return keys.public_line(self._identity.host_key)

    async def rotate(self) -> None:
        """See `Engine`."""
        await self._rotate()

    async def depart(self, drain_s: float) -> None:
        """See `Engine`."""
        self.log.info("departing: draining for {drain_s} s", drain_s=drain_s)
        await self._dataplane.shut_down(drain_s)
        await self._custody.wipe()

    def hello(self) -> Hello:
        """The first request on a new tunnel."""
        return Hello(
            boot=self._boot,
            started=self._started,
            version=__version__,
            dataplane=self._dataplane.name,
            hostname=socket.gethostname()[:253],
            config=self._applier.state,
            certificates=self._custody.state,
            trust_epoch=self._identity.epoch,
            ratchet=self._identity.ratchet,
            log_size=self._witness.ask(),
            log_problem=self._witness.problem,
        )

    # What people see

    def status(self) -> dict[str, object]:
        """See `Engine`."""
        receipt, state = self._identity.receipt, self._applier.state
        applied = state.applied
        return {
            "id": receipt.id if receipt else None,
            "generation": receipt.generation if receipt else None,
            "domain": receipt.domain if receipt else None,
            "fingerprint": self._identity.fingerprint,
            "version": __version__,
            "host": platform.node(),
            "uptime_s": round(self._clock.now() - self._started, 1),
            "tunnels": list(self._links()),
            "trust_epoch": self._identity.epoch,
            "audit_log": self._witness.describe(),
            "dataplane": self._dataplane.name,
            "configuration": applied.revision if applied else None,
            "configuration_sha256": applied.sha256 if applied else None,
            "certificates": {each.name: each.revision for each in self._custody.state.held},
            "refused": state.refused.revision if state.refused else None,
            "reason": state.reason,
            "request_logs": shown(self._spool),
            "exports": [msgspec.structs.asdict(each) for each in self._exports.states],
            "longest_stall_s": round(self._stalls.longest_s, 3),
        }

    async def _ping(self) -> str:
        receipt = self._identity.receipt
        return f"pong from {receipt.id if receipt else 'nobody'}\n"

    async def _status(self) -> str:
        return as_json(self.status())

    async def _config(self) -> str:
        config = self._applier.config
        return as_json(msgspec.to_builtins(config)) if config else "nothing was configured yet\n"

    async def _accept_log(self) -> str:
        was = self._witness.accept()
        return f"was: {was}\n" if was else "nothing was wrong\n"

    async def _diagnose(self, arguments: Sequence[str]) -> Outcome:
        if arguments:
            raise Invalid("diagnose takes no arguments")
        return await Diagnosis(
            self._reactor, self._identity, wall=self._clock.wall, now=self._clock.now, tunnels=self._links
        ).run()

    async def _traffic(self, arguments: Sequence[str]) -> str:
        states = get_args(ServerState)
        match arguments:
            case [pool, server, state] if state in states:
                await self._dataplane.set_server(pool, server, cast("ServerState", state))
                return f"{pool}/{server}: {state}\n"
            case _:
                raise Invalid(f"traffic takes a pool, a server, and one of {', '.join(states)}")

    async def _show_dataplane(self) -> str:
        shown = self._dataplane.describe()
        return as_json({**shown, "health": msgspec.to_builtins(list(self._dataplane.health()))})
