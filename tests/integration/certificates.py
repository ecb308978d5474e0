"""Certificates as an operator has them in files, and clients that ask for them by name."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from cryptography import x509

from avinet.trust.server_certificate import ServerCertificate
from demo.machine import Machine
from tests.issuing import Issuer, pem


class Desk:
    """An operator at `machine`, who has certificates issued by a CA, and puts them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.issuer = Issuer()
        self.issued: list[ServerCertificate] = []

    def files(self, found: ServerCertificate) -> tuple[str, str]:
        """The files that hold a chain and its key."""
        number = len(self.issued)
        self.issued.append(found)
        paths = [self._machine.folder / f"{number}-{what}.pem" for what in ("chain", "key")]
        for path, text in zip(paths, (found.chain_pem, found.key_pem), strict=True):
            path.write_text(text)
        return str(paths[0]), str(paths[1])

    def put(self, name: str, *names: str, options: tuple[str, ...] = ()) -> ServerCertificate:
        """Have a certificate issued, and put it."""
        found = self.issuer.serve(*(names or (f"{name}.example.com",)))
        chain, key = self.files(found)
        self._machine.avictl("certificate", "put", name, "--chain", chain, "--key", key, *options)
        return found

    @property
    def secrets(self) -> list[str]:
        """What of the private keys that were issued must be seen nowhere: lines that stand in no other text."""
        return [line for each in self.issued for line in each.key_pem.splitlines()[1:-1] if len(line) > 20]

    def client(self) -> ssl.SSLContext:
        """A client that believes the CA."""
        return ssl.create_default_context(cadata=pem(self.issuer.root))

    def trusting(self) -> ssl.SSLContext:
        """A client that believes the CA, and takes its certificates for any name."""
        client = self.client()
        client.check_hostname = False
        return client

    def served(self, port: int, name: str, *, any_name: bool = False) -> x509.Certificate:
        """The certificate that is shown to who asks for `name`, and that a client takes for it, or for `any_name`."""
        client = self.trusting() if any_name else self.client()
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            client.wrap_socket(plain, server_hostname=name) as secure,
        ):
            der = secure.getpeercert(binary_form=True)
            assert der is not None
            return x509.load_der_x509_certificate(der)


def found_in(folder: Path, secrets: list[str]) -> set[str]:
    """The files below `folder`, by their paths in it, in which one of `secrets` is found."""
    wanted = [each.encode() for each in secrets]
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and any(each in path.read_bytes() for each in wanted)
    }
