"""`avictl image`: what service engines boot from."""

from __future__ import annotations

from pathlib import Path

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.shown import emit, escaped, moment, table
from avinet.files import write_atomic
from avinet.ids import parse_id
from avinet.units import format_bytes
from avinet.wire.fleet import Image, ImageBuild, ImageList


@click.group()
def image() -> None:
    """Images: build, list, retire."""


@image.command()
@click.option("--out", default="se-image.tar.gz", show_default=True, help="Where to write the bundle.")
@click.option("--id", "id_", help="The image (default: the newest that is active); a new id makes a new image key.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long the key of a new image is good (default: 365).")
@pass_context
def build(context: Context, out: str, id_: str | None, days: int | None) -> None:
    """Write a bundle to boot service engines from. It holds the image key: keep it private."""
    bundle = context.node.request("POST", "/v1/images", ImageBuild(id=id_, days=days), timeout_s=120)
    write_atomic(Path(out).absolute(), bundle)
    if context.output == "table":
        print(f"{escaped(out)}: {format_bytes(len(bundle))}, readable by you alone")


@image.command("list")
@pass_context
def list_(context: Context) -> None:
    """All images."""
    found = context.node.ask("GET", "/v1/images", ImageList)
    if context.output != "table":
        emit(found, context.output)
        return
    table(
        ["IMAGE", "STATE", "NOT AFTER", "LET IN", "KEY"],
        [(each.id, each.state, moment(each.not_after), str(each.let_in), each.fingerprint) for each in found.items],
    )


@image.command()
@click.argument("id")
@pass_context
def retire(context: Context, id: str) -> None:
    """Let an image key enrol nothing any more; service engines that have enrolled stay."""
    found = context.node.ask("POST", f"/v1/images/{parse_id(id)}/retirement", Image)
    if context.output == "table":
        print(f"retired: {found.id}")
    else:
        emit(found, context.output)
