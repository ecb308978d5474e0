"""What a node makes of a request that somebody has changed on the way (E4-E6), and of races between well-made ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver
from http_message_signatures.algorithms import ECDSA_P256_SHA256
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.enrolment.challenge import new_nonce
from avinet.enrolment.records import ImageRecord, image_key, put_record
from avinet.errors import Forbidden, Gone, Unauthenticated, Unavailable
from avinet.rest.route import Request
from avinet.store.interface import Snapshot, Transaction
from avinet.trust import keys, signatures
from avinet.trust.signatures import BY_ENGINE, BY_IMAGE, Kind, SignedRequest
from avinet.wire.enrolment import Receipt
from avinet.wire.message import decode
from tests.enrolment import verifier
from tests.enrolment.making import Newborn, Office, domain
from tests.store.memory import MemoryStore

COVERED = BY_IMAGE.covered
Change = Callable[[Request], Request]


def headers(asked: Request, **changes: str | None) -> Request:
    """The request with some headers changed (`_` stands for `-`), or taken away by None."""
    new = dict(asked.headers) | {name.replace("_", "-"): value for name, value in changes.items()}
    return replace(asked, headers={name: value for name, value in new.items() if value is not None})


def swapped(text: str, one: str, other: str) -> str:
    return text.replace(one, "\0").replace(other, one).replace("\0", other)


def edited(*edits: tuple[str, str]) -> Change:
    """Edits of `signature-input`, all of which must match."""

    def change(asked: Request) -> Request:
        field = asked.headers["signature-input"]
        for old, new in edits:
            assert old in field, (old, field)
            field = field.replace(old, new)
        return headers(asked, signature_input=field)

    return change


def digest(body: bytes, name: str = "sha-256") -> str:
    return f"{name}=:{base64.b64encode(hashlib.new(name.replace('-', ''), body).digest()).decode()}:"


class RegistrarTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore(Clock())
        self.office = Office(self.store)
        self.result(self.office.admit_image())
        self.claim = self.result(self.office.expect("se-1"))
        self.se = Newborn("se-1", self.claim)

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def enrol(self, asked: Request) -> tuple[bool, bytes]:
        return self.result(self.office.registrar.enrol(asked))

    def refused(self, asked: Request, error: type[Exception] = Unauthenticated, what: str = "") -> str:
        """Why it is refused; nothing changes."""
        before, results = self.store.revision, []
        as_deferred(self.office.registrar.enrol(asked)).addBoth(results.append)
        [failure] = results
        if not isinstance(failure, Failure):
            self.fail(f"it was enrolled: {what}")
        self.assertIsInstance(failure.value, error, f"{what}: {failure.getTraceback()}")
        self.assertEqual(self.store.revision, before, what)
        return str(failure.value)

    def signed_as(self, *signers: tuple[Kind, Any, str], **options: Any) -> Request:
        """A request with these signatures instead of the two that belong there."""
        now = options.pop("now", self.office.time)
        body = self.se.message(options.setdefault("nonce", new_nonce(domain().nonce_key, self.office.time)))
        message = self.se.unsigned()
        for kind, key, keyid in signers:
            signatures.sign(message, body, kind, key, keyid, now=now, **options)
        return self.se.request(message, body)

    def test_a_well_signed_request_is_enrolled_and_its_replay_changes_nothing(self) -> None:
        """(E1)"""
        asked = self.se.signed(self.office.time)
        first, receipt = self.enrol(asked)
        revision = self.store.revision
        again = {self.enrol(asked) for _ in range(100)}
        self.assertTrue(first)
        self.assertEqual((again, self.store.revision), ({(False, receipt)}, revision))
        self.assertEqual(decode(receipt, Receipt, limit_bytes=10**6).fingerprint, self.se.fingerprint)

    def test_a_part_that_was_changed_on_the_way(self) -> None:
        other = Newborn("se-1", self.claim)
        for what, change in {
            "method": lambda asked: replace(asked, method="PUT"),
            "authority": lambda asked: replace(asked, authority=f"node-2.{domain().id}.avinet.internal:8443"),
            "port": lambda asked: replace(asked, authority=f"{domain().name}:9443"),
            "path": lambda asked: replace(asked, target=asked.target.replace("se-1", "se-2")),
            "id in the path": lambda asked: replace(asked, arguments={"id": "se-2"}),
            "content-type": lambda asked: headers(asked, content_type="text/plain"),
            "no content-type": lambda asked: headers(asked, content_type=None),
            "content-digest": lambda asked: headers(asked, content_digest=digest(b"another body")),
            "no content-digest": lambda asked: headers(asked, content_digest=None),
            "body": lambda asked: replace(asked, body=asked.body.replace(b"se-1", b"se-2")),
            "space in the body": lambda asked: replace(asked, body=asked.body + b" "),
            "body and digest": lambda asked: headers(
                replace(asked, body=asked.body + b" "), content_digest=digest(asked.body + b" ")
            ),
            "no body": lambda asked: replace(asked, body=b""),
            "another's signatures": lambda asked: headers(
                asked, signature=other.signed(self.office.time).headers["signature"]
            ),
            "no signature": lambda asked: headers(asked, signature=None, signature_input=None),
            "no signature value": lambda asked: headers(asked, signature=None),
            "no signature input": lambda asked: headers(asked, signature_input=None),
            "empty": lambda asked: headers(asked, signature="", signature_input=""),
        }.items():
            self.refused(change(self.se.signed(self.office.time)), what=what)

    def test_a_signature_field_that_was_edited(self) -> None:
        path = f"/v1/service-engines/{self.se.id}/enrolment"
        cases: dict[str, Change] = {
            "labels swapped": lambda asked: headers(
                asked,
                signature=swapped(asked.headers["signature"], "img=", "se="),
                signature_input=swapped(asked.headers["signature-input"], "img=", "se="),
            ),
            "values swapped": lambda asked: headers(
                asked, signature=swapped(asked.headers["signature"], "img=", "se=")
            ),
            "tags swapped": edited(("avinet-enrol", "\0"), (BY_ENGINE.tag, "avinet-enrol"), ("\0", BY_ENGINE.tag)),
            "no tag": edited((';tag="avinet-enrol"', "")),
            "no created": edited((f";created={int(self.office.time)}", "")),
            "no expires": edited((f";expires={int(self.office.time) + 120}", "")),
            "created as text": edited((f"created={int(self.office.time)}", f'created="{int(self.office.time)}"')),
            "created without end": edited((f"created={int(self.office.time)}", "created=" + "9" * 15)),
            "created negative": edited((f"created={int(self.office.time)}", "created=-1")),
            "alg none": edited((";tag", ';alg="none";tag')),
            "alg hmac": edited((";tag", ';alg="hmac-sha256";tag')),
            "alg is no text": edited((";tag", ";alg=1;tag")),
            "keyid is no text": edited((f'keyid="{self.se.image}"', "keyid=1")),
            "keyid is bytes": edited((f'keyid="{self.se.image}"', "keyid=:AAAA:")),
            "no keyid": edited((f';keyid="{self.se.image}"', "")),
            "nonce is no text": edited((';nonce="', ';nonce=1;x="')),
            "an unknown parameter": edited((";tag", ";extra=1;tag")),
            "a third label": edited(("img=(", "img2=(), img=(")),
            "a label twice": edited(("img=(", "img=(), img=(")),
            "no list": edited(('("@method"', '"@method", x=("@method"')),
            "a component twice": edited(('"@method"', '"@method" "@method"')),
            "an unknown component": edited(('"@method"', '"@method" "@nonsense"')),
            "a parameter on a derived component": edited(('"@method"', '"@method";foo')),
            "a parameter on @path": edited(('"@path"', '"@path";key="x"')),
            "a query parameter without name": edited(('"@method"', '"@method" "@query-param"')),
            "a query parameter of another type": edited(('"@method"', '"@method" "@query-param";name=1')),
            "the request of a request": edited(('"@method"', '"@method";req')),
            "the status of a request": edited(('"@method"', '"@method" "@status"')),
            "a bs component": edited(('"content-type"', '"content-type";bs')),
            "a key of no dictionary": edited(('"content-type"', '"content-type";key="a"')),
            "a tr component": edited(('"content-type"', '"content-type";tr')),
            "a component that is a number": edited(('"@method"', '1 "@method"')),
            "a component that is bytes": edited(('"@method"', ':AAAA: "@method"')),
            "a component in capitals": edited(('"content-type"', '"Content-Type"')),
            "@signature-params covers itself": edited(('"@method"', '"@method" "@signature-params"')),
            "not structured": lambda asked: headers(asked, signature_input="img=((((", signature="img=::::"),
            "not ASCII": lambda asked: headers(asked, signature_input=asked.headers["signature-input"] + "\xe9"),
            "signature not ASCII": lambda asked: headers(asked, signature=asked.headers["signature"] + "\xe9"),
            "signature is no bytes": lambda asked: headers(asked, signature="img=1, se=2"),
            "signature is text": lambda asked: headers(asked, signature='img="a", se="b"'),
            "signature is a list": lambda asked: headers(asked, signature="img=(:AAAA:), se=(:AAAA:)"),
            "signature is short": lambda asked: headers(asked, signature="img=:AAAA:, se=:AAAA:"),
            "digest by MD5": lambda asked: headers(asked, content_digest=digest(asked.body, "md5")),
            "two digests": lambda asked: headers(
                asked, content_digest=asked.headers["content-digest"] + ", " + digest(b"x", "sha-512")
            ),
            "digest not structured": lambda asked: headers(asked, content_digest="sha-256=((("),
            "digest is text": lambda asked: headers(asked, content_digest='sha-256="a"'),
            "a target with a query": lambda asked: replace(asked, target=path + "?a=b"),
            "an absolute target": lambda asked: replace(asked, target=f"https://{asked.authority}{path}"),
            "a target with a broken escape": lambda asked: replace(asked, target=path + "%zz"),
            "an authority with a user": lambda asked: replace(asked, authority=f"{domain().name}:a@b"),
            "an authority with another port": lambda asked: replace(asked, authority=f"{domain().name}:99999999"),
            "an authority with a port that is none": lambda asked: replace(asked, authority=f"{domain().name}:[]"),
            "no authority": lambda asked: replace(asked, authority=""),
        }
        for what, change in cases.items():
            self.refused(change(self.se.signed(self.office.time)), what=what)

    def test_a_header_that_stands_twice(self) -> None:
        for name in ("signature", "signature-input", "content-digest", "content-type", "host"):
            asked = replace(self.se.signed(self.office.time), repeated=frozenset({name}))
            self.refused(asked, what=name)

    def test_a_component_that_is_not_covered(self) -> None:
        for missing in COVERED:
            covered = tuple(each for each in COVERED if each != missing)
            for kind in (BY_IMAGE, BY_ENGINE):
                body = self.se.message(nonce := new_nonce(domain().nonce_key, self.office.time))
                message = self.se.unsigned()
                message.headers["content-digest"] = digest(body)
                for each, key, keyid in self.se.signers():
                    signer = HTTPMessageSigner(
                        signature_algorithm=each.algorithm,
                        key_resolver=MappingKeyResolver(public_keys={}, private_keys={keyid: key}),
                    )
                    signer.sign(
                        message,
                        key_id=keyid,
                        created=datetime.fromtimestamp(int(self.office.time), UTC),
                        expires=datetime.fromtimestamp(int(self.office.time) + 60, UTC),
                        nonce=nonce,
                        label=each.label,
                        tag=each.tag,
                        covered_component_ids=covered if each == kind else COVERED,
                        append_if_signature_exists=True,
                        use_existing_digest=True,
                    )
                message.headers = {name.lower(): value for name, value in message.headers.items()}
                self.refused(self.se.request(message, body), what=f"{kind.label} without {missing}")

    def test_a_signature_with_another_tag_or_label(self) -> None:
        image, engine = self.se.signers()
        other = replace(BY_IMAGE, tag="avinet-control")
        self.refused(self.signed_as((other, *image[1:]), engine))
        self.refused(self.signed_as((replace(BY_IMAGE, label="sig1"), *image[1:]), engine))

    def test_one_signature_alone(self) -> None:
        for signer in self.se.signers():
            self.refused(self.signed_as(signer))

    def test_a_third_signature(self) -> None:
        self.refused(self.signed_as(*self.se.signers(), (replace(BY_IMAGE, label="also"), self.se.image_key, "x")))

    def test_a_signature_by_a_key_of_another_kind(self) -> None:
        key = generate_private_key(SECP256R1())
        _, engine = self.se.signers()
        kind = replace(BY_IMAGE, algorithm=ECDSA_P256_SHA256)
        self.refused(self.signed_as((kind, key, self.se.image), engine))

    def test_hmac_with_the_public_key_as_its_secret(self) -> None:
        asked = self.se.signed(self.office.time)
        secrets = [
            keys.public_line(domain().first_image.key).encode(),
            domain().first_image.key.public_key().public_bytes_raw(),
        ]
        field = asked.headers["signature-input"].replace(";tag", ';alg="hmac-sha256";tag')
        given = verifier.members(field)["img"]
        derived = {"@method": "POST", "@authority": asked.authority, "@path": asked.path}
        lines = [f'"{each}": {derived.get(each) or asked.headers[each]}' for each in COVERED]
        base = "\n".join([*lines, f'"@signature-params": {given}']).encode()
        values = verifier.members(asked.headers["signature"])
        for secret in secrets:
            mac = base64.b64encode(hmac.digest(secret, base, hashlib.sha256)).decode()
            signature = f"img=:{mac}:, se={values['se']}"
            self.refused(headers(asked, signature=signature, signature_input=field))

    def test_signatures_of_another_time(self) -> None:
        for seconds in (-151, 31, -(10**9), 10**9):
            now = int(self.office.time) + seconds + (1 if seconds > 0 else 0)
            self.refused(self.signed_as(*self.se.signers(), now=now), what=f"{seconds} s")
        self.refused(self.signed_as(*self.se.signers(), life_s=121), what="too long")
        self.refused(self.signed_as(*self.se.signers(), life_s=-1), what="ends before it begins")

    def test_a_nonce_of_another_time_or_maker(self) -> None:
        now, key = self.office.time, domain().nonce_key
        for what, nonce in {
            "old": new_nonce(key, now - 121),
            "of the future": new_nonce(key, now + 10),
            "of another domain": new_nonce(bytes(32), now),
            "changed": new_nonce(key, now)[:-2] + "AA",
            "with its version changed": "B" + new_nonce(key, now)[1:],
            "cut": new_nonce(key, now)[:-8],
            "long": new_nonce(key, now) + "AAAA",
            "made up": "n" * 40,
        }.items():
            self.refused(self.signed_as(*self.se.signers(), nonce=nonce), what=what)

    def test_the_nonce_of_the_body_is_that_of_the_signatures(self) -> None:
        body = self.se.message(new_nonce(domain().nonce_key, self.office.time))
        message = self.se.unsigned()
        for kind, key, keyid in self.se.signers():
            signatures.sign(message, body, kind, key, keyid, now=self.office.time, nonce="another-nonce-here")
        self.refused(self.se.request(message, body))

    def test_bodies_that_two_parsers_might_read_differently(self) -> None:
        nonce = new_nonce(domain().nonce_key, self.office.time)
        body = self.se.message(nonce)
        for what, changed in {
            "a key twice": body[:-1] + b',"id":"se-1"}',
            "a nested key twice": body[:-1] + b',"labels":{"a":1,"a":2}}',
            "an unknown field": body[:-1] + b',"extra":1}',
            "NaN": body.replace(b'"generation":1', b'"generation":NaN'),
            "a float": body.replace(b'"generation":1', b'"generation":1.0'),
            "true": body.replace(b'"generation":1', b'"generation":true'),
            "a great number": body.replace(b'"generation":1', b'"generation":1' + b"0" * 5000),
            "a negative number": body.replace(b'"generation":1', b'"generation":-1'),
            "a byte order mark": b"\xef\xbb\xbf" + body,
            "half a surrogate": body[:-1] + b',"hostname":"\\ud800"}',
            "a newline": body[:-1] + b',"hostname":"a\\n"}',
            "a NUL": body[:-1] + b',"hostname":"a\\u0000"}',
            "deep": body[:-1] + b',"hostname":' + b"[" * 5000 + b"]" * 5000 + b"}",
            "another version": body[:-1] + b',"v":2}',
            "no key in the key": self.se.message(nonce, ssh_public_key="ssh-ed25519 " + "A" * 68),
            "no key in the host key": self.se.message(nonce, ssh_host_public_key="ssh-ed25519 " + "A" * 68),
        }.items():
            self.refused(self.se.signed(self.office.time, changed, nonce), what=what)
        for what, changed in {
            "not UTF-8": body[:-1] + b',"hostname":"\xff"}',
            "UTF-16": body.decode().encode("utf-16"),
            "no object": b"[]",
            "nothing": b"",
            "too long": body + b" " * 17_000,
        }.items():
            self.refused(replace(self.se.signed(self.office.time), body=changed), what=what)

    def test_the_key_of_the_body_is_the_key_that_signs(self) -> None:
        image, (kind, _, keyid) = self.se.signers()
        self.refused(self.signed_as(image, (kind, keys.generate(), keyid)))
        self.refused(self.signed_as(image, (kind, self.se.image_key, keyid)))

    def test_the_image_key_is_nobodys_own_key(self) -> None:
        self.se.key = self.se.image_key
        self.refused(self.se.signed(self.office.time))
        self.se.key = self.se.host_key
        self.refused(self.se.signed(self.office.time))

    def test_an_image_that_nobody_knows_is_forbidden(self) -> None:
        self.se.image = "image-x"
        self.refused(self.se.signed(self.office.time), Forbidden)

    def test_an_image_of_another_key_proves_nothing(self) -> None:
        self.se.image_key = keys.generate()
        self.refused(self.se.signed(self.office.time))

    def test_an_expired_image_is_forbidden(self) -> None:
        self.result(
            self.office.admit_image(
                id="image-old",
                public_key=keys.public_line(self.se.image_key),
                not_after=self.office.time + 1,
            )
        )
        self.se.image = "image-old"
        self.office.time += 2
        self.refused(self.se.signed(self.office.time), Forbidden)

    def test_without_a_claim_nothing_is_proved(self) -> None:
        self.se.claim = None
        self.refused(self.se.signed(self.office.time))

    def test_a_claim_is_used_once(self) -> None:
        self.enrol(self.se.signed(self.office.time))
        self.result(self.office.engines.revoke("se-1", "operator"))
        self.refused(self.se.signed(self.office.time), Gone)

    def test_an_image_that_is_retired_between_two_looks_enrols_nothing(self) -> None:
        """The image is active when the signatures are judged, and retired when the store decides."""
        first = domain().first_image
        retired = ImageRecord(
            id=first.id, public_key=keys.public_line(first.key), not_after=first.not_after, state="retired"
        )
        store = Interrupted(self.store, Transaction((), (put_record(image_key(first.id), retired),)))
        self.office.registrar._store = store
        failure = self.failureResultOf(as_deferred(self.office.registrar.enrol(self.se.signed(self.office.time))))
        self.assertEqual(failure.type, Forbidden)

    def test_without_a_store_it_may_come_again(self) -> None:
        self.store.unavailable = "no quorum"
        self.refused(self.se.signed(self.office.time), Unavailable)

    def test_a_refusal_reads_the_store_once_at_most(self) -> None:
        """And writes nothing: `refused` sees to that."""
        asked = self.se.signed(self.office.time)
        for readings, wrong in ((0, replace(asked, body=b"{}")), (1, headers(asked, signature_input=None))):
            counted = Counted(self.store)
            self.office.registrar._store = counted
            self.refused(wrong)
            self.assertEqual(counted.readings, readings)


class Counted:
    """A store that counts how often it is read."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.readings = store, 0
        self.transact = store.transact

    async def read(self, wanted: Any) -> Snapshot:
        self.readings += 1
        return await self.store.read(wanted)


class Interrupted:
    """A store in which `between` happens after the first reading."""

    def __init__(self, store: MemoryStore, between: Transaction) -> None:
        self.store, self.between = store, [between]
        self.transact = store.transact

    async def read(self, wanted: Any) -> Snapshot:
        found = await self.store.read(wanted)
        if self.between:
            await self.store.transact(self.between.pop())
        return found


class SignatureTests(SynchronousTestCase):
    """What avinet signs holds for a verifier that was written from the RFC alone."""

    def test_both_signatures_of_an_enrolment(self) -> None:
        se = Newborn("se-1", "c" * 32)
        asked = se.signed(1_800_000_000.75)
        derived = {"@method": "POST", "@authority": asked.authority, "@path": asked.path}
        nonce = json.loads(asked.body)["nonce"]
        for kind, key, keyid in se.signers():
            found = verifier.verified(asked.headers, asked.body, kind.label, COVERED, derived, key.public_key())
            expected = {"created": "1800000000", "expires": "1800000120", "keyid": keyid, "nonce": nonce}
            self.assertEqual(found, expected | {"tag": kind.tag, "alg": "ed25519"})

    def test_the_signature_of_a_receipt(self) -> None:
        answer = signatures.SignedResponse(201, {"content-type": "application/json"})
        credential = domain().server
        signatures.sign(answer, b"{}", signatures.RECEIPT, credential.key, "node", now=1_800_000_000)
        public = credential.key.public_key()
        covered = signatures.RECEIPT.covered
        verifier.verified(answer.headers, b"{}", "node", covered, {"@status": "201"}, public)
        changed = signatures.SignedResponse(200, dict(answer.headers))
        with self.assertRaises(Unauthenticated):
            signatures.verify(changed, b"{}", signatures.RECEIPT, lambda _: public, now=1_800_000_000)

    def test_the_request_signature_of_a_node(self) -> None:
        key = keys.generate()
        message = SignedRequest(
            "PUT", "control", "/v1/config", {signatures.ENGINE_HEADER: "se-1", signatures.FENCE_HEADER: "7"}
        )
        signatures.sign(message, b"body", signatures.CONTROL, key, "k", now=1_800_000_000)
        derived = {"@method": "PUT", "@path": "/v1/config"}
        verifier.verified(message.headers, b"body", "node", signatures.CONTROL.covered, derived, key.public_key())
