"""What every verb has: the node, its settings, and the form of the output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from avinet.cli.shown import FORMATS, Output
from avinet.errors import LocalError

if TYPE_CHECKING:
    from avinet.cli.node import Node

SOCKET = "/run/avinet/controller.sock"
SETTINGS = Path("/etc/avinet/controller.toml")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Context:
    """`socket`, `settings` and `timeout_s` (of each answer) as they were given; None where they were not."""

    output: Output
    socket: str | None = None
    settings: Path | None = None
    timeout_s: float | None = None

    @functools.cached_property
    def node(self) -> Node:
        """The node. Raises `LocalError` when the settings that name its socket cannot be read."""
        from avinet.cli.node import Node  # an HTTP client is not needed to print a page of help

        path = self.socket or (self._socket_in(self.settings) if self.settings else SOCKET)
        return Node(path, self.timeout_s, self._warn)

    def _warn(self, text: str) -> None:
        click.echo(f"avictl: {text}", err=True)

    def _socket_in(self, path: Path) -> str:
        import tomllib

        from avinet.files import read_limited
        from avinet.settings import LIMIT_BYTES

        try:
            found = tomllib.loads(read_limited(path, LIMIT_BYTES).decode("utf-8")).get("socket", SOCKET)
        except ValueError as error:
            raise LocalError(f"{path} is no TOML: {error}") from error
        if not isinstance(found, str):
            raise LocalError(f"{path}: socket must be a path")
        return str(path.absolute().parent / found)


pass_node = click.make_pass_decorator(Context)
"""For a verb that prints nothing of its own."""


def _chosen(ctx: click.Context, _: click.Parameter, value: Output | None) -> None:
    if value is not None and isinstance(ctx.obj, Context):
        ctx.obj = replace(ctx.obj, output=value)


def pass_context(verb: F) -> Any:
    """For a verb that prints a message: it has the context, and takes `--output` after its name too."""
    option = click.option(
        "--output", "-o", type=click.Choice(FORMATS), callback=_chosen, expose_value=False, help="How to print."
    )
    return option(pass_node(verb))
