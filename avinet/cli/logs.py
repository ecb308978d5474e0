"""`avictl logs`: request logs."""

from __future__ import annotations

import click

from avinet.cli.log_query import query
from avinet.cli.log_saved import saved


@click.group()
def logs() -> None:
    """Request logs: ask them, and keep queries under names."""


for verb in (query, saved):
    logs.add_command(verb)
