"""All documents of one moment, and which of them, in which version, a service engine runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from avinet.config.compile import Compiled, Target, applies, compiled
from avinet.config.rollout import RolloutRecord
from avinet.wire.config import ByEngine, Document, DocumentVersion

COMPILED_KEPT = 64
Pick = tuple[str, int]
"""A document in one of its versions."""


@dataclass(frozen=True)
class Rolling:
    """A document whose last version has not come everywhere; who has not its turn runs `former`, None for nothing."""

    record: RolloutRecord
    former: DocumentVersion | None


class Catalogue:
    """All documents as of one revision of the store, and what they make of each service engine.

    `versions` has the documents that were deleted too, so that their version numbers go on. `rolling` are those of
    which two versions are in use.
    """

    def __init__(
        self, revision: int, versions: Mapping[str, DocumentVersion], rolling: Mapping[str, Rolling] | None = None
    ) -> None:
        self.revision = revision
        self.versions = versions
        self.rolling = rolling or {}
        self.documents = {name: each.document for name, each in versions.items() if each.document is not None}
        self._in_use: dict[Pick, Document] = {}
        self._for_all: list[Pick] = []
        self._for_engine: dict[str, list[Pick]] = {}
        self._for_label: dict[tuple[str, str], list[Pick]] = {}
        for version in versions.values():
            self._use(version)
        for each in self.rolling.values():
            if each.former is not None:
                self._use(each.former)
        self._compiled: OrderedDict[tuple[Pick, ...], Compiled] = OrderedDict()

    def _use(self, version: DocumentVersion) -> None:
        document, pick = version.document, (version.name, version.version)
        if document is None:
            return
        self._in_use[pick] = document
        if isinstance(document.applies_to, ByEngine):
            self._for_engine.setdefault(document.applies_to.id, []).append(pick)
        elif document.applies_to.labels:
            self._for_label.setdefault(min(document.applies_to.labels.items()), []).append(pick)
        else:
            self._for_all.append(pick)

    def with_version(self, version: DocumentVersion, rolling: Rolling | None = None) -> Catalogue:
        """The catalogue after one more change, at once or `rolling`; its revision is known when that is written."""
        return Catalogue(self.revision, {**self.versions, version.name: version}, self._rolling(version.name, rolling))

    def with_rolling(self, name: str, rolling: Rolling | None) -> Catalogue:
        """The catalogue when the last version of document `name` has come as far as `rolling`, None for everywhere."""
        return Catalogue(self.revision, self.versions, self._rolling(name, rolling))

    def _rolling(self, name: str, rolling: Rolling | None) -> dict[str, Rolling]:
        others = {each: found for each, found in self.rolling.items() if each != name}
        return others if rolling is None else {**others, name: rolling}

    def in_use(self) -> Iterable[Document]:
        """All documents, in each version that is in use."""
        return self._in_use.values()

    def naming(self, certificate: str) -> list[str]:
        """The documents that name a certificate, in a version that is in use, sorted."""
        return [name for name, _ in self.serving(certificate)]

    def serving(self, certificate: str) -> list[tuple[str, list[str]]]:
        """The same, each with those of its virtual services that serve it."""
        found: dict[str, set[str]] = {}
        for (name, _), document in self._in_use.items():
            for each in document.virtual_services:
                if each.tls is not None and certificate in each.tls.certificates:
                    found.setdefault(name, set()).add(each.name)
        return [(name, sorted(services)) for name, services in sorted(found.items())]

    def selecting(self, target: Target) -> tuple[Pick, ...]:
        """The documents that select `target`, sorted, in each version that is in use."""
        picks = [*self._for_all, *self._for_engine.get(target.id, ())]
        for label in target.labels.items():
            picks += [each for each in self._for_label.get(label, ()) if applies(self._in_use[each], target)]
        return tuple(sorted(picks))

    def chosen(self, selecting: tuple[Pick, ...], turns: Collection[str]) -> tuple[Pick, ...]:
        """Of these one version of each document: the last of those in `turns`, the former of others that roll."""
        if not self.rolling:
            return selecting
        return tuple(
            pick
            for pick in selecting
            if pick[0] not in self.rolling or (pick[1] == self.versions[pick[0]].version) == (pick[0] in turns)
        )

    def turns(self, selecting: tuple[Pick, ...], id: str) -> frozenset[str]:
        """Of the documents that roll and select a service engine, those of which it has the last version."""
        if not self.rolling:
            return frozenset()
        return frozenset(name for name, _ in selecting if name in self.rolling and self.rolling[name].record.turn(id))

    def applying(self, target: Target) -> tuple[Pick, ...]:
        """The documents that apply to `target`, sorted: equal ones make equal configurations."""
        selecting = self.selecting(target)
        return self.chosen(selecting, self.turns(selecting, target.id))

    def compiled(self, picks: tuple[Pick, ...]) -> Compiled:
        """What these documents make together. Raises `Invalid`."""
        found = self._compiled.get(picks)
        if found is None:
            found = self._compiled[picks] = compiled([self._in_use[pick] for pick in picks])
            if len(self._compiled) > COMPILED_KEPT:
                self._compiled.popitem(last=False)
        return found

    def smallest_targets(self, labels_of: Mapping[str, Mapping[str, str]]) -> Iterator[Target]:
        """For each document the service engine with the fewest labels that it applies to, whether it exists or not.

        `labels_of` has the labels of those that are selected by id and exist.
        """
        for document in self._in_use.values():
            if isinstance(document.applies_to, ByEngine):
                id = document.applies_to.id
                yield Target(id, labels_of.get(id, {}))
            else:
                yield Target("", document.applies_to.labels)
