"""RFC 9421 signatures once more, for the few components that avinet covers: no library but cryptography.

The verifier takes the raw headers and the covered components that it expects, builds the signature base (section 2.5) itself, and
shares no code with `avinet.trust.signatures`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

_MEMBER = re.compile(r'([a-z*][a-z0-9_.*-]*)=((?:"[^"]*"|[^",])+)(?:, ?|$)')
_INPUT = re.compile(r'\(((?:"[^"]+" ?)*)\)((?:;[a-z]+=(?:"[^"]*"|[0-9]+))*)\Z')


def members(field: str) -> dict[str, str]:
    """The members of a dictionary field (RFC 9651, section 3.2), as text."""
    found = _MEMBER.findall(field)
    assert "".join(f"{name}={value}" for name, value in found) == field.replace(", ", ""), field
    return dict(found)


def binary(text: str) -> bytes:
    """The bytes of a byte sequence (section 3.3.5)."""
    assert text[0] == text[-1] == ":", text
    return base64.b64decode(text[1:-1], validate=True)


def verified(
    headers: Mapping[str, str],
    body: bytes,
    label: str,
    components: Sequence[str],
    derived: Mapping[str, str],
    key: Any,
) -> dict[str, str]:
    """The parameters of the signature under `label`, when it holds. Raises `AssertionError` or `InvalidSignature`."""
    digest = binary(members(headers["content-digest"])["sha-256"])
    assert digest == hashlib.sha256(body).digest()
    given = members(headers["signature-input"])[label]
    parts = _INPUT.match(given)
    assert parts, given
    covered = [each.strip('"') for each in parts[1].split()]
    assert covered == list(components), covered
    lines = [f'"{each}": {derived[each] if each.startswith("@") else headers[each]}' for each in covered]
    base = "\n".join([*lines, f'"@signature-params": {given}']).encode("ascii")
    signature = binary(members(headers["signature"])[label])
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, base)
    else:
        assert len(signature) == 64
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        key.verify(utils.encode_dss_signature(r, s), base, ec.ECDSA(hashes.SHA256()))
    return {name: value.strip('"') for name, value in re.findall(r';([a-z]+)=("[^"]*"|[0-9]+)', parts[2])}


def signed(
    headers: Mapping[str, str],
    body: bytes,
    components: Sequence[str],
    derived: Mapping[str, str],
    signers: Mapping[str, tuple[ed25519.Ed25519PrivateKey, Mapping[str, str | int]]],
) -> dict[str, str]:
    """The headers with the digest of `body` and a signature under each label, by its key and with its parameters."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode("ascii")
    found = {**headers, "content-digest": f"sha-256=:{digest}:"}
    inputs, signatures = [], []
    lines = [f'"{each}": {derived[each] if each.startswith("@") else found[each]}' for each in components]
    for label, (key, parameters) in signers.items():
        said = "".join(
            f";{name}={value}" if isinstance(value, int) else f';{name}="{value}"' for name, value in parameters.items()
        )
        given = "(" + " ".join(f'"{each}"' for each in components) + ")" + said
        signature = key.sign("\n".join([*lines, f'"@signature-params": {given}']).encode("ascii"))
        inputs.append(f"{label}={given}")
        signatures.append(f"{label}=:{base64.b64encode(signature).decode('ascii')}:")
    return {**found, "signature-input": ", ".join(inputs), "signature": ", ".join(signatures)}
