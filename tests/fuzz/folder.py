"""A folder to be read over SFTP, with a secret beside it; one for the process, removed with it."""

from __future__ import annotations

import atexit
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

SECRET = b"a secret outside of the folder"


@cache
def folder() -> Path:
    """The folder."""
    outside = Path(mkdtemp(prefix="avinet-fuzz-"))
    atexit.register(shutil.rmtree, outside, ignore_errors=True)
    logs = outside / "logs"
    (logs / "sub").mkdir(parents=True)
    (outside / "secret").write_bytes(SECRET)
    (logs / "a.log").write_bytes(b"first\nsecond\n" * 3000)
    (logs / "sub" / "b.log").write_bytes(b"below")
    (logs / "link").symlink_to("../secret")
    (logs / "up").symlink_to("..")
    os.mkfifo(logs / "pipe")
    return logs
