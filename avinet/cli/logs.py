"""`avictl logs`: request logs."""

from __future__ import annotations

import click

from avinet.cli.log_query import query


@click.group()
def logs() -> None:
    """Request logs: ask them."""


logs.add_command(query)
