"""`avictl se pending`, `approve`, `refuse`, and `avictl enrolment`: who gets in without a claim."""

from __future__ import annotations

import sys

import click

from avinet.cli.context import Context, pass_context
from avinet.cli.given import labels_of
from avinet.cli.shown import ago, emit, fields, table
from avinet.errors import Conflict, NotFound
from avinet.ids import parse_id
from avinet.units import format_seconds, parse_seconds
from avinet.wire.fleet import (
    Approval,
    Engine,
    EnrolmentPolicy,
    EnrolmentRules,
    Pending,
    PendingList,
    Rejection,
    RulesChange,
)

POLICIES: tuple[EnrolmentPolicy, ...] = ("claim", "approve", "image")


@click.command()
@pass_context
def pending(context: Context) -> None:
    """Service engines that wait for approval, and those that were refused lately."""
    found = context.node.ask("GET", "/v1/pending", PendingList)
    if context.output != "table":
        emit(found, context.output)
        return
    table(
        ["SE", "KEY", "FROM", "HOST", "IMAGE", "SINCE", ""],
        [
            (
                each.id,
                each.fingerprint,
                each.source,
                each.hostname,
                each.image,
                ago(each.since),
                "refused" if each.refused else "",
            )
            for each in found.items
        ],
    )


def _chosen(context: Context, id: str, fingerprint: str | None, question: str) -> str:
    """The fingerprint that was given; else of the one that waits, once the operator has said yes to it."""
    if fingerprint is not None:
        return fingerprint
    items = context.node.ask("GET", "/v1/pending", PendingList).items
    found = [each for each in items if each.id == id and not each.refused]
    if not found:
        raise NotFound(f"no service engine waits to be {id}", hint="see avictl se pending")
    if len(found) > 1:
        raise Conflict(f"{len(found)} keys wait to be {id}", hint="name one of them with --fingerprint")
    [only] = found
    if not sys.stdin or not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask whether it is the right key: say --fingerprint")
    click.echo(f"{id} waits at {only.source} with this key; its own log must name the same one:", err=True)
    click.echo(f"  {only.fingerprint}", err=True)
    click.confirm(f"{question}?", abort=True, err=True)
    return only.fingerprint


fingerprint_option = click.option(
    "--fingerprint", help="The fingerprint of its key, as it is in the log of the service engine: SHA256:..."
)


@click.command()
@click.argument("id")
@fingerprint_option
@click.option("--label", "labels", multiple=True, help="A label, as KEY=VALUE; repeat it for more.")
@pass_context
def approve(context: Context, id: str, fingerprint: str | None, labels: tuple[str, ...]) -> None:
    """Let in a service engine that waits, by the fingerprint of its key."""
    wanted = Approval(fingerprint=_chosen(context, parse_id(id), fingerprint, "Let it in"), labels=labels_of(labels))
    engine = context.node.ask("POST", f"/v1/pending/{id}/approval", Engine, wanted)
    if context.output == "table":
        print(f"approved: {engine.id}, key {wanted.fingerprint}; it enrols when it asks again")
    else:
        emit(engine, context.output)


@click.command()
@click.argument("id")
@fingerprint_option
@pass_context
def refuse(context: Context, id: str, fingerprint: str | None) -> None:
    """Keep out a service engine that waits."""
    wanted = Rejection(fingerprint=_chosen(context, parse_id(id), fingerprint, "Refuse it"))
    found = context.node.ask("POST", f"/v1/pending/{id}/refusal", Pending, wanted)
    if context.output == "table":
        print(f"refused: {found.id}, key {found.fingerprint}")
    else:
        emit(found, context.output)


@click.group()
def enrolment() -> None:
    """The rules of enrolment, the same on every node: show, set."""


def _show(context: Context, rules: EnrolmentRules) -> None:
    if context.output != "table":
        emit(rules, context.output)
        return
    meaning = {
        "claim": "a service engine needs the claim that it was expected with",
        "approve": "one without a claim waits for avictl se approve",
        "image": "the image key alone is enough: for closed networks",
    }
    fields(
        [
            ("policy", f"{rules.policy} ({meaning[rules.policy]})"),
            ("pending", f"at most {rules.pending} wait, {rules.pending_from_one} from one source"),
            ("pending for", format_seconds(rules.pending_s)),
            ("by image", f"each image lets in at most {rules.by_image} alone, under the policy image"),
        ]
    )


@enrolment.command()
@pass_context
def show(context: Context) -> None:
    """Who gets in."""
    _show(context, context.node.ask("GET", "/v1/enrolment", EnrolmentRules))


@enrolment.command("set")
@click.option("--policy", type=click.Choice(POLICIES), help="Who gets in.")
@click.option("--pending", type=click.IntRange(1, 1000), help="How many may wait for approval.")
@click.option("--pending-from-one", type=click.IntRange(1, 1000), help="... from one address (IPv6: one /64).")
@click.option("--pending-for", help="How long each may wait, such as 12h.")
@click.option("--by-image", type=click.IntRange(1, 1_000_000), help="How many each image may let in alone.")
@pass_context
def set_(
    context: Context,
    policy: str | None,
    pending: int | None,
    pending_from_one: int | None,
    pending_for: str | None,
    by_image: int | None,
) -> None:
    """Change who gets in, in the whole domain."""
    change = RulesChange(
        policy=next((each for each in POLICIES if each == policy), None),
        pending=pending,
        pending_from_one=pending_from_one,
        pending_s=None if pending_for is None else parse_seconds(pending_for),
        by_image=by_image,
    )
    if change == RulesChange():
        raise click.UsageError("there is nothing to change")
    _show(context, context.node.ask("PATCH", "/v1/enrolment", EnrolmentRules, change))
