"""`avictl`: the group, its options, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from typing_extensions import override

from avinet import __version__
from avinet.cli.context import SOCKET, Context
from avinet.cli.exits import FAULT, INTERRUPTED, TABLE, code_of
from avinet.cli.shown import FORMATS, Output, escaped, one_line
from avinet.errors import AvinetError

_VERBS = {
    "init": "avinet.cli.init:init",
    "status": "avinet.cli.status:status",
    "doctor": "avinet.cli.doctor:doctor",
    "events": "avinet.cli.events:events",
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


@click.group(cls=Verbs, epilog=f"\b\n{TABLE}", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", envvar="AVINET_SOCKET", help=f"The node's UNIX socket (default {SOCKET}).")
@click.option(
    "--config", "settings", type=click.Path(path_type=Path), help="The node's settings, which name its socket."
)
@click.option("--output", "-o", type=click.Choice(FORMATS), default="table", help="How to print.")
@click.version_option(__version__, prog_name="avictl")
@click.pass_context
def avictl(ctx: click.Context, socket: str | None, settings: Path | None, output: Output) -> None:
    """Manage the service engines of a domain of trust, on one of its nodes."""
    ctx.obj = Context(output, socket, settings)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point: runs `avictl` and ends the process with a documented exit code."""
    try:
        ended = avictl.main(arguments, prog_name="avictl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except AvinetError as error:
        _say(str(error))
        sys.exit(code_of(error))
    except BrokenPipeError:  # whoever reads has read enough
        _forget_output()
        sys.exit(0)
    except OSError as error:
        _forget_output()
        _say(f"{error.filename or 'the output'}: {error.strerror or error}")
        sys.exit(FAULT)
    sys.exit(ended if isinstance(ended, int) else 0)


def _say(text: str) -> None:
    print(f"avictl: {one_line(escaped(text))}", file=sys.stderr)


def _forget_output() -> None:
    """Nothing more is written to standard output, by the interpreter's own flush at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
