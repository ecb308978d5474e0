"""Errors at the edge: each kind of `AvinetError` as an HTTP status with a problem body (RFC 9457), and back."""

from __future__ import annotations

import contextlib
import http
import math

from avinet import errors
from avinet.wire.message import decode, encode
from avinet.wire.problem import CONTENT_TYPE, Problem

_STATUS: tuple[tuple[type[errors.AvinetError], int], ...] = (
    (errors.Invalid, 422),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Gone, 410),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.TooLarge, 413),
    (errors.Precondition, 412),
    (errors.TooMany, 429),
    (errors.TimedOut, 504),
    (errors.Unavailable, 503),
    (errors.PeerError, 502),
    (errors.LocalError, 500),
)
PROBLEM_LIMIT_BYTES = 16 * 1024


def status_of(error: errors.AvinetError) -> int:
    """The HTTP status for `error`."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem_of(error: errors.AvinetError) -> Problem:
    """`error` as a problem; an `Unauthenticated` says nothing but that."""
    status = status_of(error)
    if status == 401:
        return problem(401)
    wait_s = error.retry_after_s if isinstance(error, errors.Unavailable) else 0.0
    return Problem(
        status=status, title=http.HTTPStatus(status).phrase, detail=error.what, hint=error.hint, retry_after_s=wait_s
    )


def problem(status: int, detail: str = "", hint: str = "") -> Problem:
    """A problem for `status` that no error of ours stands behind."""
    return Problem(status=status, title=http.HTTPStatus(status).phrase, detail=detail, hint=hint)


def rendered(said: Problem) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer that carries `said`."""
    headers = {"content-type": CONTENT_TYPE}
    if said.retry_after_s or said.status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(said.retry_after_s)))
    return said.status, headers, encode(said)


def error_from(status: int, headers: dict[str, str], body: bytes, where: str) -> errors.AvinetError:
    """The error that an answer of `status` (400 or more) from `where` stands for; never raises."""
    said = problem(status) if status in {each.value for each in http.HTTPStatus} else Problem(status=status, title="?")
    if headers.get("content-type", "").startswith(CONTENT_TYPE):
        with contextlib.suppress(errors.AvinetError):
            said = decode(body, Problem, limit_bytes=PROBLEM_LIMIT_BYTES)
    kind = next((kind for kind, code in _STATUS if code == status), errors.PeerError)
    what = said.detail or f"{where} answered {status} {said.title}"
    if issubclass(kind, errors.Unavailable):
        return kind(what, hint=said.hint, retry_after_s=_retry_after_s(headers))
    return kind(what, hint=said.hint)


def _retry_after_s(headers: dict[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(min(int(text), 3600)) if text.isascii() and text.isdigit() and len(text) < 9 else 1.0
