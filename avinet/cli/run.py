"""`avictl run`: a command on a service engine."""

from __future__ import annotations

import sys

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.exits import REMOTE
from avinet.cli.se import place
from avinet.cli.shown import emit, write
from avinet.wire.command import CommandResult
from avinet.wire.fleet import CommandRun


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("id")
@click.argument("command")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 600, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds to wait for its end.",
)
@pass_context
def run(context: Context, id: str, command: str, arguments: tuple[str, ...], timeout: float) -> int:
    """Run COMMAND on the service engine ID: ping, status, config, dataplane, help."""
    order = CommandRun(command=command, arguments=list(arguments), timeout_s=timeout)
    result = context.node.ask("POST", f"{place(id)}/commands", CommandResult, order, timeout_s=timeout + 10)
    if context.output == "table":
        write(result.output, sys.stdout)
        write(result.error, sys.stderr)
    else:
        emit(result, context.output)
    return REMOTE if result.exit_status else 0
