"""A service engine gets in, once: the real client and a node's real door, over TLS."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from avinet.aio import Tasks
from avinet.cloud.bundle import domain_bundle
from avinet.enrolment.client import Enrolment
from avinet.enrolment.door import BURST, PER_S, enrolment_routes
from avinet.enrolment.identity import Identity, user_data
from avinet.errors import Conflict, Forbidden, Gone, LocalError, Unauthenticated
from avinet.files import private_folder, write_atomic
from avinet.flow.allowance import Allowance
from avinet.rest.door import Door
from avinet.rest.table import Table
from avinet.store.sqlite import SQLiteStore
from avinet.trust import keys
from avinet.trust.document import sign_document
from avinet.trust.image import KEY, open_image, unpack_image
from avinet.trust.tls import ServerTLS
from avinet.wire.enrolment import Receipt
from avinet.wire.message import encode
from avinet.wire.trust import SignedTrust
from tests.enrolment.making import Office, document, domain
from tests.running import asynchronous


class EnrolmentTests(TestCase):
    def setUp(self) -> Any:
        return ensureDeferred(self.open())

    async def open(self) -> None:
        self.folder = Path(self.mktemp())
        private_folder(self.folder)
        store = SQLiteStore(reactor, self.folder / "store")
        self.addCleanup(lambda: ensureDeferred(store.close()))
        self.office = Office(store)
        await self.office.admit_image()
        tls = ServerTLS(domain().server, [domain().issuing.certificate])
        endpoint = SSL4ServerEndpoint(reactor, 0, tls, interface="127.0.0.1")
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)
        port = await endpoint.listen(Door(reactor, Table(self.routes()), tasks=self.tasks))
        self.addCleanup(port.stopListening)
        self.office.document = document(f"127.0.0.1:{port.getHost().port}")
        first = domain().first_image
        bundle = domain_bundle(
            self.office.document,
            domain().issuing,
            image=first.id,
            image_key=first.key,
            not_after=first.not_after,
            built=domain().created,
        )
        self.image = open_image(bundle)

    def routes(self) -> Any:
        def trust() -> SignedTrust:
            text = encode(self.office.document)
            issuing = domain().issuing
            return SignedTrust(
                document=text.decode(),
                signature=sign_document(text, issuing),
                issuer=issuing.certificate_pem.decode(),
            )

        def signer() -> Any:
            return domain().server.key, [domain().server.certificate, domain().issuing.certificate]

        return enrolment_routes(
            self.office.registrar,
            trust=trust,
            nonce_key=domain().nonce_key,
            signer=signer,
            now=self.office.now,
            allowance=Allowance(self.office.now, burst=BURST, per_s=PER_S),
        )

    def boot(self, name: str, id: str, claim: str, generation: int = 1) -> Identity:
        """An instance called `name` that was told to be `id`."""
        folder = private_folder(self.folder / name)
        unpack_image(self.image, private_folder(folder / "image"))
        write_atomic(folder / "user-data.json", user_data(id, generation, claim))
        return self.restart(name)

    def restart(self, name: str) -> Identity:
        folder = self.folder / name
        return Identity(folder / "state", folder / "image", folder / "user-data.json")

    async def enrol(self, identity: Identity) -> Receipt:
        return await Enrolment(reactor, identity, now=self.office.now, random=lambda: 0.0).run()

    async def refused(self, identity: Identity, error: type[Exception]) -> str:
        before = await self.record(identity.booted().user_data.id)
        try:
            await self.enrol(identity)
        except error as refusal:
            self.assertEqual(await self.record(identity.booted().user_data.id), before)
            return str(refusal)
        raise AssertionError("it was enrolled")

    async def record(self, id: str) -> Any:
        entries = (await self.office.store.read([b"engine/" + id.encode()])).entries
        return [entry.value for entry in entries.values()]

    @asynchronous
    async def test_it_enrols_and_keeps_a_receipt(self) -> None:
        identity = self.boot("a", "se-1", await self.office.expect("se-1"))
        receipt = await self.enrol(identity)
        self.assertEqual((receipt.id, receipt.generation, receipt.fingerprint), ("se-1", 1, identity.fingerprint))
        self.assertEqual(receipt.nodes, self.office.document.nodes)
        self.assertEqual(self.restart("a").receipt, receipt)
        self.assertEqual([each.outcome for each in await self.office.events()][-1], "enrolled")

    @asynchronous
    async def test_claim_and_image_key_are_wiped(self) -> None:
        identity = self.boot("a", "se-1", await self.office.expect("se-1"))
        await self.enrol(identity)
        self.assertFalse((self.folder / "a" / "image" / KEY).exists())
        self.assertFalse((self.folder / "a" / "user-data.json").exists())
        with self.assertRaises(LocalError):
            identity.booted()

    @asynchronous
    async def test_the_claim_is_stored_nowhere_on_the_node(self) -> None:
        claim = await self.office.expect("se-1")
        self.assertNotIn(claim.encode(), b"".join(await self.record("se-1")))
        await self.enrol(self.boot("a", "se-1", claim))
        self.assertNotIn(claim.encode(), b"".join(await self.record("se-1")))

    async def lose_the_reply(self, identity: Identity) -> bytes:
        """Enrol, and forget what came of it, as when the power goes before the reply is on the disk; the receipt."""
        folder = self.folder / "a"
        user_data = (folder / "user-data.json").read_bytes()
        await self.enrol(identity)
        receipt = (folder / "state" / "receipt.json").read_bytes()
        (folder / "state" / "receipt.json").unlink()
        write_atomic(folder / "user-data.json", user_data)
        unpack_image(self.image, folder / "image")
        return receipt

    @asynchronous
    async def test_a_lost_reply_is_asked_for_again(self) -> None:
        """(E3)"""
        identity = self.boot("a", "se-1", await self.office.expect("se-1"))
        first = await self.lose_the_reply(identity)
        revision = await self.revision()
        self.office.time += 7200
        await self.enrol(self.restart("a"))
        self.assertEqual((self.folder / "a" / "state" / "receipt.json").read_bytes(), first)
        self.assertEqual(await self.revision(), revision)

    async def revision(self) -> int:
        return (await self.office.store.read([b"engine/"])).revision

    @asynchronous
    async def test_nothing_is_wiped_before_the_receipt_is_durable(self) -> None:
        identity = self.boot("a", "se-1", await self.office.expect("se-1"))
        obstacle = self.folder / "a" / "state" / "receipt.json"
        obstacle.mkdir()

        def wait() -> float:
            self.assertTrue((self.folder / "a" / "image" / KEY).exists())
            self.assertTrue((self.folder / "a" / "user-data.json").exists())
            obstacle.rmdir()
            return 0.0

        receipt = await Enrolment(reactor, identity, now=self.office.now, random=wait).run()
        self.assertEqual(self.restart("a").receipt, receipt)
        self.assertFalse((self.folder / "a" / "user-data.json").exists())

    @asynchronous
    async def test_another_key_for_an_enrolled_id_is_refused_with_one_alarm(self) -> None:
        """(E4)"""
        claim = await self.office.expect("se-1")
        await self.enrol(self.boot("a", "se-1", claim))
        clone = self.boot("b", "se-1", claim)
        said = await self.refused(clone, Conflict)
        self.assertIn("not permitted", said)
        await self.refused(clone, Conflict)
        self.assertEqual(await self.office.alarms(), ["enrolled-twice"])

    @asynchronous
    async def test_a_wrong_claim_proves_nothing(self) -> None:
        await self.office.expect("se-1")
        said = await self.refused(self.boot("a", "se-1", "w" * 32), Unauthenticated)
        self.assertIn("answered 401 Unauthorized: the claim or the image key", said)

    @asynchronous
    async def test_the_claim_of_another_id_proves_nothing(self) -> None:
        """(E4)"""
        await self.office.expect("se-1")
        await self.refused(self.boot("a", "se-1", await self.office.expect("se-2")), Unauthenticated)

    @asynchronous
    async def test_an_expired_claim_is_gone(self) -> None:
        """(E4)"""
        identity = self.boot("a", "se-1", await self.office.expect("se-1", claim_s=600))
        self.office.time += 601
        self.assertIn("expired", await self.refused(identity, Gone))

    @asynchronous
    async def test_an_id_that_nobody_expects_is_gone(self) -> None:
        await self.refused(self.boot("a", "se-9", "c" * 32), Gone)

    @asynchronous
    async def test_another_generation_is_gone(self) -> None:
        """(E4)"""
        await self.refused(self.boot("a", "se-1", await self.office.expect("se-1"), generation=2), Gone)

    @asynchronous
    async def test_a_revoked_service_engine_is_gone(self) -> None:
        identity = self.boot("a", "se-1", await self.office.expect("se-1"))
        await self.office.engines.revoke("se-1", "operator")
        await self.refused(identity, Gone)

    @asynchronous
    async def test_a_retired_image_is_forbidden(self) -> None:
        identity = self.boot("a", "se-1", await self.office.expect("se-1"))
        await self.office.engines.retire_image(domain().first_image.id, "operator")
        await self.refused(identity, Forbidden)

    @asynchronous
    async def test_a_retry_gets_its_receipt_though_the_image_was_retired_meanwhile(self) -> None:
        identity = self.boot("a", "se-1", await self.office.expect("se-1"))
        await self.lose_the_reply(identity)
        await self.office.engines.retire_image(domain().first_image.id, "operator")
        self.assertEqual((await self.enrol(self.restart("a"))).fingerprint, identity.fingerprint)

    @asynchronous
    async def test_the_key_of_another_service_engine_is_refused(self) -> None:
        """(E6)"""
        await self.enrol(self.boot("a", "se-1", await self.office.expect("se-1")))
        self.boot("b", "se-2", await self.office.expect("se-2"))
        stolen = (self.folder / "a" / "state" / "se_ed25519_key").read_bytes()
        write_atomic(self.folder / "b" / "state" / "se_ed25519_key", stolen)
        await self.refused(self.restart("b"), Conflict)
        self.assertEqual(await self.office.alarms(), ["key-of-another"])

    @asynchronous
    async def test_of_a_hundred_claimants_one_is_enrolled(self) -> None:
        claim = await self.office.expect("se-1")
        claimants = [self.boot(f"c{number}", "se-1", claim) for number in range(100)]
        results = await gatherResults([ensureDeferred(self.outcome(each)) for each in claimants])
        enrolled = [each for each in results if isinstance(each, Receipt)]
        self.assertEqual(len(enrolled), 1)
        self.assertEqual({type(each) for each in results}, {Receipt, Conflict})
        [record] = await self.record("se-1")
        self.assertEqual(json.loads(record)["fingerprint"], enrolled[0].fingerprint)
        self.assertEqual([each.outcome for each in await self.office.events()].count("enrolled"), 1)
        owned = await self.office.store.range(b"key/")
        self.assertEqual([entry.value for entry in owned.entries], [b"se-1"])

    async def outcome(self, identity: Identity) -> Any:
        try:
            return await self.enrol(identity)
        except Conflict as refusal:
            return refusal

    @asynchronous
    async def test_a_wrong_clock_keeps_nobody_out(self) -> None:
        """(E9)"""
        for name, clock in (("past", 0.0), ("future", datetime(2100, 1, 1, tzinfo=UTC).timestamp())):
            identity = self.boot(name, f"se-{name}", await self.office.expect(f"se-{name}"))
            with capturedLogs() as logged:
                await Enrolment(reactor, identity, now=lambda clock=clock: clock, random=lambda: 0.0).run()
            self.assertIn("the clock of this machine is wrong", " ".join(each["log_format"] for each in logged))
            self.assertEqual(keys.public_line(identity.key), keys.public_line(self.restart(name).key))
