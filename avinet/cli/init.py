"""`avictl init`: a new domain of trust."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from avinet.cli.shown import fields
from avinet.controller.settings import ControllerSettings
from avinet.settings import load
from avinet.trust import keys
from avinet.trust.domain import found
from avinet.trust.image import fingerprint


@click.command()
@click.option(
    "--config",
    "settings",
    default="/etc/avinet/controller.toml",
    show_default=True,
    help="The controller's settings, which name its node and its state folder.",
)
def init(settings: str) -> None:
    """Make a new domain of trust: root CA, issuing CA, node keys, image key. Once: it overwrites nothing."""
    path = Path(settings).absolute()
    wanted = load(path, ControllerSettings)
    folder = path.parent / wanted.state / "trust"
    domain = found(folder, wanted.node, datetime.now(UTC))
    fields(
        [
            ("domain", domain.id),
            ("node", f"{domain.node} ({domain.name})"),
            ("root CA", f"SHA-256 {fingerprint(domain.root)}"),
            ("SSH host key", keys.fingerprint(keys.public_line(domain.ssh_host_key))),
            ("image", domain.first_image.id),
            ("keys in", str(folder)),
        ]
    )
    print(f"\nKeep {folder / 'root.key'} offline once the domain runs: it is needed to sign issuing CAs only.")
    print(f"Start the node: twistd -n avi-controller --config {path}")
