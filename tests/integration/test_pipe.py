"""`avictl connect` through the tunnel of a stock client: 10 MiB each way, and each direction ends by itself."""

from __future__ import annotations

import socket
import threading
from hashlib import sha256
from random import Random

from tests.integration.node import PATIENCE_S
from tests.integration.test_stock_tunnel import TunnelCase

DATA = Random(11).randbytes(10 * 1024 * 1024)


class PipeTests(TunnelCase):
    engines = ("se-1",)

    def test_ten_mebibytes_arrive_each_way_and_the_answer_comes_after_the_end_of_the_question(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.settimeout(PATIENCE_S)
        self.addCleanup(listening.close)

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(PATIENCE_S)
                with connection.makefile("rb") as file:
                    data = file.read()
                connection.sendall(sha256(data).digest() + data[::-1])

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        self.hold("-R", f"api:80:127.0.0.1:{listening.getsockname()[1]}")
        question = self.node.folder / "question"
        question.write_bytes(DATA)
        with question.open("rb") as source:
            done = self.node.avictl("connect", "se-1", "api", stdin=source.fileno())
        answering.join(PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout[:32], sha256(DATA).digest())
        self.assertEqual(sha256(done.stdout[32:]).digest(), sha256(DATA[::-1]).digest())
