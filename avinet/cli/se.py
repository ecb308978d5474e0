"""`avictl se`: service engines."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from avinet.cli.admission import approve, pending, refuse
from avinet.cli.context import Context, pass_context, pass_node
from avinet.cli.exports import show_exports
from avinet.cli.given import labels_of, sure
from avinet.cli.shown import ago, emit, fields, labels, moment, since, table, write
from avinet.ids import parse_id
from avinet.wire.fleet import (
    Claimed,
    Engine,
    EngineCreate,
    EngineList,
    EnginesCreated,
    LabelChange,
    Readmission,
    Readmitted,
)


def place(id: str) -> str:
    """The path of a service engine. Raises `Invalid`."""
    return f"/v1/service-engines/{parse_id(id)}"


@click.group()
def se() -> None:
    """Service engines: list, show, create, delete, approve, reset, readmit, rotate, revoke, label."""


for verb in (pending, approve, refuse):
    se.add_command(verb)


def show_claims(claimed: Sequence[Claimed]) -> None:
    """What the instances of these have to be given."""
    table(
        ["SE", "GENERATION", "CLAIM", "EXPIRES"],
        [(each.id, each.generation, each.claim, moment(each.expires)) for each in claimed],
    )


def _configuration(engine: Engine) -> str:
    state, desired = engine.config, engine.desired
    if desired is None:
        return "-"
    if state.applied == desired:
        return f"in sync ({desired.revision})"
    if state.refused == desired:
        return f"REFUSED ({desired.revision})"
    return f"behind ({state.applied.revision if state.applied else 'none'} < {desired.revision})"


def show_engines(engines: Sequence[Engine]) -> None:
    """A line for each."""
    table(
        ["SE", "STATE", "TUNNEL", "CONFIGURATION", "SERVERS", "REPORTED", "LABELS"],
        [
            (
                each.id,
                each.state,
                since(each.connected_since),
                _configuration(each),
                f"{each.servers_up} up, {each.servers_down} down" if each.servers_up or each.servers_down else "-",
                ago(each.reported),
                labels(each.labels),
            )
            for each in engines
        ],
    )


@se.command("list")
@click.option("--label", help="Only those with this label, as KEY=VALUE.")
@pass_context
def list_(context: Context, label: str | None) -> None:
    """All service engines."""
    pages = context.node.pages("/v1/service-engines", EngineList, limit="500", label=label or "")
    items = [each for page in pages for each in page.items]
    if context.output == "table":
        show_engines(items)
    else:
        emit(EngineList(items=items), context.output)


@se.command()
@click.argument("id")
@pass_context
def show(context: Context, id: str) -> None:
    """One service engine: its tunnel, its configuration, its servers, its traffic."""
    engine = context.node.ask("GET", place(id), Engine)
    if context.output != "table":
        emit(engine, context.output)
        return
    state = engine.config
    fields(
        [
            ("id", engine.id),
            ("state", f"{engine.state}, generation {engine.generation}"),
            ("labels", labels(engine.labels)),
            ("key", engine.fingerprint),
            ("approved", engine.approved),
            ("image", engine.image),
            ("driver", engine.driver),
            ("enrolled", moment(engine.enrolled) if engine.enrolled else "not yet"),
            (
                "tunnel",
                f"up for {since(engine.connected_since)}, from {engine.address}" if engine.connected_since else "none",
            ),
            ("version", f"avinet {engine.version}, data plane {engine.dataplane}" if engine.version else ""),
            ("host", engine.hostname),
            ("configuration", _configuration(engine)),
            ("problem", engine.problem),
            ("refused", state.reason if state.refused else ""),
            ("reported", ago(engine.reported)),
            ("lost", f"{engine.lost_records} records of requests" if engine.lost_records else ""),
        ]
    )
    if engine.health:
        print()
        table(
            ["POOL", "SERVER", "STATE", "SINCE", "WHY"],
            [(each.pool, each.server, each.state, ago(each.since), each.why) for each in engine.health],
        )
    show_exports(engine.exports)
    if engine.traffic:
        print("\nthe last minute:")
        table(
            ["VIRTUAL SERVICE", "OPEN", "REQUESTS", "2XX", "4XX", "5XX", "UNSERVED", "P50", "P99"],
            [
                (
                    each.name,
                    each.connections,
                    each.requests,
                    each.status.get("2xx", 0),
                    each.status.get("4xx", 0),
                    each.status.get("5xx", 0),
                    each.unserved or "",
                    f"{each.latency.percentile_s(0.5) * 1000:.1f} ms",
                    f"{each.latency.percentile_s(0.99) * 1000:.1f} ms",
                )
                for each in engine.traffic
            ],
        )


@se.command()
@click.argument("ids", nargs=-1)
@click.option("--count", default=1, show_default=True, help="How many, where no ids are given.")
@click.option("--prefix", default="se", show_default=True, help="What their ids begin with.")
@click.option("--label", "labels", multiple=True, help="A label, as KEY=VALUE; repeat it for more.")
@click.option(
    "--driver", type=click.Choice(["local", "none"]), default="local", show_default=True, help="Who starts them."
)
@click.option("--image", help="The image to boot from (default: the newest that is active).")
@pass_context
def create(
    context: Context,
    ids: tuple[str, ...],
    count: int,
    prefix: str,
    labels: tuple[str, ...],
    driver: str,
    image: str | None,
) -> None:
    """Expect new service engines, and have the driver start them from the image.

    With the driver `none` their one-time claims are printed, once: hand them to the instances that you start.
    """
    order = EngineCreate(
        count=len(ids) or count,
        ids=list(ids),
        prefix=prefix,
        labels=labels_of(labels),
        driver="none" if driver == "none" else "local",
        image=image,
    )
    made = context.node.ask("POST", "/v1/service-engines", EnginesCreated, order, timeout_s=60 + 5 * order.count)
    if context.output != "table":
        emit(made, context.output)
    elif driver == "none":
        show_claims(made.items)
    else:
        print(f"created: {', '.join(each.id for each in made.items)}")


@se.command()
@click.argument("ids", nargs=-1, required=True)
@click.option(
    "--drain", type=click.IntRange(0, 3600), default=5, show_default=True, help="Seconds for their connections to end."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def delete(context: Context, ids: tuple[str, ...], drain: int, yes: bool) -> None:
    """Drain service engines, end their instances, and forget them."""
    places = {id: place(id) for id in ids}
    sure(f"Delete {', '.join(places)}?", "delete", yes)
    for id, target in places.items():
        context.node.request("DELETE", f"{target}?drain_s={drain}", timeout_s=drain + 60)
        if context.output == "table":
            print(f"deleted: {id}")


@se.command()
@click.argument("id")
@pass_context
def revoke(context: Context, id: str) -> None:
    """Let the key of a service engine open nothing any more, and end its tunnel."""
    engine = context.node.ask("POST", f"{place(id)}/revocation", Engine)
    if context.output == "table":
        print(f"revoked: {engine.id}, key {engine.fingerprint or 'none yet'}")
    else:
        emit(engine, context.output)


@se.command()
@click.argument("id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def reset(context: Context, id: str, yes: bool) -> None:
    """Expect a service engine anew: its key opens nothing any more, and a new instance may take its place.

    A driver makes the new instance. Without one the new claim is printed, once.
    """
    target = place(id)
    driver = context.node.ask("GET", target, Engine).driver if not yes else ""
    anew = "; its instance is ended at once, and made anew" if driver not in ("", "none") else ""
    sure(f"Reset {id}? Its key opens nothing any more, its tunnel ends{anew}.", "reset", yes)
    claimed = context.node.ask("POST", f"{target}/reset", Claimed, timeout_s=60)
    if context.output != "table":
        emit(claimed, context.output)
    elif claimed.claim:
        show_claims([claimed])
    else:
        print(f"reset: {claimed.id}, generation {claimed.generation}")


@se.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All of them: after the store was restored from a backup.")
@pass_context
def readmit(context: Context, ids: tuple[str, ...], all_: bool) -> None:
    """Take service engines as they come next, though the secret of their last hello is outdated.

    For those whose disk came back from a backup, or all of them when that of the node did. A copy would get in, too.
    """
    if bool(ids) is all_:
        raise click.UsageError("name service engines, or say --all")
    wanted = Readmission(ids=[parse_id(each) for each in ids], all=all_)
    done = context.node.ask("POST", "/v1/readmissions", Readmitted, wanted)
    if context.output == "table":
        print(f"readmitted: {done.count} service engines")
    else:
        emit(done, context.output)


@se.command()
@click.argument("id")
@pass_context
def rotate(context: Context, id: str) -> None:
    """Have a service engine make a new key, and come back with it; its traffic goes on."""
    engine = context.node.ask("POST", f"{place(id)}/key-rotation", Engine)
    if context.output == "table":
        print(f"rotated: {engine.id}, key {engine.fingerprint}")
    else:
        emit(engine, context.output)


@se.command()
@click.argument("id")
@click.argument("changes", nargs=-1, required=True)
@pass_context
def label(context: Context, id: str, changes: tuple[str, ...]) -> None:
    """Set labels (KEY=VALUE) and take labels away (KEY-)."""
    remove = [each[:-1] for each in changes if each.endswith("-") and "=" not in each]
    wanted = labels_of([each for each in changes if not (each.endswith("-") and "=" not in each)])
    engine = context.node.ask("PATCH", place(id), Engine, LabelChange(set=wanted, remove=remove))
    if context.output == "table":
        print(f"{engine.id}: {labels(engine.labels) or 'no labels'}")
    else:
        emit(engine, context.output)


@se.command("authorized-keys")
@pass_node
def authorized_keys(context: Context) -> None:
    """The keys of aviseuser, in OpenSSH's format."""
    write(context.node.request("GET", "/v1/authorized-keys").decode("utf-8", "backslashreplace"), sys.stdout)
