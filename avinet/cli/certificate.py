"""`avictl certificate`: the certificates of virtual services. A private key goes in, in a file, and never comes out."""

from __future__ import annotations

from pathlib import Path

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.shown import emit, escaped, fields, moment, table
from avinet.errors import Invalid
from avinet.files import read_limited
from avinet.ids import parse_id
from avinet.wire.certificates import (
    PUT_LIMIT_BYTES,
    Certificate,
    CertificateList,
    CertificatePut,
    CertificateStored,
    Resealed,
)

_FILE_BYTES = PUT_LIMIT_BYTES // 4
expect_option = click.option(
    "--expect", type=click.IntRange(0), help="Only if this version is the current one; 0: only if there is none."
)


@click.group()
def certificate() -> None:
    """Certificates of virtual services: put, list, show, delete, and seal their private keys anew."""


def place(name: str) -> str:
    """The path of a certificate. Raises `Invalid`."""
    return f"/v1/certificates/{parse_id(name, 'name')}"


def _matching(expected: int | None) -> dict[str, str]:
    return {} if expected is None else {"if-match": f'"{expected}"'}


def _text(path: Path) -> str:
    """A file of PEM. Raises `LocalError` or `Invalid`, neither of which shows anything of it."""
    try:
        return read_limited(path, _FILE_BYTES).decode("ascii")
    except UnicodeDecodeError:
        raise Invalid(f"{path} is no PEM", hint="convert it: openssl x509, openssl pkey") from None


@certificate.command()
@click.argument("name")
@click.option(
    "--chain",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The server's certificate and those that lead to its root, in PEM.",
)
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Its private key, in PEM without a password.",
)
@expect_option
@click.option("--force", is_flag=True, help="Take one that is not valid now.")
@pass_context
def put(context: Context, name: str, chain: Path, key: Path, expect: int | None, force: bool) -> None:
    """Create a certificate, or replace it: whoever serves it does so at once, and without a reload."""
    wanted = CertificatePut(chain=_text(chain), key=_text(key), force=force)
    done = context.node.ask("PUT", place(name), CertificateStored, wanted, headers=_matching(expect))
    if context.output != "table":
        emit(done, context.output)
    elif done.changed:
        print(f"{done.name}: version {done.version}; {done.service_engines} service engines are sent it")
    else:
        print(f"{done.name}: unchanged, version {done.version}")


@certificate.command("list")
@pass_context
def list_(context: Context) -> None:
    """All certificates."""
    pages = context.node.pages("/v1/certificates", CertificateList, limit="100")
    items = [each for page in pages for each in page.items]
    if context.output != "table":
        emit(CertificateList(items=items), context.output)
        return
    table(
        ["CERTIFICATE", "VERSION", "NAMES", "ISSUER", "UNTIL", "DOCUMENTS", "HELD BY", "PROBLEM"],
        [
            (
                each.name,
                each.version,
                " ".join(each.names),
                each.issuer,
                moment(each.not_after),
                len(each.used_by),
                f"{each.held} of {each.needed}",
                each.problem,
            )
            for each in items
        ],
    )


@certificate.command()
@click.argument("name")
@pass_context
def show(context: Context, name: str) -> None:
    """One certificate: whom it is for, who has issued it, how long it is valid, who serves it."""
    found = context.node.ask("GET", place(name), Certificate)
    if context.output != "table":
        emit(found, context.output)
        return
    fields(
        [
            ("certificate", f"{found.name}, version {found.version} by {found.author}, {moment(found.time)}"),
            ("problem", found.problem),
            ("names", " ".join(found.names)),
            ("subject", found.subject),
            ("issuer", found.issuer),
            ("key", found.kind),
            ("valid", f"{moment(found.not_before)} to {moment(found.not_after)}"),
            ("SHA-256", found.fingerprint),
            ("chain", f"{found.certificates} certificates"),
            ("served by", ", ".join(f"{each.document} ({' '.join(each.virtual_services)})" for each in found.used_by)),
            ("held by", f"{found.held} of {found.needed} service engines that are to serve it"),
            ("", " ".join(found.holders)),
        ]
    )
    if found.earlier:
        print()
        table(
            ["BEFORE", "TIME", "AUTHOR", "UNTIL", "SHA-256"],
            [
                (each.version, moment(each.time), each.author, moment(each.not_after), each.fingerprint)
                for each in found.earlier
            ],
        )


@certificate.command()
@click.argument("name")
@expect_option
@pass_context
def delete(context: Context, name: str, expect: int | None) -> None:
    """Delete a certificate that no document names."""
    context.node.request("DELETE", place(name), headers=_matching(expect))
    if context.output == "table":
        print(f"deleted: {escaped(name)}")


@certificate.command()
@pass_context
def reseal(context: Context) -> None:
    """Seal the private keys of all certificates with a new key of this node, and forget the one before.

    What is in older backups is sealed with the one before, which is in them too. Take another one afterwards: where
    the state is in etcd, older ones open nothing of it any more. Service engines notice nothing.
    """
    done = context.node.ask("POST", "/v1/secrets-key", Resealed, timeout_s=300)
    if context.output != "table":
        emit(done, context.output)
        return
    print(f"sealed anew: {done.certificates} certificates")
    if done.closed:
        print(f"{done.closed} cannot be opened: avictl certificate list names them")
    print("take a backup now: the key in older ones opens nothing that was sealed since")
