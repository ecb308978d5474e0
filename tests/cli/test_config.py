"""`avictl config diff` and `rollback`: what differs between versions of a document, and the way back to one."""

from __future__ import annotations

import json

import msgspec
from typing_extensions import override

from avinet.cli.exits import NOT_FOUND, REFUSED, USAGE
from avinet.wire.config import Document, DocumentVersion, Server
from avinet.wire.fleet import DocumentList
from avinet.wire.message import encode
from avinet.wire.problem import Problem
from tests.cli import fleet
from tests.cli.scripted import Asked, ScriptedCase, problem, said

GONE = Problem(status=404, title="Not Found", detail="there is no such thing")


def document(*addresses: str) -> Document:
    servers = [Server(name=f"s{number}", address=address, port=80) for number, address in enumerate(addresses)]
    [pool] = fleet.DOCUMENT.pools
    return msgspec.structs.replace(fleet.DOCUMENT, pools=[msgspec.structs.replace(pool, servers=servers)])


class ConfigCase(ScriptedCase):
    """A node that has versions of one document, `web`; whatever is put becomes the next."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.versions: list[Document | None] = [document("10.0.0.1"), document("10.0.0.2"), document("10.0.0.3")]
        self.answers(self.node)

    def version(self, number: int) -> DocumentVersion:
        wanted = self.versions[number - 1]
        return DocumentVersion(name="web", version=number, author="ann", time=fleet.TIME, document=wanted)

    def node(self, asked: Asked) -> bytes:
        path, last = asked.target.partition("?")[0], len(self.versions)
        if asked.method == "PUT":
            self.versions.append(msgspec.json.decode(asked.body, type=Document))
            return said(msgspec.structs.replace(fleet.APPLIED, version=last + 1))
        if path == "/v1/configurations/web/versions" and last:
            return said(DocumentList(items=[self.version(number) for number in range(last, max(0, last - 2), -1)]))
        if path == "/v1/configurations/web" and last and self.versions[-1]:
            return said(self.version(last))
        number = path.removeprefix("/v1/configurations/web/versions/")
        if number.isdigit() and 0 < int(number) <= last:
            return said(self.version(int(number)))
        return problem(GONE, 404)


class DiffTests(ConfigCase):
    def test_the_last_change_is_shown_as_lines_that_went_and_came(self) -> None:
        ended = self.avictl("config", "diff", "web")
        self.assertEqual((ended.code, ended.err), (0, ""))
        lines = ended.out.splitlines()
        self.assertEqual(lines[:2], ["--- web, version 2", "+++ web, version 3"])
        changed = [line for line in lines[2:] if line[0] in "+-"]
        self.assertEqual([line[0] + line.split()[-1] for line in changed], ["-10.0.0.2", "+10.0.0.3"])

    def test_any_two_versions(self) -> None:
        lines = self.avictl("config", "diff", "web", "--from", "1", "--to", "3").out.splitlines()
        self.assertEqual(lines[:2], ["--- web, version 1", "+++ web, version 3"])
        self.assertEqual(self.avictl("config", "diff", "web", "--from", "2", "--to", "2").out, "")

    def test_the_first_version_came_from_nothing(self) -> None:
        lines = self.avictl("config", "diff", "web", "--to", "1").out.splitlines()
        self.assertTrue(all(line[0] in "+@-" for line in lines), lines)
        self.assertEqual(lines[0], "--- web, version 0")

    def test_a_file_is_compared_to_what_applies(self) -> None:
        path = self.folder / "web.json"
        path.write_bytes(encode(document("10.0.0.4")))
        lines = self.avictl("config", "diff", "-f", str(path)).out.splitlines()
        self.assertEqual(lines[:2], ["--- web, version 3", f"+++ web, {path}"])
        path.write_bytes(encode(document("10.0.0.3")))
        self.assertEqual(self.avictl("config", "diff", "-f", str(path)).out, "")
        self.versions.append(None)
        self.assertEqual(self.avictl("config", "diff", "-f", str(path)).out.splitlines()[0], "--- web, none")

    def test_what_cannot_be_compared(self) -> None:
        self.assertEqual(self.avictl("config", "diff").code, USAGE)
        self.assertEqual(self.avictl("config", "diff", "web", "-f", "x").code, USAGE)
        self.refused(NOT_FOUND, "config", "diff", "web", "--to", "9")
        self.refused(NOT_FOUND, "config", "diff", "other")


class RollbackTests(ConfigCase):
    def test_the_version_before_the_last_comes_back_as_a_new_one(self) -> None:
        ended = self.avictl("config", "rollback", "web")
        self.assertEqual((ended.code, ended.err), (0, ""))
        self.assertEqual(ended.out, "web: version 4 is as 2 was; 2 service engines have a new configuration\n")
        self.assertEqual(self.versions[3], self.versions[1])
        self.assertEqual(
            json.loads(self.avictl("-o", "json", "config", "rollback", "web", "--to", "1").out)["version"], 5
        )
        self.assertEqual(self.versions[4], self.versions[0])

    def test_a_deleted_document_comes_back_too(self) -> None:
        self.versions.append(None)
        self.avictl("config", "rollback", "web")
        self.assertEqual(self.versions[4], self.versions[2])

    def test_what_there_is_no_way_back_to(self) -> None:
        self.versions[1] = None
        self.assertIn("is its deletion", self.refused(REFUSED, "config", "rollback", "web"))
        self.refused(NOT_FOUND, "config", "rollback", "web", "--to", "9")
        del self.versions[1:]
        self.assertIn("only one version", self.refused(NOT_FOUND, "config", "rollback", "web"))
