"""What the documentation says is so: it parses, its commands are commands, its examples decode, its tables are complete."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import docutils.nodes
import msgspec
import yaml
from twisted.trial.unittest import SynchronousTestCase

from avinet.cli import exits
from avinet.cli.main import avictl
from avinet.controller.settings import ControllerSettings
from avinet.rest.problems import _STATUS
from avinet.se.settings import EngineSettings
from avinet.settings import Settings
from avinet.trust.domain import found
from avinet.wire import (
    audit,
    certificates,
    command,
    config,
    enrolment,
    fleet,
    log,
    problem,
    pull,
    report,
    segment,
    session,
    significant,
    trust,
)
from avinet.wire.message import Message, convert
from demo.story import STEPS
from tests.docs.reading import PAGES, ROOT, blocks, commands, inline, read, tables

OPERATIONS = "docs/operations.rst"


def flat(table: type[Settings], above: str = "") -> dict[str, Any]:
    """The settings of a table with their defaults, the names of those in tables below as `ssh.port`."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(table):
        if isinstance(field.type, type) and issubclass(field.type, Settings):
            found |= flat(field.type, f"{above}{field.name}.")
        else:
            found[above + field.name] = json.loads(msgspec.json.encode(field.default))
    return found


def flat_file(plain: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The same of a TOML file."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        found |= flat_file(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return found


def leaf(words: list[str]) -> click.Context:
    """The context of the verb that `words` run, all options and arguments parsed. Raises `click.UsageError`."""
    context = avictl.make_context("avictl", list(words))
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = context.command.resolve_command(context, rest)
        assert found is not None
        context = found.make_context(name, rest, parent=context)
    return context


class PageTests(SynchronousTestCase):
    def test_every_page_parses_without_a_warning(self) -> None:
        for page in PAGES:
            self.assertEqual(read(page)[1], [], page)

    def test_every_page_that_is_named_is_there_and_every_page_is_named(self) -> None:
        index, _ = read("docs/index.rst")
        listed = {name.strip() for each in index.findall(docutils.nodes.comment) for name in each["pages"]}
        linked = {each.astext() for each in index.findall(docutils.nodes.inline) if "page" in each["classes"]}
        there = {page.removeprefix("docs/").removesuffix(".rst") for page in PAGES if page.startswith("docs/")}
        self.assertEqual(listed, there - {"index"})
        self.assertEqual(linked, listed)


class CommandTests(SynchronousTestCase):
    def test_every_avictl_line_is_one_that_avictl_takes(self) -> None:
        lines = [(page, words) for page in PAGES for words in commands(page, "avictl")]
        for page in PAGES:
            lines += [
                (page, text.split()[1:])
                for text in inline(page)
                if re.match(r"avictl [a-z-]", text) and "…" not in text
            ]
        self.assertGreater(len(lines), 30)
        for page, words in lines:
            try:
                leaf(words)
            except click.exceptions.NoArgsIsHelpError:
                continue
            except click.UsageError as error:
                if isinstance(error, click.MissingParameter) and len(words) < 3:
                    continue  # a verb that is spoken of, not run
                self.fail(f"{page}: avictl {' '.join(words)}: {error.format_message()}")

    def test_every_twistd_line_names_a_service_of_ours(self) -> None:
        lines = [words for page in PAGES for words in commands(page, "twistd")]
        self.assertTrue(lines)
        for words in lines:
            self.assertIn(words[1], ("avi-controller", "avi-se"))
            self.assertEqual((words[0], words[2]), ("-n", "--config"))

    def test_every_file_that_is_named_is_in_the_sources(self) -> None:
        named = {
            word
            for page in PAGES
            for _, text in blocks(page)
            for word in re.findall(r"\b(?:etc|bin)/[\w./-]+", text)
            if f"/{word}" not in text
        }
        self.assertTrue({"bin/demo", "bin/test", "etc/controller.toml"} <= named, named)
        for name in named:
            self.assertTrue((ROOT / name).exists(), name)


class ExampleTests(SynchronousTestCase):
    def test_examples_decode_as_what_they_are(self) -> None:
        seen = []
        for page in PAGES:
            for language, text in blocks(page):
                seen.append(language)
                if language == "yaml":
                    for plain in yaml.safe_load_all(text):
                        convert(plain, config.Document, page)
                elif language == "json":
                    self.assertEqual(set(json.loads(text)), {"id", "generation", "claim"})
                elif language == "toml":
                    kind = ControllerSettings if "addresses" in text else EngineSettings
                    msgspec.convert(tomllib.loads(text), kind)
        self.assertTrue({"yaml", "json"} <= set(seen), seen)

    def test_what_the_demo_is_said_to_print_are_its_steps(self) -> None:
        shown = [line for _, text in blocks("README.rst") for line in text.splitlines()]
        said = [line[4:40].strip() for line in shown if re.match(r" ?\d+  ", line)]
        self.assertEqual(said, [step.title for step in STEPS])
        self.assertEqual(
            len([line for line in shown if line.startswith(f"all {len(STEPS)} steps were seen to work")]), 1
        )

    def test_the_example_of_a_document_says_nothing_twice_and_names_its_pools(self) -> None:
        for language, text in [*blocks(OPERATIONS), *blocks("README.rst")]:
            if language == "yaml":
                document = convert(yaml.safe_load(text), config.Document, OPERATIONS)
                pools = {each.name for each in document.pools}
                wanted = {route.pool for each in document.virtual_services for route in each.routes}
                self.assertTrue(wanted | {each.pool for each in document.virtual_services} <= pools)


class SettingsTests(SynchronousTestCase):
    def test_the_tables_and_the_files_have_every_setting_with_its_default(self) -> None:
        listed = [rows[1:] for rows in tables(OPERATIONS) if rows[0][:2] == ["setting", "default"]]
        self.assertEqual(len(listed), 2)
        for rows, kind, name in zip(listed, (ControllerSettings, EngineSettings), ("controller", "se"), strict=True):
            true = flat(kind)
            said = {setting: tomllib.loads(f"x = {default}")["x"] for setting, default, _, _ in rows}
            self.assertEqual(said, true)
            self.assertEqual(list(said), list(true), "in the order of the code")
            self.assertEqual(flat_file(tomllib.loads((ROOT / "etc" / f"{name}.toml").read_text())), true)
            for setting, _, unit, _ in rows:
                self.assertEqual(unit == "seconds", setting.endswith("_s"), setting)

    def test_settings_that_the_text_names_exist(self) -> None:
        known = flat(ControllerSettings) | flat(EngineSettings)
        tables_ = {name.partition(".")[0] for name in known if "." in name}
        for page in PAGES:
            for text in inline(page):
                if text == "store.sqlite":  # the file
                    continue
                if re.fullmatch(r"[a-z]+\.[a-z_]+", text) and text.partition(".")[0] in tables_:
                    self.assertIn(text, known, page)


class TableTests(SynchronousTestCase):
    def test_exit_codes_are_those_of_avictl(self) -> None:
        (rows,) = [rows[1:] for rows in tables(OPERATIONS) if rows[0] == ["code", "meaning"]]
        said = {int(code): meaning for code, meaning in rows}
        printed = {int(code): meaning for code, meaning in re.findall(r"^  (\d+) +(.*)$", exits.TABLE, re.MULTILINE)}
        self.assertEqual(said, printed)
        known = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
        self.assertEqual(set(said), known)

    def test_every_file_of_a_domain_is_said_to_be_what_it_is_and_is_private(self) -> None:
        folder = Path(self.mktemp()) / "trust"
        domain = found(folder, "node-1", datetime.now(UTC))
        (rows,) = [rows[1:] for rows in tables(OPERATIONS) if rows[0][0] == "below state of a node"]
        said = {row[0].replace("ID", domain.first_image.id) for row in rows} - {"store.sqlite", "rollups/", "lock"}
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.assertEqual({path.relative_to(folder.parent).as_posix() for path in files}, said)
        self.assertEqual({path.stat().st_mode & 0o777 for path in files}, {0o600})
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        self.assertEqual({path.stat().st_mode & 0o777 for path in folders}, {0o700})

    def test_the_protocol_has_every_status_that_an_error_becomes(self) -> None:
        (rows,) = [rows[1:] for rows in tables("docs/protocol.rst") if rows[0] == ["status", "means"]]
        self.assertEqual({int(row[0]) for row in rows} - {405}, {status for _, status in _STATUS})

    def test_the_protocol_has_every_column_of_a_record(self) -> None:
        (rows,) = [rows[1:] for rows in tables("docs/protocol.rst") if rows[0] == ["column", "key", "holds", "means"]]
        self.assertEqual(rows, [[each.name, each.key, each.kind, each.means] for each in log.COLUMNS])
        text = read("docs/protocol.rst")[0].astext()
        said = f"The first {log.KEPT_TEXT_BYTES} bytes of one are kept, and at least {log.HOSTILE_TEXT_BYTES} of one"
        self.assertIn(said, " ".join(text.split()))


class ProtocolTests(SynchronousTestCase):
    spoken = (
        enrolment.Challenge,
        enrolment.EnrolmentRequest,
        enrolment.Receipt,
        trust.SignedTrust,
        trust.TrustDocument,
        trust.Node,
        session.Hello,
        session.HelloReply,
        session.KeyRotation,
        enrolment.Waiting,
        audit.LogHead,
        audit.LogProof,
        report.Report,
        significant.SignificantBatch,
        significant.Significant,
        significant.HeldBack,
        significant.SeenRecord,
        significant.SeenHeldBack,
        significant.SeenLeftOut,
        config.ConfigPush,
        config.ConfigVersion,
        config.ConfigState,
        command.CommandRequest,
        command.OperatorKey,
        problem.Problem,
        segment.Manifest,
        segment.Gap,
        pull.SegmentPage,
        pull.Acknowledgement,
    )

    def words(self) -> set[str]:
        """Every name in the literals and literal blocks of the protocol."""
        texts = [*inline("docs/protocol.rst"), *(text for _, text in blocks("docs/protocol.rst"))]
        return {word for text in texts for word in re.findall(r"[a-z][a-z0-9_]*", text)}

    def test_every_field_that_crosses_the_wire_is_named(self) -> None:
        words = self.words()
        for kind in self.spoken:
            fields = {field.encode_name for field in msgspec.structs.fields(kind)}
            self.assertEqual(fields - words - {"applied_count", "type"}, set(), kind)

    def test_the_bodies_that_are_written_out_have_exactly_these_fields(self) -> None:
        page = (ROOT / "docs/protocol.rst").read_text("utf-8")
        modules = (
            significant,
            audit,
            certificates,
            command,
            config,
            enrolment,
            fleet,
            problem,
            pull,
            report,
            segment,
            session,
            trust,
        )
        kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
        known = [
            frozenset(field.encode_name for field in msgspec.structs.fields(kind))
            for kind in kinds
            if issubclass(kind, Message)
        ]
        bodies = re.findall(r'\{"\w+"(?:, *\s*"\w+")+\}', page)
        self.assertGreater(len(bodies), 3)
        for body in bodies:
            said = set(re.findall(r'"(\w+)"', body))
            self.assertTrue(any(said == fields or said == fields - {"v"} for fields in known), body)
