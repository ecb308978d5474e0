"""Stock ssh, sftp, scp and curl reach a service engine through `avictl`, over its own tunnel."""

from __future__ import annotations

import os
import shlex
import sys
from hashlib import sha256
from random import Random

from typing_extensions import override

from tests.integration.node import NodeCase
from tests.peers import require

LOG = Random(7).randbytes(1_000_000)


class StockToolsTests(NodeCase):
    engines = ("se-1", "se-2")

    @override
    def setUp(self) -> None:
        for program in ("ssh", "sftp", "scp", "ssh-keygen"):
            require(program)
        super().setUp()
        self.logs = self.node.place("se-1") / "logs"
        (self.logs / "access.log").write_bytes(LOG)
        (self.logs / "out").symlink_to("/etc/passwd")
        self.key = self.node.folder / "id"
        self.ended("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        self.config = self.node.folder / "ssh_config"
        self.config.write_bytes(self.ended(*self.avictl, "ssh-config", "--identity", str(self.key)))

    avictl = (sys.executable, "-m", "avinet.cli")

    def ended(self, *command: str, code: int = 0) -> bytes:
        """What a program printed that ended with `code`."""
        done = self.node.run(*command)
        self.assertEqual(done.returncode, code, f"{shlex.join(command)}: {done.stdout!r} {done.stderr!r}")
        return done.stdout

    def test_avictl_ssh_runs_commands_and_ends_as_they_do(self) -> None:
        self.assertEqual(self.ended(*self.avictl, "ssh", "se-1", "--", "ping"), b"pong from se-1\n")
        self.assertIn(b'"id": "se-1"', self.ended(*self.avictl, "ssh", "se-1", "--", "status"))
        for command in ("config", "dataplane"):
            self.assertTrue(self.ended(*self.avictl, "ssh", "se-1", "--", command))
        self.ended(*self.avictl, "ssh", "se-1", "--", "no-such-command", code=127)
        self.ended(*self.avictl, "ssh", "se-1", "--", "ping", "too", "much", code=1)

    def test_ssh_sftp_and_scp_work_with_the_printed_configuration(self) -> None:
        options = ("-F", str(self.config), "-oBatchMode=yes")
        self.assertEqual(self.ended("ssh", *options, "se-1.avinet", "ping"), b"pong from se-1\n")
        self.assertEqual(self.ended("ssh", *options, "se-2.avinet", "ping"), b"pong from se-2\n")
        got = self.node.folder / "got"
        self.ended("scp", *options, "se-1.avinet:access.log", str(got))
        self.assertEqual(sha256(got.read_bytes()).digest(), sha256(LOG).digest())
        for name in ("../state/se_ed25519_key", "/etc/passwd", "out"):
            self.ended("scp", *options, f"se-1.avinet:{name}", str(self.node.folder / "stolen"), code=1)
            self.assertFalse((self.node.folder / "stolen").exists(), name)
        self.ended("scp", *options, str(got), "se-1.avinet:new.log", code=1)
        batch = self.node.folder / "batch"
        tries = (
            "put got",
            "rm access.log",
            "mkdir d",
            "rename access.log x",
            "get ../se.toml stolen",
            "get out stolen",
        )
        batch.write_text("".join(f"-{each}\n" for each in tries) + f"get access.log {got}.2\n")
        self.ended("sftp", *options, "-b", str(batch), "se-1.avinet")
        self.assertEqual((self.node.folder / "got.2").read_bytes(), LOG)
        self.assertEqual(sorted(os.listdir(self.logs)), ["access.log", "out"])
        self.assertFalse((self.node.folder / "stolen").exists())

    def test_a_key_opens_the_service_engine_that_admitted_it_and_no_other(self) -> None:
        hosts = self.node.folder / "known_hosts"
        hosts.write_text("".join(f"{id} {self.node.engine(id)['host_key']}\n" for id in self.engines))
        proxy = shlex.join(self.avictl)

        def options(extra: str = "") -> tuple[str, ...]:
            return (
                "-F/dev/null",
                f"-oProxyCommand={proxy} connect {extra} %n ssh",
                f"-oUserKnownHostsFile={hosts}",
                "-oStrictHostKeyChecking=yes",
                "-oBatchMode=yes",
                "-oIdentitiesOnly=yes",
                f"-i{self.key}",
                "-lavictlruser",
            )

        self.ended("ssh", *options(), "se-1", "ping", code=255)
        self.ended("ssh", *options(f"--identity {self.key}"), "se-1", "ping")
        self.assertEqual(self.ended("ssh", *options(), "se-1", "ping"), b"pong from se-1\n")
        self.ended("ssh", *options(), "se-2", "ping", code=255)
        hosts.write_text(f"se-1 {self.node.engine('se-2')['host_key']}\n")
        self.ended("ssh", *options(), "se-1", "ping", code=255)

    def test_http_through_a_pipe_reads_the_status_and_changes_nothing(self) -> None:
        """A request that changes something is refused without a node's signature (H12)."""
        for line, status in ((b"GET /v1/status", b"200"), (b"PUT /v1/configuration", b"401")):
            source, asking = os.pipe()
            os.write(asking, line + b" HTTP/1.1\r\nHost: control\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            try:
                done = self.node.avictl("connect", "se-1", "control", stdin=source)
            finally:
                os.close(source)
                os.close(asking)
            self.assertEqual(done.stdout[:12], b"HTTP/1.1 " + status, done)

    def test_a_service_engine_that_is_gone_gets_one_line(self) -> None:
        self.node.machine.kill("se-1")
        self.node.machine.until("se-1 is gone", lambda: self.node.engine("se-1").get("connected_since") is None)
        for verb in (("ssh", "se-1", "--", "ping"), ("connect", "se-1", "ssh"), ("run", "se-1", "ping")):
            done = self.node.avictl(*verb)
            self.assertEqual(done.returncode, 6, done.stderr)
            self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)
            self.assertIn(b"service engine se-1 is not connected", done.stderr)
