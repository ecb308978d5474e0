"""What became of the exports of a service engine, for `avictl se show`."""

from __future__ import annotations

from collections.abc import Sequence

from avinet.cli.shown import table
from avinet.units import format_bytes
from avinet.wire.report import ExportState


def show_exports(exports: Sequence[ExportState]) -> None:
    """A line for each, behind an empty one; nothing where there are none."""
    if exports:
        print()
        table(
            ["EXPORT", "KIND", "WHAT", "SENT", "WAITING", "LOST", "PROBLEM"],
            [
                (
                    each.name,
                    each.kind,
                    each.what,
                    each.sent,
                    format_bytes(each.waiting_bytes),
                    _lost(each),
                    each.problem,
                )
                for each in exports
            ],
        )


def _lost(export: ExportState) -> str:
    known = [f"{count} {reason}" for reason, count in export.lost.items() if count]
    return ", ".join([*known, *([f"{export.unknown} times an unknown number"] if export.unknown else [])]) or "-"
