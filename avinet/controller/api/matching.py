"""What a change is of: the version that its author has seen, as If-Match has it."""

from __future__ import annotations

from avinet.errors import Invalid
from avinet.rest.route import Request


def expected(request: Request) -> int | None:
    """The version in If-Match, 0 for none; None when any will do. Raises `Invalid`."""
    tag = request.headers.get("if-match", "*").strip('"')
    if tag == "*":
        return None
    if not (tag.isascii() and tag.isdigit()) or len(tag) > 15:
        raise Invalid("If-Match must be the ETag of a version")
    return int(tag)
