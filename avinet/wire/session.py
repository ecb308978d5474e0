"""The hello: a service engine's first request on `control`, and its answer."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.audit import LogProof
from avinet.wire.certificates import CertificateState
from avinet.wire.config import ConfigState
from avinet.wire.message import Count, Labels, Line, Message, PublicKey, Revision, Seconds, UnixTime

HELLO_LIMIT_BYTES = 1024 * 1024


class Hello(Message, frozen=True, kw_only=True):
    """Who has dialled, beyond its key: this boot, its versions, what it runs.

    The generation is never said: it is the key's. `ratchet` is the secret of the last answer, `log_size` how many
    records the audit log had then; `log_problem` says that it did more than grow since.
    """

    v: Literal[1] = 1
    boot: Line
    started: UnixTime
    version: Line = ""
    dataplane: Line = ""
    hostname: Line = ""
    labels: Labels = {}
    addresses: Annotated[list[Line], Meta(max_length=16)] = []
    config: ConfigState = ConfigState()
    certificates: CertificateState = CertificateState()
    trust_epoch: Count = 0
    ratchet: Line = ""
    log_size: Count = 0
    log_problem: Line = ""


class KeyRotation(Message, frozen=True, kw_only=True):
    """A service engine changes its key to `ssh_public_key`: signed by the old one, its tunnel's, and the new."""

    ssh_public_key: PublicKey


class HelloReply(Message, frozen=True, kw_only=True):
    """`reconnect_slot_s` is how long to wait before dialling again after a loss.

    `ratchet` is the secret for the next hello, empty when it stays. `log` is the proof that the audit log only grew
    since it had `log_size` records.
    """

    node: Line
    server_time: UnixTime
    trust_epoch: Count
    desired: Revision = 0
    reconnect_slot_s: Seconds = 0.0
    ratchet: Line = ""
    log: LogProof | None = None
