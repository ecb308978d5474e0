"""`avictl init`: a new domain of trust."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from avinet.cli.context import SETTINGS, Context, pass_node
from avinet.cli.shown import escaped, fields


@click.command()
@click.option(
    "--config",
    "settings",
    type=click.Path(path_type=Path),
    help=f"The node's settings, which name the node and its state folder (default {SETTINGS}).",
)
@click.option("--state", type=click.Path(path_type=Path), help="The state folder, in place of the one in the settings.")
@click.option("--node", help="This node's id, in place of the one in the settings.")
@pass_node
def init(context: Context, settings: Path | None, state: Path | None, node: str | None) -> None:
    """Make a new domain of trust: root CA, issuing CA, node keys, image key. Once: it overwrites nothing.

    With --state no settings are read, unless they are named.
    """
    from avinet.controller.settings import ControllerSettings
    from avinet.settings import load
    from avinet.trust import keys
    from avinet.trust.domain import found
    from avinet.trust.image import fingerprint

    named = settings or context.settings
    path = (named or SETTINGS).absolute()
    wanted = load(path, ControllerSettings) if named or state is None else ControllerSettings()
    folder = (state.absolute() if state else path.parent / wanted.state) / "trust"
    domain = found(folder, node or wanted.node, datetime.now(UTC))
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
    root = escaped(str(folder / "root.key"))
    print(f"\nKeep {root} offline once the domain runs: it is needed to sign issuing CAs only.")
    print(f"Start the node: twistd -n avi-controller --config {escaped(str(path))}")
