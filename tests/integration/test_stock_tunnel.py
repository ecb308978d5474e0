"""A stock OpenSSH client with the key of a service engine holds the tunnel in its place; curl uses what it carries."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from typing_extensions import override

from demo.machine import free_ports
from tests.integration.certificates import Desk
from tests.integration.node import NodeCase
from tests.peers import require


class Behind(BaseHTTPRequestHandler):
    """Any web server: it says what it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"behind -R: {self.path}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written for each request."""


class Older(BaseHTTPRequestHandler):
    """The control service of a service engine from before there were certificates: it says what it was asked for."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.append(self.path)
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written for each request."""


class TunnelCase(NodeCase):
    """A stock client can hold the tunnel of `se-1`."""

    @override
    def setUp(self) -> None:
        self.ssh, self.curl = require("ssh"), require("curl")
        super().setUp()
        known = self.node.receipt("se-1").nodes[0]
        (self.node.folder / "known_hosts").write_text(
            "".join(f"[127.0.0.1]:{self.node.ssh_port} {key}\n" for key in known.ssh_host_keys)
        )

    def options(self, *arguments: str, key: Path | None = None, user: str = "aviseuser") -> list[str]:
        """The command line of a stock client that believes the receipt's host key and no other."""
        key = key or self.node.place("se-1") / "state" / "se_ed25519_key"
        settings = (
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.node.folder / 'known_hosts'}",
            "GlobalKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "ExitOnForwardFailure=yes",
        )
        line = [self.ssh, "-F", "/dev/null", "-i", str(key), "-p", str(self.node.ssh_port)]
        return [*line, *(f"-o{each}" for each in settings), *arguments, f"{user}@127.0.0.1"]

    def leave(self) -> None:
        """The service engine's own process is gone, and its tunnel with it."""
        self.node.machine.kill("se-1")
        self.node.machine.until("se-1 is gone", lambda: self.node.engine("se-1").get("connected_since") is None)

    def hold(self, *arguments: str) -> None:
        """Hold the tunnel until the end of the test."""
        self.leave()
        self.node.machine.start("ssh", *self.options("-N", *arguments))
        self.node.machine.until(
            "the stock client is connected", lambda: self.node.engine("se-1").get("connected_since") is not None
        )


class LimitTests(TunnelCase):
    """How much of a node one tunnel may use is a setting (S30)."""

    engines = ("se-1",)
    ssh_settings = "channels = 8\n"

    def test_a_tunnel_has_so_many_channels_as_the_settings_say(self) -> None:
        (port,) = free_ports(1)
        self.hold("-L", f"{port}:api:80")
        self.node.machine.until("the forwarding listens", lambda: self.asked(port))
        held = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(30)]
        for each in held:
            self.addCleanup(each.close)
            each.settimeout(20)
        closed = 0
        for each in held[8:]:
            closed += each.recv(1) == b""
        self.assertEqual(closed, 22, "refused by the node, and closed by the stock client")
        held[0].close()
        self.node.machine.until("one that goes makes room for another", lambda: self.asked(port))

    def asked(self, port: int) -> bool:
        return self.node.run(self.curl, "-sf", "--max-time", "5", f"http://127.0.0.1:{port}/v1/trust").returncode == 0


class OlderEngineTests(TunnelCase):
    engines = ("se-1",)

    def test_one_that_knows_no_certificates_is_said_to_be_too_old_and_its_configuration_waits(self) -> None:
        handler = type("Handler", (Older,), {"asked": []})
        older = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.addCleanup(older.server_close)
        self.addCleanup(older.shutdown)
        threading.Thread(target=older.serve_forever, daemon=True).start()
        machine, desk = self.node.machine, Desk(self.node.machine)
        desk.put("shop")
        self.hold("-R", f"control:80:127.0.0.1:{older.server_port}")
        web = {"name": "web", "address": "127.0.0.1", "port": free_ports(1)[0], "pool": "p"}
        document = {
            "name": "web",
            "virtual_services": [{**web, "tls": {"certificates": ["shop"]}}],
            "pools": [{"name": "p", "servers": [{"name": "s", "address": "127.0.0.1", "port": 9}]}],
        }
        path = self.node.folder / "web.json"
        path.write_text(json.dumps(document))
        machine.avictl("config", "apply", "-f", str(path))
        machine.until("it is said", lambda: "too old" in self.node.engine("se-1").get("problem", ""))
        self.assertIn(
            "service engine se-1 is too old to serve certificate shop: upgrade avinet on it",
            machine.avictl("se", "show", "se-1"),
        )
        desk.put("shop")
        machine.kill("ssh")
        asked = [each for each in handler.asked if each != "/v1/trust"]
        self.assertEqual(asked, ["/v1/certificates"], "it is asked once, and sent no configuration")


class StockTunnelTests(TunnelCase):
    engines = ("se-1", "se-2")

    def get(self, port: int, path: str, *arguments: str) -> tuple[int, str]:
        done = self.node.run(
            self.curl, "-s", "--max-time", "20", "-w", "\n%{http_code}", *arguments, f"http://127.0.0.1:{port}{path}"
        )
        body, _, status = done.stdout.decode().rpartition("\n")
        return int(status), body

    def configure(self) -> None:
        """Each service engine gets one virtual service, named after it."""
        for id in self.engines:
            document = {
                "name": f"for-{id}",
                "applies_to": {"kind": "service-engine", "id": id},
                "pools": [{"name": "p", "servers": [{"name": "s", "address": "127.0.0.1", "port": 9}]}],
                "virtual_services": [
                    {"name": f"web-{id}", "address": "127.0.0.1", "port": free_ports(1)[0], "pool": "p"}
                ],
            }
            path = self.node.folder / f"{id}.json"
            path.write_text(json.dumps(document))
            self.node.machine.avictl("config", "apply", "-f", str(path))

    def test_curl_reaches_the_control_service_as_the_key_s_service_engine_and_no_other(self) -> None:
        """The identity is the session's key, never a field or a header (H4)."""
        self.configure()
        (port,) = free_ports(1)
        self.hold("-L", f"{port}:api:80")
        self.node.machine.until("the forwarding listens", lambda: self.get(port, "/v1/trust")[0] == 200)
        for spoof in ((), ("-H", "Host: se-2"), ("-H", "avinet-service-engine: se-2")):
            status, body = self.get(port, "/v1/configuration", *spoof)
            self.assertEqual(status, 200, body)
            self.assertIn("web-se-1", body)
            self.assertNotIn("web-se-2", body)
        self.assertEqual(self.get(port, "/v1/status")[0], 404)
        self.assertEqual(self.get(port, "/v1/service-engines")[0], 404)

    def tell(self, port: int, method: str, path: str, body: dict[str, object]) -> int:
        headers = ("-H", "content-type: application/json", "-H", "Host: se-2", "-H", "avinet-service-engine: se-2")
        return self.get(port, path, "-X", method, "-d", json.dumps(body), *headers)[0]

    def test_what_it_says_of_another_one_is_said_of_itself_or_refused(self) -> None:
        """Neither a report nor a hello names a service engine, and a label or a host name is not believed (H4)."""
        control, reports = free_ports(2)
        self.hold("-L", f"{control}:control:80", "-L", f"{reports}:reports:80")
        self.node.machine.until("the forwarding listens", lambda: self.get(control, "/v1/trust")[0] == 200)
        before = self.node.engine("se-2")
        health = [{"pool": "p", "server": "s", "state": "down", "since": 1.0}]
        report = {"seq": 0, "boot": "b", "time": 1.0, "interval_s": 1.0, "health": health}
        hello = {"boot": "b", "started": 1.0, "hostname": "se-2", "labels": {"site": "other"}}
        for port, method, path, body in (
            (reports, "POST", "/v1/reports", report),
            (control, "PUT", "/v1/session", hello),
        ):
            for name in ("id", "service_engine", "generation", "node"):
                self.assertEqual(self.tell(port, method, path, {**body, name: "se-2"}), 422, (path, name))
            self.assertIn(self.tell(port, method, path, body), (200, 204), path)
        self.assertEqual(self.tell(reports, "POST", "/v1/service-engines/se-2/reports", report), 404)
        own, other = self.node.engine("se-1"), self.node.engine("se-2")
        self.assertEqual((own["servers_down"], own["hostname"], own["labels"]), (1, "se-2", {"site": "test"}))
        for key in ("servers_down", "hostname", "labels", "connected_since", "config", "generation"):
            self.assertEqual(other.get(key), before.get(key), key)
        events = self.node.machine.asked("se", "list", "--label", "site=other")["items"]
        self.assertEqual(events, [])

    def listening(self) -> set[int]:
        """The TCP ports that the controller listens on."""
        place = Path("/proc") / str(self.node.machine.process("controller"))
        own = {os.readlink(each) for each in (place / "fd").iterdir() if each.is_symlink()}
        lines = [
            line.split() for name in ("tcp", "tcp6") for line in (place / "net" / name).read_text().splitlines()[1:]
        ]
        found = {
            int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own
        }
        self.assertLessEqual({self.node.ssh_port, self.node.https_port}, found)
        return found

    def test_the_controller_reaches_a_web_server_behind_the_reverse_forwarding(self) -> None:
        """Nothing listens for it (S31)."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        self.addCleanup(serving.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        before = self.listening()
        self.hold("-R", f"api:80:127.0.0.1:{server.server_port}")
        request = self.node.folder / "request"
        request.write_bytes(b"GET /here HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")

        def answered() -> bytes:
            with request.open("rb") as source:
                return self.node.avictl("connect", "se-1", "api", stdin=source.fileno()).stdout

        answer = self.node.machine.until("the web server is reached", answered)
        self.assertEqual(self.listening(), before)
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"), answer)
        self.assertTrue(answer.endswith(b"behind -R: /here"), answer)

    def test_there_is_no_shell_no_command_no_files_and_no_other_target(self) -> None:
        """(S31)"""
        self.leave()
        for arguments in (["-T"], ["-s"]):
            done = self.node.run(*self.options(*arguments), *(["sftp"] if arguments == ["-s"] else []))
            self.assertEqual((done.returncode, done.stdout), (255, b""), done.stderr)
        done = self.node.run(*self.options("-T"), "echo", "run")
        self.assertEqual((done.returncode, done.stdout), (255, b""), done.stderr)
        for target in ("otherhost:80", "localhost:80", "127.0.0.1:80", "api:22", "ssh:22"):
            done = self.node.run(*self.options("-W", target))
            self.assertEqual((done.returncode, done.stdout), (255, b""), target)
            self.assertIn(b"open failed: administratively prohibited", done.stderr, target)
        for name in ("other:80", "api:81", "0.0.0.0:80"):
            done = self.node.run(*self.options("-N", "-R", f"{name}:127.0.0.1:9"))
            self.assertEqual(done.returncode, 255, name)
            self.assertIn(b"remote port forwarding failed", done.stderr, name)

    def test_another_key_another_user_and_another_host_key_are_refused(self) -> None:
        """(S16, S17)"""
        self.leave()
        place = self.node.place("se-1") / "state"
        stranger = self.node.folder / "stranger"
        done = self.node.run(require("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(stranger))
        self.assertEqual(done.returncode, 0, done.stderr)
        image_key = next(self.node.folder.glob("controller/trust/images/*.key"))
        for key in (stranger, place / "ssh_host_ed25519_key", image_key):
            done = self.node.run(*self.options("-N", key=key))
            self.assertEqual(done.returncode, 255, shlex.join(done.args))
            self.assertIn(b"Permission denied (publickey)", done.stderr, str(key))
        for user in ("root", "avictlruser"):
            done = self.node.run(*self.options("-N", user=user))
            self.assertIn(b"Permission denied (publickey)", done.stderr, user)
        kinds = {each["kind"] for each in self.node.machine.asked("events")["items"] if each.get("alarm")}
        self.assertEqual(kinds, {"image-key-as-login", "engine-key-as-login"})
        line = self.node.engine("se-1")["host_key"]
        (self.node.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.node.ssh_port} {line}\n")
        done = self.node.run(*self.options("-N"))
        self.assertEqual(done.returncode, 255)
        self.assertIn(b"Host key verification failed", done.stderr)

    def test_a_copy_of_the_key_is_told_to_come_later_and_the_tunnel_stays(self) -> None:
        """(S32)"""
        since = self.node.engine("se-1")["connected_since"]
        done = self.node.run(*self.options("-N"))
        self.assertEqual(done.returncode, 255)
        self.assertIn(b"retry-after=", done.stderr)
        self.assertEqual(self.node.engine("se-1")["connected_since"], since)
        alarms = [each for each in self.node.machine.asked("events")["items"] if each.get("alarm")]
        self.assertEqual([(each["kind"], each["id"]) for each in alarms], [("clone", "se-1")])
        self.assertIn("pong from se-1", self.node.machine.avictl("run", "se-1", "ping"))

    def test_a_tunnel_that_says_nothing_any_more_makes_way_for_the_next(self) -> None:
        """After a power cut the old tunnel is half-dead: it is probed, and the new one takes over without an alarm (S32)."""
        self.hold()
        silent = self.node.machine.process("ssh")
        os.kill(silent, signal.SIGSTOP)
        try:
            self.node.start_engine("se-1")
            self.node.machine.until("se-1 has taken over", lambda: self.node.connected("se-1"))
        finally:
            os.kill(silent, signal.SIGCONT)
        self.node.machine.until("the old one has been ended", lambda: self.node.machine.ended("ssh"))
        self.assertTrue(self.node.connected("se-1"))
        self.assertEqual([each for each in self.node.machine.asked("events")["items"] if each.get("alarm")], [])
