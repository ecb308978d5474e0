"""Somebody who has the image: tries to enrol a service engine once more, with the image key and a key of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from demo.machine import ROOT, StepFailed

_PROGRAM = """
import json, sys, time
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from avinet.enrolment.client import Enrolment
from avinet.enrolment.identity import Identity
from avinet.errors import AvinetError
from avinet.files import private_folder
from avinet.rest.problems import status_of
from avinet.trust.image import open_image, unpack_image

place, image, id = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
unpack_image(open_image(image.read_bytes()), private_folder(place / "image"))
(place / "user-data.json").write_text(json.dumps({"id": id, "generation": 1, "claim": "A" * 32}))
identity = Identity(place / "state", place / "image", place / "user-data.json")

async def steal():
    try:
        await Enrolment(reactor, identity, now=time.time, random=lambda: 0.0).run()
        print(201)
    except AvinetError as error:
        print(status_of(error))
    reactor.stop()

reactor.callWhenRunning(lambda: ensureDeferred(steal()))
reactor.run()
"""


def enrol_again(image: Path, id: str) -> int:
    """The HTTP status with which the node answers the attempt."""
    place = image.parent / "thief"
    place.mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(place), str(image), id],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
    )
    if not done.stdout.strip().isdigit():
        raise StepFailed(f"the attempt ended with: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return int(done.stdout)
