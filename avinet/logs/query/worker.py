"""The process that answers queries of request logs: `python -m avinet.logs.query.worker ARCHIVE MEMORY_BYTES THREADS`.

It reads questions from descriptor 0 and writes answers to 1, a line each, one after the other, and ends when there is
nobody to ask any more. Meanwhile a thread reads on, as a question may be taken back. It writes no file, opens none but
those of the archive, and is the first to go when the machine runs out of memory. Without DuckDB it says so to every
question.
"""

from __future__ import annotations

import ctypes
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from avinet.errors import AvinetError, LocalError, Unavailable
from avinet.logs.archive.archive import Archive
from avinet.logs.query.asking import ASKED_BYTES, WITHDRAWAL, Answered, Asked, failed
from avinet.logs.query.patience import Patience
from avinet.wire.answer import LogAnswer
from avinet.wire.message import decode, encode
from avinet.wire.query import LogQuery

_PDEATHSIG = 1
_BESIDE_BYTES = 1 << 30
"""What the process may reserve beside the memory of a query: code, stacks, and what DuckDB does not count."""
_NICE = 5
_FIRST_TO_GO = b"800"


def main() -> None:
    """Answer until the end of the questions."""
    folder, memory_bytes, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    confine(memory_bytes)
    questions = os.fdopen(os.dup(0), "rb")  # of sys.stdin the interpreter wants to have the lock when it ends
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    serve(questions, answers, folder, memory_bytes, threads)


def confine(memory_bytes: int) -> None:
    """Give up what no query needs: files that grow, dumps, the turn before others, and a life without its node."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: its node ends it
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes + _BESIDE_BYTES,) * 2)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(_FIRST_TO_GO)


def serve(questions: BinaryIO, answers: BinaryIO, folder: Path, memory_bytes: int, threads: int) -> None:
    """Answer each line of `questions`."""
    answer = _answering(folder, memory_bytes, threads)
    for line, gone in _heard(questions):
        asked = decode(line, Asked, limit_bytes=ASKED_BYTES)
        try:
            found = answer(asked.query, Patience(asked.limit_s, gone), asked.known)
            answered = Answered(number=asked.number, answer=found)
        except AvinetError as error:
            answered = Answered(number=asked.number, failed=failed(error))
        except Exception as error:  # the edge: a fault of ours costs one query, and not those that come after it
            traceback.print_exc()
            fault = LocalError(f"an unexpected fault in the process that answers queries: {type(error).__name__}")
            answered = Answered(number=asked.number, failed=failed(fault))
        answers.write(encode(answered) + b"\n")
        answers.flush()


def _heard(questions: BinaryIO) -> Iterator[tuple[bytes, threading.Event]]:
    """Each question, with what is set when it is taken back."""
    heard: queue.Queue[tuple[bytes, threading.Event]] = queue.Queue(1)

    def read() -> None:
        gone = threading.Event()
        while line := questions.readline(ASKED_BYTES + 1):
            if line == WITHDRAWAL:
                gone.set()
            else:
                gone = threading.Event()
                heard.put((line, gone))
        heard.put((b"", gone))

    threading.Thread(target=read, daemon=True).start()
    while (each := heard.get())[0]:
        yield each


def _answering(
    folder: Path, memory_bytes: int, threads: int
) -> Callable[[LogQuery, Patience, Sequence[str]], LogAnswer]:
    """What answers queries; where nothing can, it says why."""
    try:
        from avinet.logs.query.querying import Querying

        return Querying(Archive(folder), memory_bytes, threads).answer
    except ImportError as error:
        why = f"queries need DuckDB: {error}"
        cannot: AvinetError = Unavailable(why, hint="pip install 'avinet[analytics]'", retry_after_s=60)
    except AvinetError as error:
        cannot = error

    def refuse(query: LogQuery, patience: Patience, known: Sequence[str]) -> LogAnswer:
        raise cannot

    return refuse


if __name__ == "__main__":
    main()
