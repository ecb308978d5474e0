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
from avinet.cli.exits import FAULT, INTERRUPTED, TABLE, USAGE, code_of
from avinet.cli.shown import FORMATS, Output, escaped, one_line
from avinet.errors import AvinetError

_VERBS = {
    "init": "avinet.cli.init:init",
    "status": "avinet.cli.status:status",
    "doctor": "avinet.cli.doctor:doctor",
    "events": "avinet.cli.events:events",
    "metrics": "avinet.cli.metrics:metrics",
    "se": "avinet.cli.se:se",
    "image": "avinet.cli.image:image",
    "root": "avinet.cli.root:root",
    "node": "avinet.cli.nodes:node",
    "enrolment": "avinet.cli.admission:enrolment",
    "config": "avinet.cli.config:config",
    "certificate": "avinet.cli.certificate:certificate",
    "run": "avinet.cli.run:run",
    "jobs": "avinet.cli.run:jobs",
    "logs": "avinet.cli.logs:logs",
    "store": "avinet.cli.store:store",
    "backup": "avinet.cli.backup:backup",
    "restore": "avinet.cli.backup:restore",
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

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would end with 1: whoever reads has read enough
            raise click.exceptions.Exit(0) from None


@click.group(cls=Verbs, epilog=f"\b\n{TABLE}", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", envvar="AVINET_SOCKET", help=f"The node's UNIX socket (default {SOCKET}).")
@click.option(
    "--config", "settings", type=click.Path(path_type=Path), help="The node's settings, which name its socket."
)
@click.option("--output", "-o", type=click.Choice(FORMATS), default="table", help="How to print.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    help="Seconds to wait for each answer of the node (default: as the verb needs).",
)
@click.version_option(__version__, prog_name="avictl")
@click.pass_context
def avictl(
    ctx: click.Context, socket: str | None, settings: Path | None, output: Output, timeout: float | None
) -> None:
    """Manage the service engines of a domain of trust, on one of its nodes."""
    ctx.obj = Context(output, socket, settings, timeout)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point: runs `avictl` and ends the process with a documented exit code."""
    _prepare_streams()
    try:
        ended = avictl.main(arguments, prog_name="avictl", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(USAGE)
    except click.UsageError as error:
        known = error.ctx.command_path if error.ctx else "avictl"
        _say(f"{error.format_message().rstrip('.?')}; see {known} --help")
        sys.exit(USAGE)
    except click.ClickException as error:
        _say(error.format_message())
        sys.exit(FAULT)
    except UnicodeEncodeError:  # what is printed never raises it
        _say("the command line holds text that is not UTF-8")
        sys.exit(USAGE)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except AvinetError as error:
        _say(str(error))
        sys.exit(code_of(error))
    except BrokenPipeError:  # what was still to be written found no reader
        _forget_output()
        sys.exit(0)
    except OSError as error:
        _forget_output()
        _say(f"{error.filename or 'the output'}: {error.strerror or error}")
        sys.exit(FAULT)
    sys.exit(ended if isinstance(ended, int) else 0)


def _prepare_streams() -> None:
    """Make sure that there is an output and one for errors, which write what their encoding has not, as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before we began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for good)
        else:
            stream.reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    print(f"avictl: {one_line(escaped(text))}", file=sys.stderr)


def _forget_output() -> None:
    """Nothing more is written to standard output, by the interpreter's own flush at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
