"""Each verb asks the node for what it says, and prints the answer as a table, as JSON and as YAML."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import click
import msgspec
import yaml
from typing_extensions import override

from avinet.cli.main import avictl
from avinet.wire.expiry import Expiry
from avinet.wire.jobs import JobEnded, JobOutput
from avinet.wire.log_pulls import LogPullList
from avinet.wire.message import encode
from tests.cli import fleet
from tests.cli.scripted import Asked, ScriptedCase, said, told


@dataclass(frozen=True)
class Verb:
    """What is typed, what the node is asked, what it says, and what of it is printed for people."""

    typed: str
    asks: str
    says: Any
    shows: str


LISTINGS = (
    Verb("status", "GET /v1/status", fleet.STATUS, "node-1 of domain d1"),
    Verb("se list", "GET /v1/service-engines?limit=500", fleet.ENGINES, "se-1  enrolled"),
    Verb("se list --label site=paris", "GET /v1/service-engines?limit=500&label=site%3Dparis", fleet.ENGINES, "paris"),
    Verb("se show se-1", "GET /v1/service-engines/se-1", fleet.ENGINE, "L4CON Connection refused"),
    Verb("se pending", "GET /v1/pending", fleet.WAITING, "SHA256:aaa"),
    Verb("enrolment show", "GET /v1/enrolment", fleet.RULES, "approve (one without a claim waits"),
    Verb("jobs list", "GET /v1/jobs?limit=20", fleet.JOBS, "ping"),
    Verb("root list", "GET /v1/roots", fleet.ROOTS, "ab12ab12ab12ab12  in-use"),
    Verb("image list", "GET /v1/images", fleet.IMAGES, "image-1"),
    Verb("config list", "GET /v1/configurations?limit=100", fleet.DOCUMENTS, "web"),
    Verb("config get web", "GET /v1/configurations/web", fleet.DOCUMENT_VERSION, "name: web\n"),
    Verb("config history web", "GET /v1/configurations/web/versions?limit=100", fleet.DOCUMENTS, "ann"),
    Verb("config rollout list", "GET /v1/rollouts", fleet.ROLLOUTS, "10 of 100"),
    Verb("config rollout show web", "GET /v1/rollouts/web", fleet.ROLLOUT, "se-1  server web/blue is down\n"),
    Verb("certificate list", "GET /v1/certificates?limit=100", fleet.CERTIFICATES, "shop.example.com"),
    Verb("certificate show shop", "GET /v1/certificates/shop", fleet.CERTIFICATE, "web (shop-tls)"),
    Verb("events", "GET /v1/events?limit=50", fleet.EVENTS, "enrolment"),
    Verb("events --limit 7 --after x/y", "GET /v1/events?limit=7&after=x%2Fy", fleet.EVENTS, "10.0.0.9"),
    Verb("logs pulls", "GET /v1/log-pulls?limit=20", LogPullList(items=[fleet.LOG_PULL]), "2 of 2"),
    Verb(
        "metrics shop --since 30m --step 1m",
        "GET /v1/rollups?virtual_service=shop&last=1800&step=60&limit=100",
        fleet.ROLLUPS,
        "p99          100ms  123ms  100ms  123ms  ",
    ),
    Verb(
        "metrics shop --by server -l site=paris --se se-1,se-2 --server web/blue",
        "GET /v1/rollups?virtual_service=shop&last=3600&by=server&service_engine=se-1%2Cse-2&label=site%3Dparis"
        "&server=web%2Fblue&limit=100",
        fleet.ROLLUPS,
        "web/blue  90        0.75",
    ),
    Verb("logs query", "POST /v1/log-queries", fleet.LOG_ANSWER, "270       48.9"),
    Verb("logs saved list", "GET /v1/saved-log-queries?limit=100", fleet.SAVED_QUERIES, "series  2h before  now"),
    Verb("logs saved show slow", "GET /v1/saved-log-queries/slow", fleet.SAVED_QUERY, "shape: series"),
)
CHANGES = (
    Verb("se create --count 1", "POST /v1/service-engines", fleet.CREATED, "created: se-1\n"),
    Verb("se create se-1 --driver none", "POST /v1/service-engines", fleet.CREATED, "c" * 22),
    Verb(
        f"se approve edge-1 --fingerprint {fleet.FINGERPRINT} --label a=b",
        "POST /v1/pending/edge-1/approval",
        fleet.ENGINE,
        "approved: se-1, key SHA256:aaa",
    ),
    Verb(
        f"se refuse edge-1 --fingerprint {fleet.FINGERPRINT}",
        "POST /v1/pending/edge-1/refusal",
        fleet.PENDING,
        "refused: edge-1, key SHA256:aaa",
    ),
    Verb("enrolment set --policy approve --pending-for 2h", "PATCH /v1/enrolment", fleet.RULES, "at most 256 wait"),
    Verb("se revoke se-1", "POST /v1/service-engines/se-1/revocation", fleet.ENGINE, "revoked: se-1"),
    Verb("se readmit --all", "POST /v1/readmissions", fleet.READMITTED, "readmitted: 3 service engines"),
    Verb("se rotate se-1", "POST /v1/service-engines/se-1/key-rotation", fleet.ENGINE, "rotated: se-1, key SHA256:aaa"),
    Verb("se reset se-1 --yes", "POST /v1/service-engines/se-1/reset", fleet.CREATED.items[0], "c" * 22),
    Verb("se label se-1 site=paris old-", "PATCH /v1/service-engines/se-1", fleet.ENGINE, "se-1: site=paris\n"),
    Verb("image retire image-1", "POST /v1/images/image-1/retirement", fleet.IMAGE, "retired: image-1\n"),
    Verb("root add FILE", "POST /v1/roots", fleet.ROOTS, "1 of 3"),
    Verb("root use ab12 --dry-run", "POST /v1/roots/ab12/use", fleet.STEP, "come back until 2027"),
    Verb("root retire ab12 --force", "POST /v1/roots/ab12/retirement", fleet.STEP, "  se-1\n"),
    Verb("config apply -f FILE", "PUT /v1/configurations/web", fleet.APPLIED, "web: version 3; 2 service engines"),
    Verb(
        "config apply -f FILE --rollout --batch 1,50% --observe 1m",
        "POST /v1/rollouts",
        fleet.APPLIED,
        "web: version 3 rolls out to 2 service engines\n",
    ),
    Verb(
        "logs query --every 1m --save slow",
        "PUT /v1/saved-log-queries/slow",
        fleet.SAVED_QUERY,
        "saved: slow, version 3; ask it with avictl logs query --saved slow\n",
    ),
    Verb("logs pull se-1,se-2 --detach", "POST /v1/log-pulls", fleet.LOG_PULL, "0000000000001-abc\n"),
    Verb("config rollout pause web", "POST /v1/rollouts/web/pause", fleet.ROLLOUT, "web: version 3: running, batch 2"),
    Verb("config rollout resume web", "POST /v1/rollouts/web/resume", fleet.ROLLOUT, "10 of 100 service engines"),
    Verb("config rollout promote web --all", "POST /v1/rollouts/web/promote", fleet.ROLLOUT, "(1 failed, 1 away)"),
    Verb("config rollout abort web", "POST /v1/rollouts/web/abort", fleet.ROLLOUT, "web: version 3"),
    Verb(
        "certificate put shop --chain CHAIN --key KEY --expect 2",
        "PUT /v1/certificates/shop",
        fleet.STORED,
        "shop: version 3; 2 service engines are sent it",
    ),
    Verb("certificate reseal", "POST /v1/secrets-key", fleet.RESEALED, "sealed anew: 4 certificates\n1 cannot"),
)
PLAIN = (
    Verb("logs pulls 1-a --cancel", "POST /v1/log-pulls/1-a/cancellation", b"", "cancelled: 1-a\n"),
    Verb("logs saved delete slow", "DELETE /v1/saved-log-queries/slow", b"", "deleted: slow\n"),
    Verb("logs tail", "GET /v1/significant-logs?lines=20&follow=1", [fleet.HELD_BACK], "90 held back"),
    Verb("run se-1 ping", "POST /v1/jobs?follow=1", fleet.RUN, "pong from se-1\n"),
    Verb("se delete --yes se-1 --drain 3", "DELETE /v1/service-engines/se-1?drain_s=3", b"", "deleted: se-1\n"),
    Verb("config delete web", "DELETE /v1/configurations/web", b"", "deleted: web\n"),
    Verb("certificate delete shop", "DELETE /v1/certificates/shop", b"", "deleted: shop\n"),
    Verb("jobs cancel 0000000000001-abc", "POST /v1/jobs/0000000000001-abc/cancellation", b"", "cancelled: 0000"),
    Verb("config schema", "GET /v1/schemas/configuration", b'{"type":"object"}', '"type": "object"'),
    Verb("image build --out OUT", "POST /v1/images", b"bundle", "6 B, readable by you alone\n"),
    Verb("se authorized-keys", "GET /v1/authorized-keys", b"ssh-ed25519 AAAA\n", "ssh-ed25519 AAAA\n"),
    Verb("ssh-host-key se-1.avinet", "GET /v1/service-engines/se-1", fleet.ENGINE, "se-1.avinet ssh-ed25519 AAAA"),
)
ELSEWHERE = {
    "init",
    "ssh",
    "connect",
    "ssh-config",
    "completion",
    "doctor",
    "config diff",
    "node list",
    "node keys",
    "node rotate-keys",
    "node use-keys",
    "node upgrade",
    "root new",
    "root issue",
    "config rollback",
    "config rollout follow",
    "jobs show",
    "backup",
    "restore",
    "store certificates",
    "store check",
    "store migrate",
}
"""Verbs that ask the node for nothing, or for more than one thing: they have tests of their own."""


def verbs(group: click.Command, above: str = "") -> set[str]:
    """The names of all verbs, as `se list`."""
    if not isinstance(group, click.Group):
        return {above}
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {each for name, one in found.items() if one for each in verbs(one, f"{above} {name}".strip())}


class VerbTests(ScriptedCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.file = self.folder / "web.json"
        self.file.write_bytes(encode(fleet.DOCUMENT))
        self.chain, self.key = self.folder / "chain.pem", self.folder / "key.pem"
        self.chain.write_text(fleet.CHAIN)
        self.key.write_text(fleet.KEY)

    def typed(self, verb: Verb) -> list[str]:
        places = {
            "FILE": str(self.file),
            "OUT": str(self.folder / "out"),
            "CHAIN": str(self.chain),
            "KEY": str(self.key),
        }
        return [places.get(word, word) for word in verb.typed.split()]

    def test_every_verb_is_tested(self) -> None:
        tested = {verb.typed for verb in LISTINGS + CHANGES + PLAIN}
        missing = {
            name for name in verbs(avictl) - ELSEWHERE if not any(f"{each} ".startswith(f"{name} ") for each in tested)
        }
        self.assertEqual(missing, set())

    def test_it_asks_the_node_and_shows_its_answer_to_people(self) -> None:
        for verb in LISTINGS + CHANGES + PLAIN:
            self.asked.clear()
            self.answers(told(*verb.says) if isinstance(verb.says, list) else said(verb.says))
            if verb.typed == "status":
                self.answers(lambda asked: said(fleet.STATUS if asked.target == "/v1/status" else fleet.ENGINES))
            ended = self.avictl(*self.typed(verb))
            self.assertEqual((ended.code, ended.err), (0, ""), (verb, ended))
            self.assertIn(verb.shows, ended.out, verb)
            self.assertEqual(f"{self.asked[0].method} {self.asked[0].target}", verb.asks)

    def test_json_and_yaml_are_the_whole_answer_wherever_the_option_stands(self) -> None:
        for verb in LISTINGS + CHANGES:
            self.answers(said(verb.says))
            for form in ("json", "yaml"):
                before = self.avictl("--output", form, *self.typed(verb))
                self.assertEqual(self.avictl(*self.typed(verb), "-o", form), before, verb)
                self.assertEqual((before.code, before.err), (0, ""), verb)
                plain = json.loads(before.out) if form == "json" else yaml.safe_load(before.out)
                self.assertEqual(msgspec.convert(plain, type(verb.says)), verb.says, verb)

    def test_what_changes_something_says_what(self) -> None:
        bodies = {
            "se create --count 2 --label a=b": {"count": 2, "labels": {"a": "b"}},
            "se create x y": {"count": 2, "ids": ["x", "y"]},
            f"se approve edge-1 --fingerprint {fleet.FINGERPRINT} --label a=b": {
                "fingerprint": fleet.FINGERPRINT,
                "labels": {"a": "b"},
            },
            "enrolment set --policy image --pending 7 --pending-for 2h --by-image 40": {
                "policy": "image",
                "by_image": 40,
                "pending": 7,
                "pending_s": 7200.0,
            },
            "se label se-1 a=b c-": {"set": {"a": "b"}, "remove": ["c"]},
            "config rollout promote web": {},
            "config rollout promote web --all": {"all": True},
            "run se-1 config --all -x": {"command": "config", "arguments": ["--all", "-x"], "ids": ["se-1"]},
        }
        for typed, body in bodies.items():
            self.avictl(*typed.split())
            self.assertEqual(json.loads(self.asked[-1].body), body)

    def test_a_private_key_goes_to_the_node_and_nowhere_else(self) -> None:
        self.answers(said(fleet.STORED))
        ended = self.avictl("certificate", "put", "shop", "--chain", str(self.chain), "--key", str(self.key))
        self.assertEqual(json.loads(self.asked[-1].body), {"chain": fleet.CHAIN, "key": fleet.KEY})
        self.assertNotIn("SECRET", ended.out + ended.err)
        for code, broken in ((4, b"\xff SECRET"), (1, b"SECRET" * 100_000)):
            self.key.write_bytes(broken)
            line = self.refused(code, "certificate", "put", "shop", "--chain", str(self.chain), "--key", str(self.key))
            self.assertNotIn("SECRET", line)

    def test_a_command_that_fails_there_ends_with_7(self) -> None:
        said_no = JobOutput(id="se-1", stream="err", text="no\n")
        end = JobEnded(number=1, id="se-1", outcome="done", exit_status=1)
        self.answers(told(*fleet.RUN[:2], said_no, end, fleet.RUN[-1]))
        ended = self.avictl("run", "se-1", "ping")
        self.assertEqual((ended.code, ended.out, ended.err), (7, "", "no\n"))

    def test_all_pages_are_read(self) -> None:
        ids = [f"se-{number:05}" for number in range(1200)]

        def page(asked: Asked) -> bytes:
            after = asked.target.partition("after=")[2]
            rest = [id for id in ids if id > after][:500]
            items = [msgspec.structs.replace(fleet.ENGINE, id=id) for id in rest]
            return said(
                msgspec.structs.replace(fleet.ENGINES, items=items, next=rest[-1] if rest[-1:] < ids[-1:] else "")
            )

        self.answers(page)
        found = json.loads(self.avictl("-o", "json", "se", "list").out)
        self.assertEqual([each["id"] for each in found["items"]], ids)
        self.assertEqual(len(self.asked), 3)
        lines = self.avictl("se", "list").out.splitlines()
        self.assertEqual([line.split()[0] for line in lines[1:]], ids)

    def test_a_bundle_is_for_the_operator_alone(self) -> None:
        self.answers(said(b"bundle"))
        self.avictl("image", "build", "--out", str(self.folder / "out"))
        self.assertEqual((self.folder / "out").read_bytes(), b"bundle")
        self.assertEqual((self.folder / "out").stat().st_mode & 0o777, 0o600)

    def test_no_document_is_applied_when_one_of_them_is_wrong(self) -> None:
        bad = self.folder / "bad.yaml"
        for text in ("name: NO\n", "name: web\nport: 1\n", "a: [", "name: web\n---\nname: ../etc\n", "\x00", ""):
            bad.write_text(text)
            self.refused(4, "config", "apply", "-f", str(bad), *(["-f", str(self.file)] if text else []))
        self.assertEqual(self.asked, [])

    def test_the_doctor_and_the_status_say_what_expires(self) -> None:
        soon, day = time.time() + 60, 86400
        expiries = [
            Expiry(kind="node-certificate", name="node-1", not_after=soon + day),
            Expiry(kind="issuing-ca", name="ab12", not_after=soon + 80 * day, urgency="soon"),
            Expiry(kind="root-ca", name="cd34", not_after=soon + 80 * day, urgency="urgent"),
            Expiry(kind="certificate", name="shop", not_after=soon + 6 * day, urgency="urgent"),
            Expiry(kind="certificate", name="blog", not_after=soon - day, urgency="expired"),
        ]
        status = msgspec.structs.replace(fleet.STATUS, expiries=expiries, certificates=9, certificates_closed=2)
        self.answers(lambda asked: said(status if asked.target == "/v1/status" else fleet.ENGINES))
        lines = [line for line in self.avictl("doctor").out.splitlines() if line.startswith("BAD")]
        self.assertEqual(
            [line.split(":")[0].removeprefix("BAD  ") for line in lines],
            ["issuing CA", "root CA", "certificate shop", "certificate blog", "private keys"],
        )
        self.assertIn("; make another one: avictl root issue", lines[0])
        self.assertIn("valid for 6d", lines[2])
        self.assertIn("; put a new one: avictl certificate put", lines[2])
        self.assertIn("expired at 20", lines[3])
        self.assertIn("of 9 certificates, those of 2 cannot be opened; restore trust/secrets.key", lines[4])
        shown = self.avictl("status").out
        self.assertRegex(shown, r"certificate shop in 6d.*; certificate blog has expired")

    def test_the_doctor_says_what_is_wrong_and_ends_with_1(self) -> None:
        self.answers(said(fleet.STATUS))
        self.assertEqual(self.avictl("doctor").code, 0)
        counts = msgspec.structs.replace(fleet.STATUS.engines, enrolled=2, refused=1)
        bad = msgspec.structs.replace(fleet.STATUS, engines=counts, servers_down=1, store_silent_s=7.2)
        self.answers(said(bad))
        ended = self.avictl("doctor")
        self.assertEqual((ended.code, ended.out.count("BAD  ")), (1, 4), ended)
        self.assertIn("BAD  store: it has not answered for 7", ended.out)
        found = json.loads(self.avictl("doctor", "-o", "json").out)
        self.assertEqual(
            [each["what"] for each in found if not each["good"]],
            ["store", "service engines", "configuration", "servers"],
        )
