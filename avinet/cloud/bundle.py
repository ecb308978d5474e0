"""The image bundle of this domain, and how the local driver boots an instance from one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.cloud.driver import Order
from avinet.cloud.wheel import own_wheel
from avinet.files import private_folder, write_atomic
from avinet.trust import keys
from avinet.trust.authority import IssuingCA
from avinet.trust.image import KEY, NODES, ROOTS, SETTINGS, build_image, open_image, unpack_image
from avinet.wire.message import encode
from avinet.wire.trust import TrustDocument

_UNIT = """\
[Unit]
Description=avinet service engine
After=network-online.target
Wants=network-online.target

[Service]
User=avinet
ExecStart=/opt/avinet/bin/twistd --nodaemon --pidfile= avi-se --config /etc/avinet/se.toml
AmbientCapabilities=CAP_NET_BIND_SERVICE
StateDirectory=avinet/se
StateDirectoryMode=0700
RuntimeDirectory=avinet-se
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
LogsDirectory=avinet
LimitNOFILE=1048576
Restart=always
RestartPreventExitStatus=78
RestartSec=1
KillMode=process

[Install]
WantedBy=multi-user.target
"""
_INSTALL = """\
#!/bin/sh
# Installs the service engine of this image, as root, with Python 3.11 or newer: ./install.sh [USER-DATA.json]
# Without user data it proposes its host name as its id; that takes another policy of enrolment than "claim".
set -eu
here=$(cd "$(dirname "$0")" && pwd)
id avinet >/dev/null 2>&1 || useradd --system --home-dir /var/lib/avinet --shell /usr/sbin/nologin avinet
python3 -m venv /opt/avinet
/opt/avinet/bin/pip install "$here"/avinet-*.whl
install -d -m 0700 -o avinet /etc/avinet /usr/lib/avinet/image
for part in manifest.json roots.pem nodes.json image.key; do
  install -m 0600 -o avinet "$here/$part" /usr/lib/avinet/image/
done
install -m 0600 -o avinet "$here/se.toml" /etc/avinet/se.toml
[ $# = 0 ] || install -m 0600 -o avinet "$1" /etc/avinet/user-data.json
install -m 0644 "$here/avi-se.service" /etc/systemd/system/avi-se.service
rm -f "$here/image.key"
systemctl enable --now avi-se
"""
_SETTINGS = 'state = "/var/lib/avinet/se"\nimage = "/usr/lib/avinet/image"\nuser_data = "user-data.json"\n'


def domain_bundle(
    document: TrustDocument,
    issuing: IssuingCA,
    *,
    image: str,
    image_key: Ed25519PrivateKey,
    not_after: float,
    built: float,
) -> bytes:
    """The bundle that service engines of this domain boot from."""
    wheel, packed = own_wheel()
    files = {
        ROOTS: "".join(document.roots).encode("ascii"),
        NODES: encode(document.nodes),
        KEY: keys.private_pem(image_key),
        SETTINGS: _SETTINGS.encode("ascii"),
        "avi-se.service": _UNIT.encode("ascii"),
        "install.sh": _INSTALL.encode("ascii"),
        wheel: packed,
    }
    return build_image(files, image=image, domain=document.domain, built=built, not_after=not_after, issuing=issuing)


class LocalBoot:
    """Boots an instance of the local driver: unpacks its image, writes its user data; `engine` is its data plane."""

    def __init__(self, engine: str) -> None:
        self._engine = engine

    def __call__(self, order: Order, folder: Path) -> Sequence[str]:
        """See `avinet.cloud.local.Boot`."""
        unpack_image(open_image(order.image), private_folder(folder / "image"))
        data = {"id": order.id, "generation": order.generation, "claim": order.claim}
        write_atomic(folder / "user-data.json", encode(data))
        settings = (
            'state = "state"\nimage = "image"\nuser_data = "user-data.json"\nlogs = "logs"\n\n'
            f'[dataplane]\nengine = "{self._engine}"\nkeys = "keys"\n'
        )
        write_atomic(folder / "se.toml", settings.encode("ascii"))
        private_folder(folder / "logs")
        twistd = Path(sys.executable).parent / "twistd"
        return [sys.executable, str(twistd), "--nodaemon", "--pidfile=", "avi-se", "--config", str(folder / "se.toml")]
