"""A fleet as a node tells it."""

from __future__ import annotations

import msgspec

from avinet.wire.answer import AnswerColumn, Complete, GapsOf, GapsThere, LogAnswer
from avinet.wire.certificates import (
    Certificate,
    CertificateEarlier,
    CertificateList,
    CertificateStored,
    CertificateUse,
    Resealed,
)
from avinet.wire.config import (
    Config,
    ConfigState,
    ConfigVersion,
    Document,
    DocumentVersion,
    Pool,
    Server,
    VirtualService,
)
from avinet.wire.expiry import Expiry
from avinet.wire.fleet import (
    Claimed,
    DocumentApplied,
    DocumentList,
    Engine,
    EngineCounts,
    EngineList,
    EnginesCreated,
    EnrolmentRules,
    Event,
    EventList,
    Image,
    ImageList,
    Pending,
    PendingList,
    Readmitted,
    Status,
)
from avinet.wire.jobs import Job, JobEnded, JobList, JobOutput, JobSeen, JobStarted
from avinet.wire.log_pulls import LogPull, LogPullOrder, LogPullSeen, PulledEngine
from avinet.wire.pull import Span
from avinet.wire.query import Measure, Series
from avinet.wire.report import ExportState, Histogram, ServerHealth, ServiceTraffic
from avinet.wire.rollout import Rollout, RolloutFailure, RolloutList, RolloutPlan
from avinet.wire.rollups import RollupPoint, Rollups, RollupSeries
from avinet.wire.saved_query import LogQuestion, SavedQuery, SavedQueryList, When
from avinet.wire.significant import SeenHeldBack
from avinet.wire.succession import NodeKeys, RootCA, RootList, Succession

CHAIN = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n"
TIME = 1_800_000_000.0
FINGERPRINT = "SHA256:" + "a" * 43
VERSION = ConfigVersion(revision=7, sha256="0" * 64)
STATUS = Status(
    node="node-1",
    domain="d1",
    version="0.1.0",
    started=TIME,
    ssh=["0.0.0.0:22"],
    https=["0.0.0.0:8443"],
    trust_epoch=1,
    expiries=[
        Expiry(kind="node-certificate", name="node-1", not_after=4_000_000_000.0),
        Expiry(kind="issuing-ca", name="ab12ab12ab12ab12", not_after=4_000_000_000.0),
        Expiry(kind="root-ca", name="cd34cd34cd34cd34", not_after=4_000_000_000.0),
    ],
    revision=9,
    engines=EngineCounts(enrolled=1, connected=1, in_sync=1),
    servers_up=1,
)
ENGINE = Engine(
    id="se-1",
    state="enrolled",
    generation=1,
    labels={"site": "paris"},
    fingerprint=FINGERPRINT,
    host_key="ssh-ed25519 " + "A" * 68,
    desired=VERSION,
    config=ConfigState(applied=VERSION),
    health=[ServerHealth(pool="web", server="blue", state="down", since=TIME, why="L4CON Connection refused")],
    exports=[
        ExportState(
            name="soc",
            kind="syslog",
            what="all",
            sent=12,
            waiting_bytes=2048,
            lost={"full": 7},
            unknown=1,
            problem="away",
        )
    ],
    traffic=[ServiceTraffic(name="shop", requests=5, status={"2xx": 5}, latency=Histogram(buckets=[(300, 5)]))],
)
DOCUMENT = Document(
    name="web",
    virtual_services=[VirtualService(name="shop", port=8080, pool="web")],
    pools=[Pool(name="web", servers=[Server(name="blue", address="127.0.0.1", port=8001)])],
)
CONFIG = Config(virtual_services=DOCUMENT.virtual_services, pools=DOCUMENT.pools)
DOCUMENT_VERSION = DocumentVersion(name="web", version=3, author="ann", time=TIME, document=DOCUMENT)
ENGINES = EngineList(items=[ENGINE])
DOCUMENTS = DocumentList(items=[DOCUMENT_VERSION])
ROLLOUT = Rollout(
    name="web",
    version=3,
    former=2,
    state="running",
    phase="observing",
    author="ann",
    by="node-1",
    started=TIME,
    changed=TIME,
    batch=2,
    batches=4,
    targets=100,
    opened=10,
    well=8,
    waiting=1,
    failed=1,
    failures=[RolloutFailure(id="se-1", why="server web/blue is down")],
    plan=RolloutPlan(max_failed=1),
    tag="t1",
)
ROLLOUTS = RolloutList(items=[ROLLOUT])
IMAGE = Image(id="image-1", state="active", fingerprint=FINGERPRINT, not_after=TIME)
IMAGES = ImageList(items=[IMAGE])
PENDING = Pending(
    id="edge-1", generation=1, fingerprint=FINGERPRINT, image="image-1", source="10.0.0.9", since=TIME, hostname="edge"
)
WAITING = PendingList(items=[PENDING])
CERTIFICATE = Certificate(
    name="shop",
    version=3,
    names=["shop.example.com"],
    subject="CN=shop.example.com",
    issuer="CN=Test CA",
    not_before=TIME,
    not_after=TIME + 1e7,
    fingerprint="ab" * 32,
    kind="ECDSA secp256r1",
    certificates=2,
    author="ann",
    time=TIME,
    earlier=[CertificateEarlier(version=2, fingerprint="cd" * 32, not_after=TIME, author="bob", time=TIME)],
    used_by=[CertificateUse(document="web", virtual_services=["shop-tls"])],
    needed=2,
    held=1,
    holders=["se-1"],
)
CERTIFICATES = CertificateList(items=[CERTIFICATE])
STORED = CertificateStored(name="shop", version=3, changed=True, service_engines=2)
RESEALED = Resealed(certificates=4, closed=1)
JOB = Job(
    id="0000000000001-abc",
    command="ping",
    operator="ann",
    state="done",
    created=TIME,
    finished=TIME,
    targets=1,
    ended=1,
)
JOBS = JobList(items=[JOB])
READMITTED = Readmitted(count=3)
ROOTS = RootList(
    items=[
        RootCA(fingerprint="ab12" * 16, state="in-use", not_before=TIME, not_after=TIME + 1e8, since=1, acknowledged=1)
    ],
    epoch=1,
    enrolled=3,
)
STEP = Succession(done=False, waiting=1, ids=["se-1"], until=TIME)
NODE_KEYS = NodeKeys(
    node="node-1",
    ssh_host_key=FINGERPRINT,
    avictlruser_key=FINGERPRINT,
    next_ssh_host_key="SHA256:" + "b" * 43,
    acknowledged=2,
    enrolled=3,
)
RULES = EnrolmentRules(policy="approve")
ROLLUPS = Rollups(
    since=TIME,
    until=TIME + 240,
    step_s=60,
    resolution_s=10,
    latest=TIME + 240,
    series=[
        RollupSeries(
            virtual_service="shop",
            pool="web",
            server="blue",
            total=RollupPoint(
                time=TIME,
                reports=18,
                requests=90,
                requests_per_s=0.75,
                errors=9,
                status={"2xx": 81, "5xx": 9},
                bytes_out=3_000_000,
                p99_s=0.1234,
            ),
            points=[
                RollupPoint(time=TIME, reports=6, requests=60, requests_per_s=1.0, p99_s=0.1234),
                RollupPoint(time=TIME + 120, reports=6, requests=30, requests_per_s=0.5, errors=9, p99_s=0.1),
                RollupPoint(time=TIME + 180, reports=6),
            ],
        )
    ],
    left_out=2,
)
EVENTS = EventList(
    items=[Event(seq=1, time=TIME, node="node-1", kind="enrolment", id="se-1", outcome="enrolled", source="10.0.0.9")]
)
CREATED = EnginesCreated(items=[Claimed(id="se-1", generation=1, expires=TIME, claim="c" * 22)])
APPLIED = DocumentApplied(name="web", version=3, changed=True, service_engines=2)
RUN = [
    JobSeen(job=msgspec.structs.replace(JOB, state="running", ended=0, finished=None)),
    JobStarted(id="se-1"),
    JobOutput(id="se-1", text="pong from se-1\n"),
    JobEnded(number=1, id="se-1", outcome="done", exit_status=0),
    JobSeen(job=JOB),
]
LOG_PULL = LogPull(
    id="0000000000001-abc",
    operator="ann",
    node="node-1",
    order=LogPullOrder(ids=["se-1", "se-2"]),
    state="done",
    created=TIME,
    finished=TIME + 4,
    targets=2,
    ended=2,
    failed=1,
    segments=12,
    here=11,
    archived=9,
    size=12 * 1024 * 1024,
    there_bytes=11 * 1024 * 1024,
    bytes=8 * 1024 * 1024,
)
LOG_PULL_SEEN = LogPullSeen(
    pull=LOG_PULL,
    engines=[
        PulledEngine(id="se-1", state="done", segments=6, here=6, missing_records=7, missing=[Span(first=3, last=9)]),
        PulledEngine(id="se-2", state="failed", why="its SHA-256 is another", segments=6, here=5, refused=1),
    ],
)
LOG_ANSWER = LogAnswer(
    columns=[AnswerColumn(name="requests", kind="int"), AnswerColumn(name="p99_total_ms", kind="float")],
    rows=[[270, 48.94]],
    complete=Complete(
        gaps=GapsThere(
            gaps=3,
            records=29,
            unknown=1,
            from_ms=1_800_000_000_000,
            to_ms=1_800_000_000_250,
            reasons=[GapsOf(reason="crash", gaps=1, unknown=1), GapsOf(reason="full", gaps=2, records=29)],
        ),
        nothing_of=["se-2", "se-3"],
        without=2,
        damaged=1,
    ),
    segments=2,
    took_ms=15,
)
SLOW = Series(bucket_s=60, measures=[Measure(of="percentile", column="total_ms", quantile=0.99)])
SAVED_QUERY = SavedQuery(
    name="slow",
    version=3,
    author="ann",
    time=TIME,
    question=LogQuestion(since=When(ago_ms=7_200_000), selector="site=paris", get=SLOW),
)
SAVED_QUERIES = SavedQueryList(items=[SAVED_QUERY])
HELD_BACK = SeenHeldBack(id="se-1", received=TIME, service="web", reason="throttle", records=90)
