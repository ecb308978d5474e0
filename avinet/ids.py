"""Floor 0: the ids of service engines, nodes, groups, virtual services and images, and random names.

An id is `[a-z0-9][a-z0-9-]{0,62}`: safe as a DNS label, a file name and a HAProxy identifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from avinet.errors import Invalid

ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"

RandomBytes = Callable[[int], bytes]


def parse_id(text: str, what: str = "id") -> str:
    """`text` when it is an id.

    Raises `Invalid`, naming `what` is wrong.
    """
    if not _ID.match(text):
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise Invalid(
            f"{what} {shown!r} is not an id",
            hint="use 1 to 63 lower-case letters, digits and dashes, a letter or digit first",
        )
    return text


def random_name(random: RandomBytes, length: int = 8) -> str:
    """A random string of `length` base32 characters (5 bits each), itself an id."""
    return "".join(_ALPHABET[byte & 31] for byte in random(length))
