"""Real peers of the tests: where one is missing the test is skipped, and fails under `AVINET_REQUIRE=all`."""

from __future__ import annotations

import importlib.util
import os
import shutil

from twisted.trial.unittest import FailTest, SkipTest

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def require(name: str) -> str:
    """Where the program `name` is, or `name` itself when it is a Python package that can be imported."""
    found = shutil.which(name, path=_PATH)
    if found is not None:
        return found
    if importlib.util.find_spec(name) is not None:
        return name
    return missing(f"{name} is not installed")


def missing(what: str) -> str:
    """A real peer cannot be used, because of `what`: skip the test, or fail it where every peer has to be there."""
    if os.environ.get("AVINET_REQUIRE") == "all":
        raise FailTest(f"AVINET_REQUIRE=all, but {what}")
    raise SkipTest(what)
