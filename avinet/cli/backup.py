"""`avictl backup` and `avictl restore`: a node's state in one file, and back."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.given import config_option, place_of, state_option
from avinet.cli.shown import emit, escaped, fields, moment
from avinet.units import format_bytes

if TYPE_CHECKING:
    from avinet.controller.backup import Place
    from avinet.controller.settings import ControllerSettings
    from avinet.trust.domain import Domain


@click.command()
@config_option
@state_option
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where to write it; a file is replaced.")
@pass_context
def backup(context: Context, settings: Path | None, state: Path | None, out: Path) -> None:
    """Write the state of this node to one file, as it is at one moment; the node may run.

    It holds every secret of the node, root CA and image keys included: keep it as you keep those.
    """
    from avinet.controller.backup import back_up

    place = place_of(context, settings, state)
    target = out.absolute()
    made = back_up(place, target, time.time(), _from_etcd(place))
    if context.output != "table":
        emit(made, context.output)
        return
    size = format_bytes(target.stat().st_size)
    of = f"{made.node} of domain {made.domain}"
    print(f"{escaped(str(out))}: {size}, {len(made.files)} files of {of}; readable by you alone")


def _on_etcd(place: Place) -> ControllerSettings | None:
    """The settings of a node whose store is on etcd."""
    from avinet.controller.settings import ControllerSettings
    from avinet.settings import load

    if place.settings is None or not place.settings.exists():
        return None
    found = load(place.settings, ControllerSettings)
    return found if found.store.engine == "etcd" else None


def _from_etcd(place: Place) -> Callable[[Path], None] | None:
    """What copies the store of a node on etcd; None for one that has it in its state folder."""
    from avinet.cli.reacting import reacting
    from avinet.store.choose import copy_etcd
    from avinet.trust.domain import load

    found, folder = _on_etcd(place), place.settings.parent if place.settings else Path()
    if found is None:
        return None
    domain = load(place.state / "trust")

    def copy(to: Path) -> None:
        reacting(
            lambda reactor: copy_etcd(
                reactor, found.store, folder, to, domain=domain.id, node=domain.node, now=time.time
            )
        )

    return copy


def _in_etcd(place: Place, domain: Domain) -> bool:
    """Whether the state of the domain is in the etcd that the settings name."""
    from avinet.cli.reacting import reacting
    from avinet.store.choose import used_in_etcd

    found = _on_etcd(place)
    if found is None or place.settings is None:
        return False
    folder = place.settings.parent
    return reacting(
        lambda reactor: used_in_etcd(reactor, found.store, folder, domain=domain.id, node=domain.node, now=time.time)
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@state_option
@pass_context
def restore(context: Context, file: Path, settings: Path | None, state: Path | None) -> None:
    """Make the state folder of a node that is not there any more out of a backup; it overwrites nothing.

    Where the settings name an etcd that has the state of the domain, that stays as it is.
    The settings that are in it are not put back: they stand where this verb reads the place of the state folder from.
    """
    from avinet.controller.restore import restore

    place = place_of(context, settings, state)
    made = restore(file.absolute(), place, getpass.getuser(), time.time(), partial(_in_etcd, place))
    if context.output != "table":
        emit(made, context.output)
        return
    fields(
        [
            ("restored", f"{made.node} of domain {made.domain}, as it was {moment(made.time)}"),
            ("state in", str(place.state)),
            *_what_is_next(place),
        ]
    )


def _what_is_next(place: Place) -> list[tuple[str, str]]:
    on_etcd, in_file = _on_etcd(place) is not None, (place.state / "store.sqlite").exists()
    if on_etcd and not in_file:
        return [("store", "in etcd, as it is: nothing of it was put back"), ("next", "start the node")]
    return [
        ("store", "in a file as yet: avictl store migrate --to etcd moves it" if on_etcd else ""),
        ("next", "start the node; create again what has enrolled since then"),
        ("again", "revoke, reset, retire and tighten what you have since then: the backup does not know"),
    ]
