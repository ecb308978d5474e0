"""A service engine as a witness of the audit log: it keeps what that was, and notices when its past was rewritten."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
from twisted.logger import Logger

from avinet.files import read_limited, write_atomic
from avinet.trust.merkle import EMPTY, is_consistent
from avinet.wire.audit import LogProof


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The log as it was last, and what was wrong with it since."""

    size: int = 0
    root: str = EMPTY.hex()
    problem: str = ""


class Witness:
    """Keeps size and root of the log in `path`. It learns nothing of what is in it."""

    log = Logger()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _Seen()
        if path.exists():
            self._seen = msgspec.json.decode(read_limited(path, 4096), type=_Seen)

    @property
    def size(self) -> int:
        """How many records the log had."""
        return self._seen.size

    @property
    def problem(self) -> str:
        """What is wrong with the log; empty when nothing is."""
        return self._seen.problem

    def told(self, proof: LogProof) -> None:
        """A node says what the log is now. Once something is wrong, nothing is taken any more before `accept`."""
        if self._seen.problem:
            return
        problem = self._flaw(proof)
        if problem:
            self.log.error("the past of the audit log was rewritten: {what}", what=problem)
            self._keep(msgspec.structs.replace(self._seen, problem=problem))
        elif (proof.size, proof.root) != (self._seen.size, self._seen.root):
            self._keep(_Seen(size=proof.size, root=proof.root))

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

    def accept(self) -> None:
        """An operator knows why: begin anew with what a node says next."""
        self._keep(_Seen())

    def _keep(self, seen: _Seen) -> None:
        write_atomic(self._path, msgspec.json.encode(seen))
        self._seen = seen
