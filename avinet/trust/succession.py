"""What follows what in a domain of trust: root CAs, issuing CAs, and the keys of a node, without a service engine lost.

A new root is made where the key of the one in use is, which vouches for it once (`found_root`). From then on a node
needs neither: it is given the issuing CA under the new root, keeps it beside its own until the fleet has the new root
in its trust document, and takes it then. Each step is one rename.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from avinet.errors import Conflict, Invalid, LocalError, PeerError, Unauthenticated
from avinet.files import cannot, private_folder, read_limited, sync_folder, write_atomic
from avinet.trust import keys
from avinet.trust.authority import Credential, IssuingCA, cross, domain_of, new_issuing, new_node, new_root
from avinet.trust.domain import AVICTLRUSER_KEY, ISSUING, NEXT, NODE, ROOT, ROOT_KEY, SSH_HOST_KEY, Domain
from avinet.trust.image import fingerprint
from avinet.trust.path import in_force, parse_certificates, signed_by, verify_node

VOUCHED = "vouched.pem"
CROSSED = 6
"""How many former roots may vouch for later ones: service engines that slept through as many successions come back."""


def found_root(root: Credential, folder: Path, now: datetime) -> IssuingCA:
    """Make a root CA that follows `root`, and an issuing CA under it, in `folder`; it appears whole, or not at all.

    `root.key` there is to be kept offline, with `vouched.pem`, the certificate in which `root` vouches for it;
    `issuing.pem` is for the node. Raises `Invalid`, `Conflict`, `LocalError`.
    """
    domain = _domain_of(root.certificate, now)
    later = new_root(domain, now)
    vouched = cross(later.certificate, root, domain, now)
    issuing = new_issuing(later, domain, now, [vouched])
    pem = vouched.public_bytes(Encoding.PEM)
    files = {ROOT: later.certificate_pem, ROOT_KEY: later.key_pem, VOUCHED: pem, ISSUING: issuing.pem}
    _write(folder, files)
    return issuing


def found_issuing(root: Credential, vouched: Sequence[x509.Certificate], folder: Path, now: datetime) -> IssuingCA:
    """Make another issuing CA under `root`, for which former roots vouch in `vouched`; see `found_root`."""
    issuing = new_issuing(root, _domain_of(root.certificate, now), now, vouched)
    _write(folder, {ISSUING: issuing.pem})
    return issuing


def _domain_of(root: x509.Certificate, now: datetime) -> str:
    domain = domain_of(root)
    if domain is None:
        raise Invalid("that is no root CA of a domain of trust")
    try:
        in_force(root, now, "the root CA")
    except Unauthenticated as error:
        raise Invalid(f"{error.what}: it can vouch for nothing", hint="make a domain anew: avictl init") from error
    return domain


def _write(folder: Path, files: dict[str, bytes]) -> None:
    if folder.exists():
        raise Conflict(f"there is something in {folder} already, and it was left as it is")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        private_folder(aside)
        for name, data in files.items():
            write_atomic(aside / name, data)
        os.rename(aside, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise cannot("make", folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_successor(domain: Domain, following: IssuingCA, now: datetime) -> IssuingCA:
    """`following` as it can take the place of the issuing CA of `domain`, with all that former roots vouch for.

    Proves it by a certificate for this node: whoever trusts the root in use must believe it, and who trusts the new one
    alone. Raises `Invalid`.
    """
    roots = {fingerprint(each): each for each in (domain.root, following.root)}
    kept = [each for each in domain.issuing.crossed if each.not_valid_after_utc > now]
    crossed = tuple(dict.fromkeys([*following.crossed, *kept]))[:CROSSED]
    issuing = replace(following, crossed=crossed)
    try:
        if domain_of(issuing.root) != domain.id:
            raise Invalid("it is of another domain of trust")
        if not signed_by(issuing.certificate, issuing.root):
            raise Invalid("its root CA has not signed it")
        for each in issuing.chain:
            in_force(each, now, f"the certificate of {each.subject.rfc4514_string()}")
        node = new_node(issuing, domain.node, domain.id, now)
        for root in roots.values():
            verify_node([node.certificate, *issuing.chain], domain.name, [root], now)
    except (Invalid, Unauthenticated, PeerError, ValueError) as error:
        what = error.what if isinstance(error, (Invalid, Unauthenticated, PeerError)) else str(error)
        raise Invalid(
            f"that is no issuing CA that this node can use: {what}",
            hint="make it with the key of the root CA that is in use: avictl root new, avictl root issue",
        ) from error
    return issuing


def keep_successor(domain: Domain, following: IssuingCA) -> Domain:
    """Keep an issuing CA beside the one in use."""
    write_atomic(domain.folder / f"{ISSUING}{NEXT}", following.pem)
    return replace(domain, next_issuing=following)


def drop_successor(domain: Domain) -> Domain:
    """Forget the issuing CA that was kept."""
    (domain.folder / f"{ISSUING}{NEXT}").unlink(missing_ok=True)
    sync_folder(domain.folder)
    return replace(domain, next_issuing=None)


def take_successor(domain: Domain, now: datetime) -> Domain:
    """Put the issuing CA that was kept in the place of the one in use, with a node certificate by it.

    A root CA that is left is kept beside the one in use, by its fingerprint, with its key if that is there still.
    Raises `Conflict` when none was kept, `Invalid` when it cannot be used any more, `LocalError`.
    """
    if domain.next_issuing is None:
        raise Conflict("there is no issuing CA to be taken")
    following = check_successor(domain, domain.next_issuing, now)
    server = new_node(following, domain.node, domain.id, now)
    write_atomic(domain.folder / f"{NODE}{NEXT}", server.certificate_pem + server.key_pem)
    if following.root != domain.root:
        _set_aside(domain)
    _take(domain.folder, ISSUING)  # from here on it is done: a node that ends now makes the certificate when it starts
    _take(domain.folder, NODE)
    return replace(domain, issuing=following, server=server, next_issuing=None).renewed(now)


def _set_aside(domain: Domain) -> None:
    key, name = domain.folder / ROOT_KEY, f"root-{fingerprint(domain.root)[:16]}"
    write_atomic(domain.folder / f"{name}.pem", domain.root_pem.encode("ascii"))
    if key.exists():
        try:
            os.rename(key, domain.folder / f"{name}.key")
            sync_folder(domain.folder)
        except OSError as error:
            raise cannot("rename", key, error) from error


def settled(domain: Domain, now: datetime) -> Domain:
    """`domain` without a step that was cut off: an issuing CA under the root in use waits for nobody."""
    following = domain.next_issuing
    if following is None or following.root != domain.root:
        return domain
    try:
        return take_successor(domain, now)
    except Invalid:  # it has waited for too long
        return drop_successor(domain)


def make_next_keys(domain: Domain) -> Domain:
    """Make an SSH host key and an `avictlruser` key that are to follow those in use; the same ones when asked again."""
    return replace(
        domain,
        next_ssh_host_key=keys.load_or_make(domain.folder / f"{SSH_HOST_KEY}{NEXT}"),
        next_avictlruser_key=keys.load_or_make(domain.folder / f"{AVICTLRUSER_KEY}{NEXT}"),
    )


def take_next_keys(domain: Domain) -> Domain:
    """Put the keys that were made in the place of those in use. One that could not be replaced waits still."""
    if domain.next_ssh_host_key is not None:
        _take(domain.folder, SSH_HOST_KEY)
        domain = replace(domain, ssh_host_key=domain.next_ssh_host_key, next_ssh_host_key=None)
    if domain.next_avictlruser_key is not None:
        try:
            _take(domain.folder, AVICTLRUSER_KEY)
        except LocalError:
            return domain
        domain = replace(domain, avictlruser_key=domain.next_avictlruser_key, next_avictlruser_key=None)
    return domain


def _take(folder: Path, name: str) -> None:
    try:
        os.replace(folder / f"{name}{NEXT}", folder / name)
        sync_folder(folder)
    except OSError as error:
        raise cannot("replace", folder / name, error) from error


def read_vouched(folder: Path) -> list[x509.Certificate]:
    """The certificates in which former roots vouch for the one in `folder`, as `found_root` keeps them beside it."""
    path = folder / VOUCHED
    return parse_certificates(read_limited(path, 65536), str(path)) if path.exists() else []


def read_root(certificate: Path, key: Path) -> Credential:
    """A root CA with its key. Raises `LocalError`."""
    try:
        return Credential.from_pem(certificate.read_bytes(), key.read_bytes(), f"{certificate} with {key}")
    except OSError as error:
        raise LocalError(f"cannot read {error.filename}: {error.strerror}", hint="check the path") from error
