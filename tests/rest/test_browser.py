"""What a door answers, opened in a real browser: text of others is shown, and never run (H6)."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from avinet.aio import Tasks
from avinet.errors import NotFound
from avinet.rest.answering import INERT
from avinet.rest.door import Door
from avinet.rest.problems import problem_of
from avinet.rest.route import Reply, Request, Route
from avinet.rest.table import Table
from avinet.wire.fleet import Engine
from avinet.wire.message import encode
from tests.peers import require
from tests.running import asynchronous

RUN = "document.title='it ran'"
SCRIPT = f"<script>{RUN}</script><img src=x onerror={RUN}>"
ENGINE = Engine(id="se-1", state="enrolled", generation=1, hostname=SCRIPT, version=f"Mozilla/5.0 {SCRIPT}")
MISSING = NotFound(f"there is no {SCRIPT}")


async def engine(request: Request) -> Reply:
    return Reply(200, ENGINE)


async def missing(request: Request) -> Reply:
    raise MISSING


async def keys(request: Request) -> Reply:
    return Reply(200, RUN.encode(), {"content-type": "text/plain; charset=utf-8"})


async def page(request: Request) -> Reply:
    return Reply(200, SCRIPT.encode(), {"content-type": "text/html"})


ROUTES = [
    Route("GET", "/engine", engine, "A host name and a user agent"),
    Route("GET", "/missing", missing, "An error that quotes the request"),
    Route("GET", "/keys", keys, "Text"),
    Route("GET", "/page", page, "The worst: a route that says it is a page"),
]


class Planted(Resource):
    """Serves a body as a page, as a server would that gives no thought to it."""

    isLeaf = True

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        super().__init__()
        self.body, self.headers = body, headers

    def render_GET(self, request: Any) -> bytes:
        for name, value in self.headers.items():
            request.setHeader(name, value)
        return self.body


class BrowserTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.program = require("chromium")

    def listen(self, factory: Any) -> str:
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    def door(self) -> str:
        return self.listen(Door(reactor, Table(ROUTES), tasks=Tasks()))

    def planted(self, body: bytes, **headers: str) -> str:
        site = Site(Planted(body, {"content-type": "text/html", **headers}))
        site.noisy = False
        site.log = lambda request: None  # type: ignore[method-assign]
        return self.listen(site)

    async def shown(self, address: str) -> str:
        """The document that the browser makes of an address, when it has come to rest."""
        command = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            f"--disable-component-update --disable-sync --user-data-dir={self.mktemp()} --dump-dom {address}"
        )
        out, err, code = await getProcessOutputAndValue(self.program, command.split(), env=os.environ)
        self.assertEqual(code, 0, err)
        self.assertIn(b"<html", out, err)
        document: str = out.decode()
        return document

    def assert_ran(self, document: str) -> None:
        self.assertIn("<title>it ran</title>", document)

    def assert_inert(self, document: str) -> None:
        self.assertNotIn("<title>it ran</title>", document)

    @asynchronous
    async def test_the_same_bytes_run_where_nobody_forbids_it(self) -> None:
        for body in (encode(ENGINE), encode(problem_of(MISSING)), SCRIPT.encode()):
            self.assert_ran(await self.shown(self.planted(body)))

    @asynchronous
    async def test_they_do_not_run_at_a_door(self) -> None:
        door = self.door()
        for path in ("/engine", "/missing"):
            document = await self.shown(door + path)
            self.assert_inert(document)
            self.assertIn("&lt;script&gt;", document, "it is shown as text")
            self.assertNotIn("<script>", document)
            self.assertNotIn("<img", document)
        self.assert_inert(await self.shown(door + "/page"))

    @asynchronous
    async def test_another_page_can_neither_run_an_answer_nor_show_it(self) -> None:
        door, other = self.door(), self.planted(RUN.encode(), **{"content-type": "text/plain"})
        load = "<html><script src='{}'></script></html>"
        self.assert_ran(await self.shown(self.planted(load.format(other).encode())))
        self.assert_inert(await self.shown(self.planted(load.format(door + "/keys").encode())))
        (framing,) = [each for each in INERT["content-security-policy"].split("; ") if each.startswith("frame-")]
        speaks = b"<script>parent.postMessage('here', '*')</script>"
        for headers, seen in (({}, self.assert_ran), ({"content-security-policy": framing}, self.assert_inert)):
            framed = self.planted(speaks, **headers)
            frame = f"<html><script>onmessage = () => {{ {RUN} }}</script><iframe src='{framed}'></iframe></html>"
            seen(await self.shown(self.planted(frame.encode())))
