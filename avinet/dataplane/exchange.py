"""A certificate that HAProxy serves is exchanged by its runtime API, in one transaction and without a reload.

HAProxy management guide, section 9.3: `set ssl cert`, `commit ssl cert`, `abort ssl cert`. It has one transaction at a
time, which outlives whoever began it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from avinet.errors import Invalid

PAYLOAD_BYTES = 15_000
"""What fits into a command: HAProxy takes one buffer (16 KiB), and closes the connection at more."""
_LEFT = re.compile(r"^\*(\S+)$", re.MULTILINE)

Command = Callable[[str], Awaitable[str]]
"""What a worker answers to a command. Raises `Unavailable`."""


async def exchange(command: Command, file: str, pem: str) -> None:
    """Serve `pem` in place of what was loaded from `file`; it has at most `PAYLOAD_BYTES`.

    Raises `Invalid` in HAProxy's words, and then it serves what it did.
    """
    for left in _LEFT.findall(await command("show ssl cert")):
        await command(f"abort ssl cert {left}")
    said = await command(f"set ssl cert {file} <<\n{pem}")
    if not said.startswith(("Transaction created", "Transaction updated")):
        raise _refused(file, said)
    said = await command(f"commit ssl cert {file}")
    if "Success!" not in said:
        await command(f"abort ssl cert {file}")
        raise _refused(file, said)


def _refused(file: str, said: str) -> Invalid:
    words = " ".join(line for line in said.split("\n") if line and not line.startswith("Committing"))
    return Invalid(f"HAProxy does not take {file}: {words[:200] or 'no reason given'}")
