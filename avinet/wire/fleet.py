"""What operators read and write: the resources of the REST API, as `avictl` shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from avinet.wire.config import Config, ConfigState, ConfigVersion, DocumentVersion
from avinet.wire.expiry import EXPIRIES, Expiry
from avinet.wire.message import (
    Count,
    Fingerprint,
    Id,
    LabelKey,
    Labels,
    Line,
    Message,
    PublicKey,
    Revision,
    Seconds,
    UnixTime,
)
from avinet.wire.report import ExportState, ServerHealth, ServiceTraffic
from avinet.wire.rollout import Rollout

Cursor = Annotated[str, Meta(max_length=256)]
EngineState = Literal["expected", "enrolled", "revoked"]
EnrolmentPolicy = Literal["claim", "approve", "image"]


class EngineCreate(Message, frozen=True, kw_only=True):
    """Expect `count` service engines, or those named in `ids`, and let `driver` start them.

    With the driver `none` the claims are handed to the operator, who starts the service engines.
    """

    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    ids: Annotated[list[Id], Meta(max_length=1000)] = []
    prefix: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$(?!\n)")] = "se"
    labels: Labels = {}
    driver: Literal["none", "local"] = "local"
    image: Id | None = None


class Claimed(Message, frozen=True, kw_only=True):
    """A service engine that is expected now; `claim` is shown this once, and never with a driver."""

    id: Id
    generation: Count
    expires: UnixTime
    claim: str = ""


class EnginesCreated(Message, frozen=True, kw_only=True):
    """The answer to `EngineCreate`."""

    items: list[Claimed]


class Engine(Message, frozen=True, kw_only=True):
    """A service engine: what the domain remembers of it, and what its session and its reports say.

    `desired` is what it should run, `config` what it said it runs; `problem` says why it could not be made or
    brought to it. `connected_since` is None without a tunnel. `approved` is the key that it was let in with, until it
    has enrolled.
    """

    id: Id
    state: EngineState
    generation: Count
    labels: Labels = {}
    fingerprint: Fingerprint | None = None
    approved: Fingerprint | None = None
    host_key: str = ""
    image: str = ""
    driver: str = "none"
    created: UnixTime = 0.0
    enrolled: UnixTime | None = None
    connected_since: UnixTime | None = None
    address: str = ""
    version: str = ""
    dataplane: str = ""
    hostname: str = ""
    reported: UnixTime | None = None
    desired: ConfigVersion | None = None
    problem: str = ""
    config: ConfigState = ConfigState()
    servers_up: Count = 0
    servers_down: Count = 0
    health: list[ServerHealth] = []
    traffic: list[ServiceTraffic] = []
    lost_records: Count = 0
    exports: list[ExportState] = []


class EngineList(Message, frozen=True, kw_only=True):
    """A page of service engines; `next` asks for the page after it. Health and traffic are left out here."""

    items: list[Engine]
    next: Cursor = ""


class EnrolmentRules(Message, frozen=True, kw_only=True):
    """Who gets in, in the whole domain.

    Under `claim` it is whoever shows the claim that it was expected with, under `approve` also whom an operator lets in
    by its fingerprint, under `image` whoever has the image key: of each image `by_image` of them, and no more.
    `pending` requests may wait for an operator, of one source (an IPv4 address or IPv6 /64) `pending_from_one`; each
    for `pending_s`.
    """

    policy: EnrolmentPolicy = "claim"
    pending: Annotated[int, Meta(ge=1, le=1000)] = 256
    pending_from_one: Annotated[int, Meta(ge=1, le=1000)] = 32
    pending_s: Annotated[float, Meta(ge=60, le=31_536_000)] = 86400.0
    by_image: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000


class RulesChange(Message, frozen=True, kw_only=True):
    """What is to be different in `EnrolmentRules`; None leaves it."""

    policy: EnrolmentPolicy | None = None
    pending: Annotated[int, Meta(ge=1, le=1000)] | None = None
    pending_from_one: Annotated[int, Meta(ge=1, le=1000)] | None = None
    pending_s: Annotated[float, Meta(ge=60, le=31_536_000)] | None = None
    by_image: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class Pending(Message, frozen=True, kw_only=True):
    """A request that waits for an operator, or was `refused`; `source` is where it came from first."""

    id: Id
    generation: Count
    fingerprint: Fingerprint
    image: str
    source: str
    since: UnixTime
    hostname: str = ""
    management_address: str = ""
    version: str = ""
    refused: UnixTime | None = None


class PendingList(Message, frozen=True, kw_only=True):
    """All requests that wait, in the order of their ids."""

    items: list[Pending]


class Approval(Message, frozen=True, kw_only=True):
    """Let in the service engine with this key, and give it these labels."""

    fingerprint: Fingerprint
    labels: Labels = {}


class Rejection(Message, frozen=True, kw_only=True):
    """Keep the service engine with this key out."""

    fingerprint: Fingerprint


class Readmission(Message, frozen=True, kw_only=True):
    """Take these service engines, or `all`, as they come next: whatever secret they show with their next hello."""

    ids: Annotated[list[Id], Meta(max_length=1000)] = []
    all: bool = False


class Readmitted(Message, frozen=True, kw_only=True):
    """Of so many service engines a secret was known, and is not any more."""

    count: Count


class LabelChange(Message, frozen=True, kw_only=True):
    """Labels to set, and keys of labels to take away."""

    set: Labels = {}
    remove: Annotated[list[LabelKey], Meta(max_length=32)] = []


class EngineDelete(Message, frozen=True, kw_only=True):
    """How to let a service engine go: `drain_s` for its connections to end."""

    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0


class ImageBuild(Message, frozen=True, kw_only=True):
    """Build a bundle for the active image, or for a new one named `id`, whose key is good for `days`."""

    id: Id | None = None
    days: Annotated[int, Meta(ge=1, le=3650)] | None = None


class Image(Message, frozen=True, kw_only=True):
    """An image key that service engines may enrol with while it is active; `let_in` is how many it let in alone."""

    id: Id
    state: Literal["active", "retired"]
    fingerprint: Fingerprint
    not_after: UnixTime
    let_in: Count = 0


class ImageList(Message, frozen=True, kw_only=True):
    """All images."""

    items: list[Image]


class DocumentList(Message, frozen=True, kw_only=True):
    """Configuration documents in their current versions, or the versions of one; `rollouts` are those under way."""

    items: list[DocumentVersion]
    next: Cursor = ""
    rollouts: list[Rollout] = []


class DocumentApplied(Message, frozen=True, kw_only=True):
    """A document was stored as `version`; `service_engines` have a new desired configuration by it."""

    name: Id
    version: Count
    changed: bool
    service_engines: Count


class Compiled(Message, frozen=True, kw_only=True):
    """What one service engine should run, and what it said it runs."""

    id: Id
    desired: ConfigVersion | None
    config: Config | None = None
    state: ConfigState = ConfigState()


class CommandRun(Message, frozen=True, kw_only=True):
    """A command for one service engine; see `CommandResult` for the answer."""

    command: Id
    arguments: Annotated[list[Line], Meta(max_length=32)] = []
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0


class KeyAdmission(Message, frozen=True, kw_only=True):
    """Admit this key of the operator at a service engine, for 5 minutes."""

    public_key: PublicKey


class KeyAdmitted(Message, frozen=True, kw_only=True):
    """The key logs in as `user` until `expires`, at a server whose host key is `host_key`."""

    user: str
    host_key: PublicKey
    expires: UnixTime


class EngineCounts(Message, frozen=True, kw_only=True):
    """How many service engines there are, by what they are doing; `in_sync` run what they should, as far as is known.

    `acknowledged` are those of them that have said so through the tunnel that they have now, or since it is up.
    """

    expected: Count = 0
    enrolled: Count = 0
    revoked: Count = 0
    connected: Count = 0
    acknowledged: Count = 0
    in_sync: Count = 0
    refused: Count = 0


class Status(Message, frozen=True, kw_only=True):
    """The node and its fleet in one view. `longest_stall_s` is how long its loop did nothing else of late.

    `store_silent_s` is for how long its store has not answered: what is shown may have changed since then.
    `rollouts` are those that are under way. `expiries` are what the node and its domain live by, and the certificates
    of virtual services that expire. Of `certificates` in all, the private keys of `certificates_closed` cannot be
    opened.
    """

    node: Id
    domain: Id
    version: str
    started: UnixTime
    ssh: list[str]
    https: list[str]
    trust_epoch: Count
    expiries: Annotated[list[Expiry], Meta(max_length=EXPIRIES)] = []
    revision: Revision
    engines: EngineCounts
    servers_up: Count = 0
    servers_down: Count = 0
    certificates: Count = 0
    certificates_closed: Count = 0
    longest_stall_s: Seconds = 0.0
    store_silent_s: Seconds = 0.0
    rollouts: list[Rollout] = []


class Event(Message, frozen=True, kw_only=True):
    """One record of the audit log: number `seq`, of the change that made the store's `revision`."""

    seq: Count
    revision: Revision = 0
    time: UnixTime
    node: str
    kind: str
    source: str = ""
    id: str = ""
    generation: Count = 0
    image: str = ""
    fingerprint: str = ""
    outcome: str = ""
    notice: bool = False
    alarm: bool = False


class EventList(Message, frozen=True, kw_only=True):
    """Audit records in order; `next` asks for those after them. `seen` is the last that was looked at for this."""

    items: list[Event]
    next: Cursor = ""
    seen: Cursor = ""
