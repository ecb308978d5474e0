"""The recipes of the documentation, each followed word for word where it is needed: docs/recipes.rst."""

from __future__ import annotations

import json
import shlex
import shutil
from typing import Any

from cryptography import x509

from demo.machine import free_ports
from tests.docs.reading import blocks, read
from tests.integration.certificates import Desk
from tests.integration.node import Node, NodeCase

PAGE = "docs/recipes.rst"


def recipe(title: str) -> list[list[str]]:
    """The command lines of `avictl` in one section, in order."""
    document, _ = read(PAGE)
    section = next(each for each in document.findall() if each.tagname == "section" and each[0].astext() == title)
    texts = [each.astext() for each in section.findall() if each.tagname == "literal_block"]
    return [shlex.split(line)[1:] for text in texts for line in text.splitlines() if line.startswith("avictl ")]


class Served:
    """A virtual service of `se-1` that serves a certificate."""

    def __init__(self, node: Node, certificate: str) -> None:
        (self.port,) = free_ports(1)
        web = {"name": f"web-{self.port}", "address": "127.0.0.1", "port": self.port, "pool": "p"}
        document = {
            "name": "web",
            "virtual_services": [{**web, "tls": {"certificates": [certificate]}}],
            "pools": [{"name": "p", "servers": [{"name": "s", "address": "127.0.0.1", "port": 9}]}],
        }
        path = node.folder / "web.json"
        path.write_text(json.dumps(document))
        node.machine.avictl("config", "apply", "-f", str(path))

    def by(self, desk: Desk) -> x509.Certificate:
        """The certificate that is served now."""
        return desk.served(self.port, "shop.example.com")


class RecipeTests(NodeCase):
    engines = ("se-1",)

    def follow(self, title: str, **words: str) -> list[str]:
        """Run the commands of a recipe, with these words in place of what stands for them; what they print."""
        lines = recipe(title)
        self.assertTrue(lines, title)
        return [self.node.machine.avictl(*(words.get(each, each) for each in line)) for line in lines]

    def claim(self, printed: str) -> tuple[int, str]:
        """Generation and claim, as `se reset` prints them."""
        words = printed.splitlines()[1].split()
        return int(words[1]), words[2]

    def outcomes(self) -> list[tuple[Any, ...]]:
        events = self.node.machine.asked("events", "--limit", "500")["items"]
        return [(each["kind"], each.get("id"), each.get("outcome")) for each in events]

    def test_all_sections_are_tested(self) -> None:
        document, _ = read(PAGE)
        titles = [each[0].astext() for each in document.findall() if each.tagname == "section"]
        tested = {
            "A stolen image",
            "A cloned SE",
            "An SE does not come up",
            "The root CA expires",
            "A certificate expires",
            "A node that comes back from a backup",
        }
        self.assertEqual(set(titles) - {"Recipes"}, tested)
        self.assertEqual(sum(len(recipe(title)) for title in tested), self.lines())

    def lines(self) -> int:
        return sum(line.startswith("avictl ") for _, text in blocks(PAGE) for line in text.splitlines())

    def test_a_stolen_image(self) -> None:
        machine = self.node.machine
        machine.avictl("enrolment", "set", "--policy", "image")
        self.node.boot_unasked("stranger")
        machine.until("the thief is in", lambda: self.node.connected("stranger"))
        machine.avictl("enrolment", "set", "--policy", "approve")
        self.node.boot_unasked("another")
        machine.until("he tries again", lambda: machine.asked("se", "pending")["items"])
        [image] = machine.asked("image", "list")["items"]
        printed = self.follow("A stolen image", IMAGE=image["id"], SE="stranger")
        self.assertIn("stranger", printed[3])
        self.assertEqual(machine.asked("se", "pending")["items"], [])
        machine.until("he gives up", lambda: machine.ended("another"))
        self.assertIn("is retired or has expired", machine.log_tail("another", 20))
        self.assertEqual(self.node.engine("stranger")["state"], "revoked")
        self.assertTrue(self.node.connected("se-1"))
        states = {each["id"]: each["state"] for each in machine.asked("image", "list")["items"]}
        self.assertEqual(states, {image["id"]: "retired", "image-2": "active"})

    def test_a_cloned_se(self) -> None:
        machine = self.node.machine
        machine.kill("se-1")
        copy = self.node.folder / "copy"
        shutil.copytree(self.node.place("se-1"), copy)
        for _ in range(2):
            self.node.start_engine("se-1")
            machine.until("it is back", lambda: self.node.connected("se-1"))
            machine.end("se-1")
        shutil.rmtree(self.node.place("se-1"))
        shutil.copytree(copy, self.node.place("se-1"))
        self.node.start_engine("se-1")
        machine.until("the alarm", lambda: ("outdated-ratchet", "se-1", None) in self.outcomes())
        printed = self.follow("A cloned SE", SE="se-1")
        self.assertIn("outdated-ratchet", printed[0])
        generation, claim = self.claim(printed[1])
        self.node.boot_anew("se-1", generation, claim)
        machine.until("the right one is back", lambda: self.node.connected("se-1"))
        self.assertEqual(self.node.engine("se-1")["generation"], 2)

    def test_an_se_does_not_come_up(self) -> None:
        machine = self.node.machine
        self.node.expect("se-2")
        user_data = self.node.place("se-2") / "user-data.json"
        user_data.write_text(json.dumps({**json.loads(user_data.read_text()), "claim": "w" * 32}))
        self.node.start_engine("se-2")
        machine.until("it gives up", lambda: machine.ended("se-2"))
        self.assertIn("the claim or the image key is not the one", machine.log_tail("se-2", 20))
        printed = self.follow("An SE does not come up", SE="se-2")
        self.assertIn("expected", printed[1])
        generation, claim = self.claim(printed[-1])
        self.node.boot_anew("se-2", generation, claim)
        machine.until("it is up", lambda: self.node.connected("se-2"))

    def test_the_root_ca_expires(self) -> None:
        machine, trust = self.node.machine, self.node.folder / "controller" / "trust"
        self.node.expect("se-2")  # whose image knows the old one alone
        [old] = [each["fingerprint"] for each in machine.asked("root", "list")["items"]]
        words = {
            "root-2": str(self.node.folder / "root-2"),
            "root-2/issuing.pem": str(self.node.folder / "root-2" / "issuing.pem"),
            "root.pem": str(trust / "root.pem"),
            "root.key": str(trust / "root.key"),
            "OLD": old,
        }
        since = self.node.engine("se-1")["connected_since"]
        for line in recipe("The root CA expires"):
            if "NEW" in line:
                [words["NEW"]] = [each["fingerprint"] for each in machine.asked("root", "list")["items"][1:]]
            if line[1] in ("use", "retire"):
                machine.until("it is known to all", lambda: self.known_to_all(1))
            printed = machine.avictl(*(words.get(each, each) for each in line))
            if "--dry-run" in line:
                self.assertIn("all service engines know what follows", printed)
        [root] = machine.asked("root", "list")["items"]
        self.assertEqual((root["fingerprint"], root["state"]), (words["NEW"], "in-use"))
        self.assertEqual(self.node.engine("se-1")["connected_since"], since)
        self.node.start_engine("se-2")
        machine.until("se-2 comes by what the old one vouched for", lambda: self.node.connected("se-2"))

    def test_a_certificate_expires(self) -> None:
        machine, desk = self.node.machine, Desk(self.node.machine)
        self.node.settings.write_text(
            self.node.settings.read_text() + f"\n[certificates]\nsoon_s = {2e7}\nurgent_s = {1e7}\n"
        )
        machine.end("controller")
        self.node.start_controller()
        old = desk.put("shop")
        machine.until("the alarm", lambda: "certificate-expires" in [kind for kind, *_ in self.outcomes()])
        served = Served(self.node, "shop")
        machine.until("it is served", lambda: served.by(desk) == old.chain[0])
        chain, key = desk.files(desk.issuer.serve("shop.example.com"))
        words = {"NAME": "shop", "CHAIN": chain, "KEY": key}
        doctor, *lines = recipe("A certificate expires")
        self.assertIn("BAD  certificate shop", self.node.avictl(*doctor).stdout.decode())
        shown, put, again, resealed = (machine.avictl(*(words.get(each, each) for each in line)) for line in lines)
        self.assertIn(f"web-{served.port}", shown)
        self.assertIn("shop: version 2; 1 service engines are sent it", put)
        self.assertIn("version 2", again)
        self.assertIn("sealed anew: 1", resealed)
        machine.until("the new one is served", lambda: served.by(desk) == desk.issued[-1].chain[0])

    def known_to_all(self, count: int) -> bool:
        return all(each["acknowledged"] == count for each in self.node.machine.asked("root", "list")["items"])

    def test_a_node_that_comes_back_from_a_backup(self) -> None:
        machine, state, file = self.node.machine, self.node.folder / "controller", self.node.folder / "backup.tar.gz"
        said = machine.avictl("backup", "--config", str(self.node.settings), "--out", str(file))
        self.assertIn("files of node-1", said)
        machine.avictl("se", "label", "se-1", "room=2")
        self.assertIn("label", machine.avictl("events", "--kind", "label"), "it is sealed by now")
        machine.end("se-1")
        self.node.start_engine("se-1")
        machine.until("it has seen the log", lambda: self.node.connected("se-1"))
        machine.kill("controller")
        shutil.rmtree(state)
        words = {"FILE": str(file), "/etc/avinet/controller.toml": str(self.node.settings), "SE": "se-1"}
        restored, verified, *later = recipe("A node that comes back from a backup")

        def follow(line: list[str]) -> str:
            return machine.avictl(*(words.get(each, each) for each in line))

        self.assertIn("node-1 of domain", follow(restored))
        self.node.start_controller()
        self.assertIn("all there", follow(verified))
        machine.until("it is back", lambda: self.node.connected("se-1"))
        self.assertNotIn("room", self.node.engine("se-1")["labels"])
        machine.until(
            "it has noticed", lambda: "the past of the audit log was rewritten" in machine.log_tail("se-1", 50)
        )
        machine.end("se-1")
        self.node.start_engine("se-1")
        machine.until("the alarm", lambda: ("log-rewritten", "se-1", None) in self.outcomes())
        machine.until("it is back", lambda: self.node.connected("se-1"))
        alarms, accepted, readmitted = map(follow, later)
        self.assertIn("log-rewritten", alarms)
        self.assertIn("that it had", accepted)
        self.assertIn("readmitted: 1", readmitted)
