"""One gibibyte through one forwarded channel, `-L` and `-R`, in both directions; and what it costs of CPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from bench.carriers import DEFAULT, GCM, Carrier, Stage, stage
from bench.measure import Case, Effort, Say, at_least, at_most, case

GIB = 1 << 30
WAYS = ("-L, to the server", "-L, to the client", "-R, to the client", "-R, to the server")


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """Ours against OpenSSH and a plain relay; or with OpenSSH's client, against OpenSSH on both ends."""
    size = effort.choose(GIB // 4, GIB, GIB)
    runs = effort.choose(2, 5, 9)
    yield from (stock_client if effort.stock_client else both_ends)(size, runs, say)


def both_ends(size: int, runs: int, say: Say) -> Iterator[Case]:
    """Both ends ours."""

    def carriers(on: Stage) -> list[Carrier]:
        return [on.ours(), on.openssh(DEFAULT), on.openssh(GCM, "-c", GCM), on.plain()]

    (ours, default, gcm, plain), speed, cost = measured(carriers, size, runs, say)
    for way in WAYS:
        for peer, must in ((default, 2.3), (gcm, 1.5), (plain, 0.95)):
            yield case(
                "throughput",
                f"{way}",
                "MB/s",
                speed[ours, way],
                must=f"≥ {must:g} ×",
                met=at_least(must),
                better="higher",
                peer=(peer, speed[peer, way]),
            )
        for peer, must in ((default, 0.4), (gcm, 0.65)):
            yield case(
                "throughput",
                f"{way}, CPU of both ends",
                "s/GiB",
                cost[ours, way],
                must=f"≤ {must:g} ×",
                met=at_most(must),
                peer=(peer, cost[peer, way]),
            )


def stock_client(size: int, runs: int, say: Say) -> Iterator[Case]:
    """Our server, OpenSSH's client."""

    def carriers(on: Stage) -> list[Carrier]:
        return [on.stock_client(), on.openssh(GCM, "-c", GCM)]

    (ours, gcm), speed, _ = measured(carriers, size, runs, say)
    for way in WAYS:
        yield case(
            "throughput --stock-client",
            way,
            "MB/s",
            speed[ours, way],
            must="≥ 1.1 ×",
            met=at_least(1.1),
            better="higher",
            peer=(f"OpenSSH both ends, {gcm}", speed[gcm, way]),
        )


Values = dict[tuple[str, str], list[float]]


def measured(
    make: Callable[[Stage], list[Carrier]], size: int, runs: int, say: Say
) -> tuple[list[str], Values, Values]:
    """The names of the carriers; and of each carrier and way its MB/s, and its CPU seconds per GiB.

    The carriers take turns. Each run has processes of its own, as where one lies in memory makes up to a tenth of its
    speed for as long as it lives; what goes through them first is not counted.
    """
    speed: Values = defaultdict(list)
    cost: Values = defaultdict(list)
    names: list[str] = []
    for number in range(runs):
        say(f"run {number + 1} of {runs}")
        with stage({"sink": ("sink",), "serve": ("serve", str(size))}) as on:
            carriers = make(on)
            names = [carrier.name for carrier in carriers]
            for counted in (False, True):
                for way in WAYS:
                    for carrier in carriers:
                        before = carrier.cpu_s()
                        seconds = moved(on, carrier, way, size)
                        if counted:
                            speed[carrier.name, way].append(size / 1e6 / seconds)
                            cost[carrier.name, way].append((carrier.cpu_s() - before) / size * GIB)
    return names, speed, cost


def moved(on: Stage, carrier: Carrier, way: str, size: int) -> float:
    """The seconds that it took to move `size` bytes; the bytes are counted at the other end."""
    doors = carrier.near if way.startswith("-L") else carrier.far
    pushed = way in ("-L, to the server", "-R, to the client")
    arguments = ("push", str(doors["sink"]), str(size)) if pushed else ("pull", str(doors["serve"]), "0")
    seconds, count = on.run(*arguments)[0].split()
    assert int(count) == size, f"{count} bytes of {size} came through {carrier.name}"
    return float(seconds)
