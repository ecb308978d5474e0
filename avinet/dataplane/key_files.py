"""Certificates with their keys as files that HAProxy reads when it starts or reloads: private, and meant for memory.

HAProxy finds them through a link beside its configuration, so that their names are the same wherever they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from twisted.logger import Logger

from avinet.dataplane.render import crt_list, key_file, list_file
from avinet.files import cannot, is_in_memory, private_folder, read_limited, write_atomic
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Tls

FILE_LIMIT_BYTES = 1024 * 1024


def pem(certificate: ServerCertificate) -> str:
    """A certificate as HAProxy reads it: the chain, and the key."""
    return certificate.chain_pem + certificate.key_pem


def own_name(folder: Path) -> str:
    """What the keys of the HAProxy in `folder` are called, among those of others on this machine."""
    return hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]


class KeyFiles:
    """The files in `folder`, which is made when there is anything to put into it; `link` leads HAProxy to it.

    A folder that is not in memory is complained of in the log. All that it does takes the time of a disk, and raises
    `LocalError`.
    """

    log = Logger()

    def __init__(self, folder: Path, link: Path) -> None:
        self._folder = folder
        self._link = link
        self._made = False

    def write(self, name: str, certificate: ServerCertificate) -> bool:
        """Have the file of a certificate hold it; returns whether that is news."""
        return self._write(key_file(name), pem(certificate))

    def write_list(self, tls: Tls) -> None:
        """Have the list of the certificates of a listener."""
        self._write(list_file(tls), crt_list(tls))

    def _write(self, name: str, text: str) -> bool:
        self._prepare()
        path, data = self._folder / Path(name).name, text.encode("ascii")
        if path.exists() and read_limited(path, FILE_LIMIT_BYTES) == data:
            return False
        write_atomic(path, data)
        return True

    def _prepare(self) -> None:
        private_folder(self._folder)
        if not self._made and not is_in_memory(self._folder):
            self.log.warn(
                "private keys are in {folder}, which is on a disk: set dataplane.keys to a folder in memory",
                folder=str(self._folder),
            )
        self._made = True
        target = str(self._folder.absolute())
        with contextlib.suppress(OSError):
            if os.readlink(self._link) == target:
                return
        aside = self._link.with_name(f".{self._link.name}.new")
        try:
            aside.unlink(missing_ok=True)
            aside.symlink_to(target)
            aside.rename(self._link)
        except OSError as error:
            raise cannot("write", self._link, error) from error

    def keep_only(self, names: Collection[str]) -> None:
        """Remove every file that is not called like one of `names`."""
        if not self._folder.is_dir():
            return
        wanted = {Path(each).name for each in names}
        for path in self._folder.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)
