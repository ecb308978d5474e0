"""The bodies of SSH messages: each is read as what it is, or refused with one error; what is read is written the same."""

from __future__ import annotations

from collections.abc import Callable

from avinet.errors import Invalid, PeerError
from avinet.flow.allowance import source_of
from avinet.ssh.auth import Claim
from avinet.ssh.ciphers import authenticates
from avinet.ssh.exchange import EXCHANGES
from avinet.ssh.negotiation import Proposal, agree, guessed_wrong
from avinet.ssh.opening import Terms
from avinet.ssh.policy import Policy
from avinet.ssh.services import Destination, canonical
from avinet.ssh.shown import printable, shortened
from avinet.ssh.strings import (
    ED25519,
    Reader,
    ed25519_blob,
    key_line,
    name_list,
    read_ed25519_blob,
    read_ed25519_signature,
    string,
    uint32,
)
from avinet.trust.keys import parse_public_line
from tests.fuzz.vocabulary import HOSTS
from tests.fuzz.watch import check, watched

MOST_SHOWN = 161
_OURS = Proposal.of(Policy(), client=False)


def _proposal(body: bytes) -> None:
    theirs = Proposal.decode(body)
    again = Proposal.decode(theirs.encode(body[:16]))
    check(again == theirs, f"{theirs} becomes {again}")
    guessed_wrong(theirs, _OURS)
    for strict in (True, False):
        chosen = agree(theirs, _OURS, strict=strict)
        check(chosen.key_exchange in EXCHANGES, f"{chosen} is agreed on")
        check(
            strict or not authenticates(chosen.cipher_to_server), f"{chosen} is agreed on without strict key exchange"
        )


def _claim(body: bytes) -> None:
    claim = Claim.decode(body)
    check(claim.method == "publickey" or not claim.blob, f"{claim} has a key")
    if claim.algorithm == ED25519 and claim.blob:
        check(key_line(ed25519_blob(read_ed25519_blob(claim.blob))) == claim.key, f"{claim.key}")
        parse_public_line(claim.key)
        if claim.signature is not None:
            check(len(read_ed25519_signature(claim.signature)) == 64, "a signature has another length")


def _destination(body: bytes) -> None:
    destination = Destination.of_request(body)
    check(destination.encode() == body, f"{body!r} becomes {destination.encode()!r}")
    check(Destination.of_open(destination.encode_open()) == destination, "it is opened as another")
    try:
        name = canonical(destination.service)
    except Invalid:
        return
    check(canonical(name) == name, f"{name} has two names")


def _open(body: bytes) -> None:
    Destination.of_open(body)


def _terms(body: bytes) -> None:
    terms = Terms.read(Reader(body, "terms"))
    check(terms.encode() == body[:12], f"{terms}")


def _key(body: bytes) -> None:
    check(ed25519_blob(read_ed25519_blob(body)) == body, "a key is read in another way than it is written")


def _names(body: bytes) -> None:
    reader = Reader(body, "list")
    names = reader.name_list()
    check(name_list(names) + reader.rest() == body, f"{names}")


def _line(body: bytes) -> None:
    shown = printable(body)
    check(shown.isprintable(), f"{shown!r} is shown")
    check(len(shown) <= MOST_SHOWN, "a line is too long")
    for most in (4, 20, MOST_SHOWN):
        check(len(shortened(shown, most).encode()) <= most, "what was shortened is longer than it may be")


def _exchange(body: bytes) -> None:
    for make in EXCHANGES.values():
        make().secret(body)


def _source(body: bytes) -> None:
    host = body.decode("latin-1")
    try:
        source = source_of(host)
    except ValueError:
        return
    check(source or not host, f"{host!r} has no source")


PARSERS: tuple[Callable[[bytes], None], ...] = (
    *(_proposal, _claim, _destination, _open, _terms, _key, _names, _line, _exchange, _source),
)


def run(data: bytes) -> None:
    """Hand what follows the first byte to the parser that it names."""
    with watched():
        try:
            PARSERS[data[0] % len(PARSERS) if data else 0](data[1:])
        except PeerError:
            return


_AUTH = string(b"aviseuser") + string(b"ssh-connection")
_SIGNED = string(string(b"ssh-ed25519") + string(bytes(64)))
_BODIES = (
    (Proposal.of(Policy(), client=True).encode(bytes(16)), _OURS.encode(bytes(16))),
    (
        _AUTH + string(b"none"),
        _AUTH + string(b"publickey") + b"\0" + string(b"ssh-ed25519") + string(ed25519_blob(bytes(32))),
        _AUTH + string(b"publickey") + b"\1" + string(b"ssh-ed25519") + string(ed25519_blob(bytes(32))) + _SIGNED,
    ),
    tuple(Destination(host, 80).encode() for host in HOSTS),
    (Destination(b"control", 80).encode_open(),),
    (Terms(1, 2, 3).encode(),),
    (ed25519_blob(bytes(32)),),
    (name_list((b"a", b"b")) + uint32(0),),
    (b"text", "世界\x1b[2J".encode(), b"\xff" * 200),
    (bytes(32), bytes(1120)),
    (b"192.0.2.1", b"::ffff:192.0.2.1", b"fe80::1%eth0"),
)
SEEDS = [bytes((kind,)) + body for kind, bodies in enumerate(_BODIES) for body in bodies]
