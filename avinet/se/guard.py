"""The process between a service engine and a program of it: with either of them all that the program started ends.

A script of its own, which imports nothing of ours: `guard.py GRACE_S PROGRAM [ARGUMENT]...`. The program leads a
session of its own, and what its processes leave behind becomes a child of the guard, whatever session it is in then.

On descriptor 0 it reads orders: any byte is to end the program (SIGTERM to its group, SIGKILL to all after `GRACE_S`),
and so is its end, which comes when the service engine has died. 1 and 2 are the program's. On 3 it writes in one line
how that ended, once nothing of it is left: `exited STATUS left N`, `killed SIGNAL left N`, or `failed ERRNO` when it
was never begun. N is 0, but for processes that cannot be killed: they hang in the kernel, or are another
user's.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

_PDEATHSIG, _CHILD_SUBREAPER = 1, 36
_LAST_S = 5.0
"""How long those that were killed are waited for: one may hang in the kernel."""
_prctl = ctypes.CDLL(None).prctl


def main(grace_s: float, program: list[str]) -> None:
    """Run the program, and see to its end."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(each, signal.SIG_IGN)  # it ends by its orders alone
    os.chdir("/")  # here, so that the service engine can spawn it without a copy of itself
    _prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.set_inheritable(3, False)
    begun, begin = os.pipe()
    guard = os.getpid()
    child = os.fork()
    if not child:
        _become(program, guard)
    os.close(begin)
    os.read(begun, 1)  # its end: the program is what it is, and hears signals
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    status = _watch(child, woken, grace_s)
    left = _end_all()
    code = os.waitstatus_to_exitcode(status)
    said = f"killed {-code}" if code < 0 else f"exited {code}"
    with suppress(OSError):
        os.write(3, f"{said} left {left}\n".encode())


def _become(program: list[str], guard: int) -> None:
    """In the child: be the program. It is killed when the guard is."""
    try:
        os.setsid()
        _prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:
            os._exit(127)
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD, signal.SIGXFSZ):
            signal.signal(each, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execv(program[0], program)
    except OSError as error:
        os.write(3, f"failed {error.errno}\n".encode())
    os._exit(127)


def _watch(child: int, woken: int, grace_s: float) -> int:
    """How the child has ended, by itself or by order."""
    orders: list[int] = [0]
    until: float | None = None
    while True:
        wait_s = None if until is None else max(0.0, until - time.monotonic())
        ready, _, _ = select.select([woken, *orders], [], [], wait_s)
        if woken in ready:
            os.read(woken, 4096)
        if 0 in ready:
            if not os.read(0, 4096):
                orders = []
            if until is None:
                until = time.monotonic() + grace_s
                _kill(-child, signal.SIGTERM)
        status = _reaped(child)
        if status is not None:
            return status
        if until is not None and time.monotonic() >= until:
            until += 1.0
            _kill(-child, signal.SIGKILL)
            _kill(child, signal.SIGKILL)


def _reaped(child: int) -> int | None:
    """The status of the child when it has ended; the others that have are forgotten, but none that leads a group."""
    found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        with suppress(ChildProcessError):
            while (other := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and other.si_pid != child:
                os.waitpid(other.si_pid, 0)
        return None
    _kill(-child, signal.SIGKILL)  # while the child is a zombie its group's number is nobody else's
    return os.waitpid(child, 0)[1]


def _end_all() -> int:
    """Kill whatever is left, and what that leaves behind, until there is nothing; how many cannot be killed."""
    until, killed = time.monotonic() + _LAST_S, set[int]()
    while True:
        found = _children()
        for each in found:
            _kill(each, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return 0
        if time.monotonic() >= until:
            return len(_children())
        if killed.issuperset(found):  # else they may have started more, and are not given the time for it
            select.select([], [], [], 0.005)
        killed.update(found)


def _children() -> list[int]:
    """The processes whose parent this one is."""
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == me:
                    found.append(int(name))
    return found


def _kill(process: int, number: int) -> None:
    with suppress(OSError):
        os.kill(process, number)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
