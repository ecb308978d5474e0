"""HAProxy serves the certificates that it is to serve, and changes them without a reload."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
from pathlib import Path

import msgspec
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutput

from avinet.dataplane.exchange import PAYLOAD_BYTES, exchange
from avinet.dataplane.key_files import pem
from avinet.errors import Invalid
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Config
from tests.dataplane.haproxies import HAProxyCase
from tests.dataplane.planes import pool
from tests.dataplane.tls_client import Open, ask_tls, context
from tests.issuing import Issuer, rsa_key
from tests.issuing import pem as chain_pem
from tests.peers import missing
from tests.running import asynchronous, eventually, free_port


class CertificateTests(HAProxyCase):
    async def workers(self) -> tuple[int, ...]:
        running = await self.plane._master.find()
        assert running is not None
        return running.workers

    def loaded(self, said: str) -> int:
        """The serial number in an answer to `show ssl cert`."""
        return int(next(line.split()[1] for line in said.splitlines() if line.startswith("Serial:")), 16)

    @asynchronous
    async def test_a_certificate_is_exchanged_without_a_reload(self) -> None:
        port = await self.serve_tls()
        workers, after = await self.workers(), self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        self.assertEqual(await self.workers(), workers)
        self.assertEqual(self.loaded(await self.plane._master.stats("show ssl cert keys/shop.pem")), after.serial)
        self.assertEqual((self.keys / "shop.pem").read_text(), after.chain_pem + after.key_pem)
        await self.plane._master.reload()
        self.assertNotEqual(await self.workers(), workers)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)

    @asynchronous
    async def test_one_that_is_larger_than_a_command_is_read_by_a_reload(self) -> None:
        port = await self.serve_tls()
        workers = await self.workers()
        large = self.issuer.serve("shop.example", *(f"host-{each}.some.long.domain.example" for each in range(400)))
        self.assertGreater(len(large.chain_pem), 16384)
        await self.plane.take_certificate("shop", large)
        self.assertNotEqual(await self.workers(), workers)
        self.assertEqual(await self.serial(port, "shop.example"), large.serial)

    @asynchronous
    async def test_the_largest_that_fits_into_a_command_needs_no_reload(self) -> None:
        port = await self.serve_tls()
        workers = await self.workers()
        made = [
            self.issuer.serve("shop.example", *(f"host-{each:03}.domain.example" for each in range(count)))
            for count in range(350, 420, 5)
        ]
        fitting = max((each for each in made if len(pem(each)) <= PAYLOAD_BYTES), key=lambda each: len(pem(each)))
        self.assertTrue(PAYLOAD_BYTES - 500 < len(pem(fitting)) <= PAYLOAD_BYTES, len(pem(fitting)))
        await self.plane.take_certificate("shop", fitting)
        self.assertEqual(await self.workers(), workers)
        self.assertEqual(await self.serial(port, "shop.example"), fitting.serial)

    @asynchronous
    async def test_what_haproxy_does_not_take_is_said_in_its_words_and_the_old_one_is_served(self) -> None:
        port = await self.serve_tls()
        before, workers = self.certificates["shop"], await self.workers()
        for weak in (Issuer("Weak CA", key=rsa_key(1024)).serve("shop.example"), self.large_and_weak()):
            error = await self.assertFailure(ensureDeferred(self.plane.take_certificate("shop", weak)), Invalid)
            self.assertIn("chain certificate", str(error))
            self.assertNotIn("\n", str(error))
            self.assertEqual(await self.serial(port, "shop.example"), before.serial)
            self.assertEqual((self.keys / "shop.pem").read_text(), before.chain_pem + before.key_pem)
        self.assertEqual(await self.workers(), workers)
        after = self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)

    def large_and_weak(self) -> ServerCertificate:
        names = (f"host-{each}.some.long.domain.example" for each in range(400))
        return Issuer("Weak CA", key=rsa_key(1024)).serve("shop.example", *names)

    @asynchronous
    async def test_a_transaction_that_somebody_left_stands_in_nobodys_way(self) -> None:
        port = await self.serve_tls()
        other = pem(self.issuer.serve("api.example"))
        said = await self.plane._master.stats(f"set ssl cert keys/api.pem <<\n{other}")
        self.assertIn("Transaction created", said)
        after = self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)
        self.assertEqual(await self.serial(port, "api.example"), self.certificates["api"].serial)

    @asynchronous
    async def test_after_its_driver_died_in_an_exchange_what_the_next_one_has_is_served(self) -> None:
        port = await self.serve_tls()
        config, workers = self.plane._config, await self.workers()
        half = self.issuer.serve("shop.example")
        for committed in (True, False):
            (self.keys / "shop.pem").write_text(pem(half))
            if committed:
                await exchange(self.plane._master.stats, "keys/shop.pem", pem(half))
            await self.plane.detach()
            self.plane = self.another()
            await self.plane.start(config)
            self.assertEqual(await self.serial(port, "shop.example"), self.certificates["shop"].serial)
            self.assertEqual((self.keys / "shop.pem").read_text(), pem(self.certificates["shop"]))
        self.assertEqual(await self.workers(), workers)

    @asynchronous
    async def test_after_a_reboot_the_files_are_made_anew(self) -> None:
        port = await self.serve_tls()
        config = self.plane._config
        await self.plane.shut_down(0.0)
        self.assertEqual(list(self.keys.iterdir()), [])
        self.keys.rmdir()
        self.plane = self.another()
        await self.plane.start(config)
        await eventually("its server is up", lambda: self.up("a"))
        self.assertEqual(await self.serial(port, "shop.example"), self.certificates["shop"].serial)

    @asynchronous
    async def test_it_comes_back_with_the_certificate_that_it_had(self) -> None:
        port = await self.serve_tls()
        after = self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        running = await self.plane._master.find()
        assert running is not None
        os.kill(running.master, signal.SIGKILL)

        async def back() -> bool:
            now = await self.plane._master.find()
            return now is not None and now.master != running.master and bool(now.workers) and self.up("a")

        await eventually("HAProxy is back", back)
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)

    @asynchronous
    async def test_while_it_is_gone_nothing_is_taken_that_it_would_not_start_with(self) -> None:
        port = await self.serve_tls()
        self.plane._tasks.stop()
        await self.plane._master.end_leftovers()
        weak, after = Issuer("Weak CA", key=rsa_key(1024)).serve("shop.example"), self.issuer.serve("shop.example")
        await self.assertFailure(ensureDeferred(self.plane.take_certificate("shop", weak)), Invalid)
        await self.plane.take_certificate("shop", after)
        await self.plane.apply(self.plane._config)
        await eventually("its server is up", lambda: self.up("a"))
        self.assertEqual(await self.serial(port, "shop.example"), after.serial)

    @asynchronous
    async def test_keys_are_in_private_files_and_nowhere_else(self) -> None:
        await self.serve_tls()
        after = self.issuer.serve("shop.example")
        await self.plane.take_certificate("shop", after)
        secrets = [each.key_pem.splitlines()[2] for each in (*self.certificates.values(), after)]
        self.assertEqual(self.keys.stat().st_mode & 0o777, 0o700)
        self.assertEqual({each.stat().st_mode & 0o777 for each in self.keys.iterdir()}, {0o600})
        for path in self.folder.iterdir():
            if path.is_file():
                for secret in secrets:
                    self.assertNotIn(secret.encode(), path.read_bytes(), path)
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with contextlib.suppress(OSError):
                    shown = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
                    self.assertFalse(any(secret.encode() in shown for secret in secrets), place)

    @asynchronous
    async def test_no_key_stays_that_the_configuration_does_not_name(self) -> None:
        port = await self.serve_tls()
        refused = Config(
            virtual_services=[
                self.secured(port, "more"),
                msgspec.structs.replace(self.secured(free_port(), "shop"), name="twin"),
            ],
            pools=[pool("p", self.web)],
        )
        await self.plane.take_certificate("more", self.issuer.serve("more.example"))
        await self.plane.apply(Config(virtual_services=[self.secured(port, "shop")], pools=[pool("p", self.web)]))
        self.assertEqual([each.name for each in self.keys.iterdir() if each.suffix == ".pem"], ["shop.pem"])
        self.plane._master._program = "/bin/false"
        await self.assertFailure(ensureDeferred(self.plane.check(refused)), Invalid)
        self.assertEqual([each.name for each in self.keys.iterdir() if each.suffix == ".pem"], ["shop.pem"])

    @asynchronous
    async def test_of_two_keys_for_a_name_each_client_gets_the_one_that_it_knows(self) -> None:
        self.certificates |= {
            "rsa": self.issuer.serve("both.example", key=rsa_key()),
            "ec": self.issuer.serve("both.example"),
        }
        self.plane = self.another()
        port = await self.serve_tls("shop", "rsa", "ec")
        old = context(self.issuer, maximum_version=ssl.TLSVersion.TLSv1_2)
        old.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        self.assertEqual((await ask_tls(port, "both.example", old)).serial, self.certificates["rsa"].serial)
        self.assertEqual(await self.serial(port, "both.example"), self.certificates["ec"].serial)

    @asynchronous
    async def test_http_2_under_tls(self) -> None:
        port = await self.serve_tls()
        seen = await deferToThread(Open, port, "shop.example", context(self.issuer, protocols=["h2", "http/1.1"]))
        self.addCleanup(seen.close)
        self.assertEqual(seen.tls.selected_alpn_protocol(), "h2")
        curl = shutil.which("curl") or missing("curl is not installed")
        root = Path(self.mktemp())
        root.write_text(chain_pem(self.issuer.root))
        words = ["--silent", "--http2", "--cacert", str(root), "--resolve", f"shop.example:{port}:127.0.0.1"]
        said = await getProcessOutput(
            curl,
            [*words, "--write-out", " %{http_version} %{http_code}", f"https://shop.example:{port}/x?y"],
            os.environ,
        )
        self.assertEqual(said.split()[0], b"a")
        self.assertEqual(said.split()[-2:], [b"2", b"200"])
        found = await self.record()
        self.assertEqual((found.protocol, found.host, found.path), ("HTTP/2.0", "shop.example", "/x"))
        self.assertEqual(
            (found.query, found.sni, found.request_id), ("y", "shop.example", self.web.answers.request_ids[0][0])
        )
