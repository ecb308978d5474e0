"""`avictl completion`: completion for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from avinet.cli.main import avictl


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell: eval "$(avictl completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(avictl, {}, "avictl", "_AVICTL_COMPLETE").source())
