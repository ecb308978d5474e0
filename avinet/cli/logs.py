"""`avictl logs`: request logs."""

from __future__ import annotations

import click

from avinet.cli.log_pull import pull, pulls
from avinet.cli.log_query import query
from avinet.cli.log_saved import saved
from avinet.cli.log_tail import tail


@click.group()
def logs() -> None:
    """Request logs: pull them from service engines, ask them, follow those that matter, keep queries."""


for verb in (pull, pulls, query, saved, tail):
    logs.add_command(verb)
