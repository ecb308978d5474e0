"""The wheel of the avinet that runs here, rebuilt from its installed files, for a service engine to install."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import avinet
from avinet.errors import LocalError

_TIME = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: avinet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def own_wheel() -> tuple[str, bytes]:
    """The file name and the bytes of a wheel (PyPA binary distribution format) of this installation."""
    root = Path(avinet.__file__).parent.parent
    found = distribution("avinet")
    info = f"avinet-{found.version}.dist-info"
    plugins = root / "twisted" / "plugins" / "avinet_plugins.py"
    if not plugins.is_file():
        raise LocalError(f"{plugins} is missing from this installation", hint="install avinet anew")
    paths = [path for path in sorted((root / "avinet").rglob("*")) if path.suffix == ".py" or path.name == "py.typed"]
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in [*paths, plugins]}
    # A development install has its metadata as PKG-INFO, in the same format.
    files[f"{info}/METADATA"] = (found.read_text("METADATA") or found.read_text("PKG-INFO") or "").encode("utf-8")
    files[f"{info}/WHEEL"] = _WHEEL.encode("ascii")
    files[f"{info}/entry_points.txt"] = (found.read_text("entry_points.txt") or "").encode("utf-8")
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            member = zipfile.ZipInfo(path, _TIME)
            member.external_attr, member.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(member, data)
    return f"avinet-{found.version}-py3-none-any.whl", packed.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode("ascii").rstrip("=")
