"""What a document says becomes a configuration of HAProxy, and never more of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.render import key_file, render
from avinet.errors import Invalid
from avinet.wire.config import Config, Document
from avinet.wire.message import decode, encode

HOSTILE = st.text(st.sampled_from("a1-.:/*[] \"'\\\n\r\t\0{}#%$,;ä"), max_size=3)
GOOD = {"name": "w", "address": "10.0.0.1", "host": "a.example", "path": "/a", "check": "/", "certificate": "c"}
DIRECTIVES = ("lua-load", "external-check", "program", "setenv", "chroot", "user ", "include")


class RenderTests(SynchronousTestCase):
    """(H9)"""

    def test_no_value_becomes_a_directive(self) -> None:
        rendered = 0

        @settings(max_examples=500)
        @given(st.sampled_from(sorted(GOOD)), HOSTILE, st.integers(0, 10))
        def tried(field: str, hostile: str, at: int) -> None:
            nonlocal rendered
            rendered += self.is_taken(**{**GOOD, field: GOOD[field][:at] + hostile + GOOD[field][at:]})

        tried()
        self.assertGreater(rendered, 10, "some of it does no harm, and is taken")

    def is_taken(self, name: str, address: str, host: str, path: str, check: str, certificate: str) -> bool:
        """Whether it is a document; fails when what is made of it has any line that is not meant."""
        plain = {
            "name": "d",
            "virtual_services": [
                {
                    "name": name,
                    "address": address,
                    "port": 80,
                    "routes": [{"pool": "p", "host": host, "path": path}],
                    "tls": {"certificates": [certificate]},
                }
            ],
            "pools": [
                {
                    "name": "p",
                    "servers": [{"name": "s", "address": address, "port": 1}],
                    "health_check": {"kind": "http", "path": check},
                }
            ],
        }
        try:
            document = decode(encode(plain), Document, limit_bytes=10**6)
        except Invalid:
            return False
        text = render(Config(virtual_services=document.virtual_services, pools=document.pools))
        words = {line.split()[0] for line in text.splitlines() if line.strip()}
        self.assertTrue(words <= ALLOWED, words - ALLOWED)
        self.assertTrue(text.isascii())
        self.assertRegex(key_file(certificate), r"\Akeys/[a-z0-9-]+\.pem\Z")
        for each in DIRECTIVES:
            self.assertFalse(any(line.strip().startswith(each) for line in text.splitlines()))
        return True


ALLOWED = {
    "global", "description", "stats", "server-state-file", "log", "hard-stop-after", "ring", "format", "maxlen", "size", "timeout",
    "server", "defaults", "option", "retries", "load-server-state-from-file", "frontend", "mode", "bind",
    "log-format", "use_backend", "default_backend", "backend", "balance", "http-check", "http-reuse", "error-log-format", "http-request",
    "listen", "default-server", "tcp-request", "unique-id-format", "#",
}  # fmt: skip
