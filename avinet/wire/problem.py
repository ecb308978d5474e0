"""RFC 9457 problem details: how every HTTP door says no."""

from __future__ import annotations

from avinet.wire.message import Message

CONTENT_TYPE = "application/problem+json"


class Problem(Message, frozen=True, kw_only=True):
    """`title` names the kind of problem, `detail` this one in a line, `hint` what to try."""

    status: int
    title: str
    type: str = "about:blank"
    detail: str = ""
    hint: str = ""
    retry_after_s: float = 0.0
