"""A service engine as a witness of the audit log: it keeps what that was, and notices when its past was rewritten."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
from twisted.logger import Logger

from avinet.files import read_limited, write_atomic
from avinet.trust.merkle import EMPTY, is_consistent
from avinet.wire.audit import LogProof

_LIMIT_BYTES = 64 * 1024
_ACCEPTED = 8


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The log as it was last, what was wrong with it since, and what was wrong before, and was accepted."""

    size: int = 0
    root: str = EMPTY.hex()
    problem: str = ""
    accepted: list[str] = []


class Witness:
    """Keeps size and root of the log in `path`. It learns nothing of what is in it."""

    log = Logger()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = -1
        self._seen = _Seen()
        if path.exists():
            try:
                self._seen = msgspec.json.decode(read_limited(path, _LIMIT_BYTES), type=_Seen)
            except msgspec.DecodeError as error:
                self._seen = _Seen(problem=f"what this service engine knew of it is damaged: {error}"[:200])

    def ask(self) -> int:
        """How many records the log had, to be asked for the proof that it begins with them."""
        self._asked = self._seen.size
        return self._asked

    @property
    def size(self) -> int:
        """How many records the log had."""
        return self._seen.size

    def describe(self) -> dict[str, object]:
        """What it knows, for people who compare it with what others know."""
        shown: dict[str, object] = {"records": self._seen.size, "root": self._seen.root}
        if self._seen.problem:
            shown["problem"] = self._seen.problem
        if self._seen.accepted:
            shown["accepted"] = self._seen.accepted
        return shown

    @property
    def problem(self) -> str:
        """What is wrong with the log; empty when nothing is."""
        return self._seen.problem

    def told(self, proof: LogProof) -> None:
        """A node says what the log is now. Once something is wrong, nothing is taken any more before `accept`."""
        if self._seen.problem or self._asked != self._seen.size:  # what was asked for is past
            return
        problem = self._flaw(proof)
        if problem:
            self.log.error("the past of the audit log was rewritten: {what}", what=problem)
            self._keep(msgspec.structs.replace(self._seen, problem=problem))
        elif (proof.size, proof.root) != (self._seen.size, self._seen.root):
            self._keep(msgspec.structs.replace(self._seen, size=proof.size, root=proof.root))

    def _flaw(self, proof: LogProof) -> str:
        seen = self._seen
        if proof.first != seen.size:
            return f"a node proved that it begins with {proof.first} records, and was asked for {seen.size}"
        if proof.size < seen.size:
            return f"it had {seen.size} records, and has {proof.size}"
        hashes = [base64.b64decode(each) for each in proof.hashes]
        if is_consistent(seen.size, proof.size, bytes.fromhex(seen.root), bytes.fromhex(proof.root), hashes):
            return ""
        return f"its {proof.size} records do not begin with the {seen.size} that it had"

    def accept(self) -> str:
        """An operator knows why: begin anew with what a node says next. Returns what was wrong, if anything was.

        That it was accepted is kept: who could rewrite the log could also ask for this.
        """
        seen = self._seen
        if seen.problem:
            was = f"{seen.problem}; its root was {seen.root}"
            self._keep(_Seen(accepted=[*seen.accepted, was][-_ACCEPTED:]))
        return seen.problem

    def _keep(self, seen: _Seen) -> None:
        write_atomic(self._path, msgspec.json.encode(seen))
        self._seen = seen
