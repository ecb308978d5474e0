"""`avictl`: the group, its options, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from typing_extensions import override

from avinet import __version__
from avinet.cli.exits import TABLE, code_of
from avinet.cli.node import Node
from avinet.cli.shown import Output, escaped
from avinet.errors import AvinetError, LocalError

SOCKET = "/run/avinet/controller.sock"


@dataclass(frozen=True)
class Context:
    """What every verb has: the node, and the form of the output."""

    node: Node
    output: Output


pass_context = click.make_pass_decorator(Context)
_VERBS = {
    "init": "avinet.cli.init:init",
    "status": "avinet.cli.status:status",
    "doctor": "avinet.cli.status:doctor",
    "events": "avinet.cli.status:events",
    "se": "avinet.cli.se:se",
    "image": "avinet.cli.image:image",
    "config": "avinet.cli.config:config",
    "run": "avinet.cli.run:run",
    "connect": "avinet.cli.connect:connect",
    "ssh": "avinet.cli.ssh:ssh",
    "ssh-config": "avinet.cli.ssh:ssh_config",
    "ssh-host-key": "avinet.cli.ssh:ssh_host_key",
    "completion": "avinet.cli.completion:completion",
}


class Verbs(click.Group):
    """Verbs that are imported when they are used: `avictl` starts as fast as the one that is asked for."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _VERBS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        found: click.Command = getattr(__import__(module, fromlist=[name]), name)
        return found


def _socket(given: str | None, config: str | None) -> str:
    """Where the node listens: as it was given, as the controller's settings say, or the default."""
    if given:
        return given
    if config:
        try:
            settings = tomllib.loads(Path(config).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise LocalError(f"cannot read {config}: {error}") from error
        return str(Path(config).absolute().parent / settings.get("socket", SOCKET))
    return SOCKET


@click.group(cls=Verbs, epilog=f"\b\n{TABLE}", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", envvar="AVINET_SOCKET", help=f"The node's UNIX socket (default {SOCKET}).")
@click.option("--config", "settings", help="The controller's settings, which name its socket.")
@click.option("--output", "-o", type=click.Choice(["table", "json", "yaml"]), default="table", help="How to print.")
@click.version_option(__version__, prog_name="avictl")
@click.pass_context
def avictl(ctx: click.Context, socket: str | None, settings: str | None, output: Output) -> None:
    """Manage the service engines of a domain of trust, on one of its nodes."""
    ctx.obj = Context(Node(_socket(socket, settings)), output)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point: runs `avictl` and ends the process with a documented exit code."""
    try:
        ended = avictl.main(arguments, prog_name="avictl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as ended_early:
        sys.exit(ended_early.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except AvinetError as error:
        print(f"avictl: {escaped(str(error))}", file=sys.stderr)
        sys.exit(code_of(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(ended if isinstance(ended, int) else 0)
