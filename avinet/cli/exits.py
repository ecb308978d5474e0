"""How `avictl` ends: its exit codes, for scripts."""

from __future__ import annotations

from avinet import errors

OK, FAULT, USAGE, NOT_FOUND, REFUSED, FORBIDDEN, UNREACHABLE, REMOTE = range(8)
INTERRUPTED = 130

TABLE = """\
Exit codes:
  0    done
  1    a fault on this machine, or one that doctor or store check has found
  2    the command line is wrong
  3    there is no such thing
  4    refused: it contradicts what is there, or is not valid
  5    not permitted
  6    the node or the service engine cannot be reached, or gave no answer, or none in time
  7    the command ran on the service engine, and failed there; a roll-out was stopped; or not all was pulled
  130  interrupted
avictl ssh ends as ssh does: with the code of the remote command, 255 without a session."""

_CODES: tuple[tuple[type[errors.AvinetError], int], ...] = (
    (errors.NotFound, NOT_FOUND),
    (errors.Forbidden, FORBIDDEN),
    (errors.Unauthenticated, FORBIDDEN),
    (errors.Unavailable, UNREACHABLE),
    (errors.PeerError, UNREACHABLE),
    (errors.LocalError, FAULT),
)


def code_of(error: errors.AvinetError) -> int:
    """The exit code for `error`."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), REFUSED)
