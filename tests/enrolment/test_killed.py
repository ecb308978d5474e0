"""A node is killed between any two steps of an enrolment: the service engine tries again, and there is one receipt (I6)."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.cloud.bundle import domain_bundle
from avinet.enrolment.client import Enrolment
from avinet.enrolment.engines import Engines
from avinet.enrolment.identity import Identity, user_data
from avinet.enrolment.pending import PendingRequests
from avinet.enrolment.records import EngineRecord, ImageRecord
from avinet.files import private_folder, write_atomic
from avinet.store.sqlite import SQLiteStore
from avinet.trust import keys
from avinet.trust.domain import found
from avinet.trust.image import open_image, unpack_image
from avinet.wire.fleet import EnrolmentPolicy, RulesChange
from demo.machine import ROOT
from tests.enrolment.killed import document
from tests.running import asynchronous, eventually, free_port

POINTS = 40
"""More than an enrolment has."""


class KilledTests(TestCase):
    @override
    def setUp(self) -> None:
        self.folder = private_folder(Path(self.mktemp()))
        self.port = free_port()
        self.domain = found(self.folder / "trust", "node-1", datetime.now(UTC))
        first = self.domain.first_image
        self.image = open_image(
            domain_bundle(
                document(self.domain, self.port),
                self.domain.issuing,
                image=first.id,
                image_key=first.key,
                not_after=first.not_after,
                built=self.domain.created,
            )
        )
        self.node: subprocess.Popen[str] | None = None
        self.addCleanup(self.end)

    def start(self, point: int) -> None:
        """A node that kills itself at this point; 0 for one that does not."""
        command = [sys.executable, "-m", "tests.enrolment.killed", str(self.folder.absolute()), str(self.port)]
        self.node = subprocess.Popen([*command, str(point)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.node.stdout is not None
        self.assertEqual(self.node.stdout.readline(), "ready\n")

    def end(self) -> None:
        if self.node is not None:
            self.node.kill()
            self.node.wait()
            assert self.node.stdout is not None
            self.node.stdout.close()

    async def in_store(self, work: Any) -> Any:
        store = SQLiteStore(reactor, self.folder / "store.sqlite")
        try:
            return await work(store, Engines(store, "node-1", time.time))
        finally:
            await store.close()

    def identity(self, id: str, claim: str) -> Identity:
        place = private_folder(self.folder / id)
        if not (place / "image").exists():
            unpack_image(self.image, private_folder(place / "image"))
            if claim:
                write_atomic(place / "user-data.json", user_data(id, 1, claim))
        return Identity(place / "state", place / "image", place / "user-data.json", id)

    async def killed_at(self, point: int, id: str, claim: str) -> bool:
        """Enrol while the node is killed at this point, and started again; False when it came through before that."""
        self.start(point)
        identity = self.identity(id, claim)
        enrolment = Enrolment(reactor, identity, now=time.time, random=lambda: 0.2)
        running = as_deferred(enrolment.run())
        node = self.node
        assert node is not None
        await eventually("it is killed, or done", lambda: running.called or node.poll() is not None)
        killed = node.poll() is not None
        if killed:
            self.end()
            self.start(0)
        receipt = await running
        self.end()
        record, events = await self.in_store(lambda store, engines: self.remembered(store, id))
        self.assertEqual((record.state, record.fingerprint), ("enrolled", identity.fingerprint))
        self.assertEqual(record.receipt.encode(), (self.folder / id / "state" / "receipt.json").read_bytes())
        self.assertEqual(receipt.fingerprint, identity.fingerprint)
        self.assertEqual(events, 1)
        return killed

    async def remembered(self, store: SQLiteStore, id: str) -> tuple[EngineRecord, int]:
        """What the store has of a service engine, and how often it says that it has enrolled."""
        entry = (await store.read([b"engine/" + id.encode()])).entries[b"engine/" + id.encode()]
        found = [entry.value for entry in (await store.range(b"audit/")).entries]
        enrolled = [each for each in found if b'"enrolled' in each and f'"id":"{id}"'.encode() in each]
        return msgspec.json.decode(entry.value, type=EngineRecord), len(enrolled)

    async def everywhere(self, policy: EnrolmentPolicy) -> int:
        """Kill it at each point in turn; how many there were."""
        first = self.domain.first_image

        async def prepare(store: SQLiteStore, engines: Engines) -> list[str]:
            record = ImageRecord(id=first.id, public_key=keys.public_line(first.key), not_after=first.not_after)
            await engines.add_image(record, "operator")
            rules = PendingRequests(store, "node-1", time.time)
            await rules.change_rules(RulesChange(policy=policy), "operator")
            if policy != "claim":
                return [""] * POINTS
            ids = [f"se-{point}" for point in range(POINTS)]
            expected = await engines.expect(ids, "operator", labels={}, driver="none", claim_s=3600)
            return [each.claim for each in expected]

        claims = await self.in_store(prepare)
        for point in range(1, POINTS):
            if not await self.killed_at(point, f"se-{point}", claims[point]):
                return point - 1
        raise AssertionError("an enrolment has no end")

    @asynchronous
    async def test_with_a_claim(self) -> None:
        self.assertGreaterEqual(await self.everywhere("claim"), 4)

    @asynchronous
    async def test_by_the_image_alone(self) -> None:
        self.assertGreaterEqual(await self.everywhere("image"), 6)
