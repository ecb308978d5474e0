"""The certificates that HAProxy serves: what it is to have, the files that it reads, what it has not read of them."""

from __future__ import annotations

from pathlib import Path

from avinet.dataplane.certificates import require
from avinet.dataplane.exchange import PAYLOAD_BYTES, exchange
from avinet.dataplane.key_files import KeyFiles, own_name, pem
from avinet.dataplane.master import Master
from avinet.dataplane.render import KEYS, key_file, list_file
from avinet.errors import AvinetError
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Config


class Keyring:
    """The certificates of the HAProxy of `master`, in a folder of its own below `keys`; one call at a time."""

    def __init__(self, master: Master, keys: Path) -> None:
        self._master = master
        self._files = KeyFiles(keys / own_name(master.folder), master.folder / KEYS)
        self._held: dict[str, ServerCertificate] = {}
        self._unread: set[str] = set()

    async def take(self, name: str, certificate: ServerCertificate, *, served: bool) -> None:
        """Have `certificate`, and serve it where one of its name is `served`.

        Up to `PAYLOAD_BYTES` are exchanged; more are read by a reload, which loses no connection either. Raises
        `Invalid` and others, and then the one before goes on.
        """
        before = self._held.get(name)
        self._held[name] = certificate
        if before is None or not served:
            return
        try:
            await self._write(name)
            if await self._master.find() is not None:
                await self._exchange(name)
            else:  # what is started next has to take it
                await self._master.check(self._master.written())
        except AvinetError:
            self._held[name] = before
            await self._write(name)
            raise

    def drop(self, name: str) -> None:
        """Have none of that name any more: its file went when the configuration that named it did."""
        self._held.pop(name, None)

    async def lay_out(self, config: Config) -> None:
        """Have all that `config` names as files, for HAProxy to read. Raises `Invalid` for what is not held."""
        require(config, self._held)

        def write() -> set[str]:
            for service in config.virtual_services:
                if service.tls is not None:
                    self._files.write_list(service.tls)
            return {name for name in config.certificates if self._files.write(name, self._held[name])}

        self._unread |= await self._master.in_thread(write)

    async def _write(self, name: str) -> None:
        if await self._master.in_thread(lambda: self._files.write(name, self._held[name])):
            self._unread.add(name)

    def was_read(self) -> None:
        """HAProxy has started or reloaded: it has what is in the files."""
        self._unread.clear()

    async def bring(self, config: Config) -> None:
        """Have HAProxy, which runs `config`, serve those that have changed since it read their files."""
        for name in sorted(self._unread & config.certificates):
            await self._exchange(name)

    async def _exchange(self, name: str) -> None:
        text = pem(self._held[name])
        if len(text) <= PAYLOAD_BYTES:
            await exchange(self._master.stats, key_file(name), text)
            self._unread.discard(name)
        else:
            await self._master.check(self._master.written())
            await self._master.reload()
            self.was_read()

    async def keep_only(self, config: Config) -> None:
        """Leave no key in a file that `config` does not need."""
        lists = [list_file(each.tls) for each in config.virtual_services if each.tls]
        wanted = [*lists, *map(key_file, config.certificates)]
        await self._master.in_thread(lambda: self._files.keep_only(wanted))
