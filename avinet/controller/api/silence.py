"""Answers from a node whose store is silent say how old they may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from avinet.rest.route import Answer, Pipe, Reply, Request, Route
from avinet.rest.streaming import Bulk, Streamed


def told_of_silence(routes: Sequence[Route], silent_s: Callable[[], float]) -> list[Route]:
    """`routes` of which each answer to a GET has an `Age` (RFC 9111, section 5.1) while the store is `silent_s`."""
    return [replace(each, answer=_aged(each.answer, silent_s)) if each.method == "GET" else each for each in routes]


def _aged(answer: Answer, silent_s: Callable[[], float]) -> Answer:
    async def aged(request: Request) -> Reply | Pipe | Streamed | Bulk:
        reply = await answer(request)
        age_s = silent_s()
        if not age_s or not isinstance(reply, Reply):
            return reply
        return replace(reply, headers={**reply.headers, "age": str(math.ceil(age_s))})

    return aged
