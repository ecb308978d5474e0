"""dropbear, which small devices have."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import closing

from typing_extensions import override

from avinet.ssh.negotiation import Proposal
from avinet.ssh.packets import Inbound
from avinet.ssh.policy import MIB
from tests.interop.algorithms import Offers, product
from tests.interop.peers import ClientPeer, Dialled, write_key
from tests.peers import require
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, line_of

_DEADLINE_S = 10.0


class DropbearClient(ClientPeer):
    """`dbclient -N -L -R`; it cannot be told which key exchange to use, nor to ask for new keys."""

    name = "dropbear"
    program = "dbclient"
    ready = b""
    asks = False
    ends_in_order = True
    combine = staticmethod(product)
    least = Offers(
        frozenset({"curve25519-sha256", "curve25519-sha256@libssh.org"}),
        frozenset({"chacha20-poly1305@openssh.com"}),
        frozenset(),
    )

    @override
    def offers(self) -> Offers:
        """What stands in its KEXINIT: `-c help` and `-m help` do not say which key exchanges it has."""
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            listener.settimeout(_DEADLINE_S)
            command = [require("dbclient"), "-y", "-y", "-p", str(listener.getsockname()[1]), "127.0.0.1"]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
                try:
                    proposal = self._proposal(listener.accept()[0])
                finally:
                    client.kill()
        lists = (proposal.key_exchanges, proposal.ciphers_to_server, proposal.macs_to_server)
        return Offers(*(frozenset(map(bytes.decode, names)) for names in lists))

    def _proposal(self, connection: socket.socket) -> Proposal:
        inbound = Inbound(35000)
        greeted = False
        with closing(connection):
            connection.settimeout(_DEADLINE_S)
            connection.sendall(b"SSH-2.0-test\r\n")
            while count := connection.recv_into(inbound.space()):
                inbound.filled(count)
                greeted = greeted or inbound.next_line() is not None
                packet = inbound.next_packet() if greeted else None
                if packet is not None:
                    return Proposal.decode(bytes(packet[1:]))
                inbound.settle()
        raise AssertionError("dbclient sent no KEXINIT")

    @override
    def command(self, dialled: Dialled) -> tuple[list[str], Mapping[str, str]]:
        home = dialled.folder.absolute()
        (home / ".ssh").mkdir()
        (home / ".ssh" / "known_hosts").write_text(f"127.0.0.1 {line_of(HOST_KEY)}\n")
        converted = str(home / "dropbear_key")
        subprocess.run(
            [require("dropbearconvert"), "openssh", "dropbear", write_key(home / "key", USER_KEY), converted],
            check=True,
            capture_output=True,
        )
        chosen: list[str] = []
        if dialled.combination is not None:
            chosen += ["-c", dialled.combination.cipher]
            chosen += ["-m", dialled.combination.mac] if dialled.combination.mac else []
        return [
            require("dbclient"),
            *("-N", "-W", str(MIB), "-i", converted, "-p", str(dialled.port), "-o", "ExitOnForwardFailure=yes"),
            *("-L", f"127.0.0.1:{dialled.local}:api:80", "-R", f"api:80:127.0.0.1:{dialled.target}"),
            *chosen,
            f"{USER}@127.0.0.1",
        ], {**os.environ, "HOME": str(home)}
