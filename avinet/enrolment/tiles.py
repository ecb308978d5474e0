"""The hashes of the audit log's Merkle tree in the store, by tiles, and the proofs that are made of them.

`log/tile/LEVEL/INDEX` has up to 256 hashes of perfect subtrees beside one another, of 256 ** LEVEL leaves each; those
in between are hashed again when they are needed.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable, Mapping

from avinet.errors import Invalid, NotFound
from avinet.store.interface import Put, Store
from avinet.trust.merkle import EMPTY, HASH_BYTES, consistency, node

TILES = b"log/tile/"
_TILE = 256
_TILE_BITS = 8
_KEPT = 1024


def _tile_key(level: int, index: int) -> bytes:
    return TILES + b"%02d/%012d" % (level, index)


class NewTiles:
    """The tiles that a batch writes, and those that it read for that."""

    def __init__(self, tiles: Mapping[tuple[int, int], bytes]) -> None:
        self._tiles = dict(tiles)
        self.changed: set[tuple[int, int]] = set()

    def add(self, level: int, index: int, found: bytes) -> None:
        """A perfect subtree is complete; only every eighth level is kept."""
        if level % _TILE_BITS:
            return
        place = level // _TILE_BITS, index // _TILE
        before = self._tiles.get(place, b"") if index % _TILE else b""
        assert len(before) == index % _TILE * HASH_BYTES
        self._tiles[place] = before + found
        self.changed.add(place)

    def puts(self) -> list[Put]:
        """What is to be written."""
        return [Put(_tile_key(*place), self._tiles[place]) for place in sorted(self.changed)]


class Tiles:
    """The tiles in the store; those that are whole, and proofs that were made, are kept in memory, some of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._whole: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._proofs: OrderedDict[tuple[int, int], list[str]] = OrderedDict()

    async def at_edge(self, size: int) -> NewTiles:
        """What is to be added to: the tiles at the right edge of a tree of `size` leaves, which are not full."""
        places = []
        level = 0
        while size >> level * _TILE_BITS:
            places.append((level, (size >> level * _TILE_BITS) // _TILE))
            level += 1
        entries = (await self._store.read([_tile_key(*place) for place in places])).entries if places else {}
        found = {place: entries[_tile_key(*place)].value for place in places if _tile_key(*place) in entries}
        return NewTiles(found)

    async def proof(self, first: int, size: int) -> list[str]:
        """The proof that the log of `size` records begins with that of `first`, in base64. Raises `Invalid`."""
        if not 0 <= first <= size:
            raise Invalid(f"a log of {size} records does not begin with one of {first}")
        known = self._proofs.get((first, size))
        if known is None:
            tiles: dict[tuple[int, int], bytes] = {}
            nodes = await self._nodes_for(first, size, tiles)
            hashes = consistency(first, size, nodes) if first else []
            known = self._proofs[first, size] = [base64.b64encode(each).decode("ascii") for each in hashes]
            if len(self._proofs) > _KEPT:
                self._proofs.popitem(last=False)
        return known

    async def _nodes_for(
        self, first: int, size: int, tiles: dict[tuple[int, int], bytes]
    ) -> Callable[[int, int], bytes]:
        """A look-up of hashes for one proof: which ones it needs is found by asking for them, then they are read."""
        wanted: set[tuple[int, int]] = set()

        def note(level: int, index: int) -> bytes:
            wanted.add((level // _TILE_BITS, (index << level % _TILE_BITS) // _TILE))
            return EMPTY

        if first:
            consistency(first, size, note)
        for place in wanted:
            tiles[place] = await self._tile(*place)

        def found(level: int, index: int) -> bytes:
            tile = tiles[level // _TILE_BITS, (index << level % _TILE_BITS) // _TILE]
            at = (index << level % _TILE_BITS) % _TILE
            hashes = [
                tile[each * HASH_BYTES : (each + 1) * HASH_BYTES] for each in range(at, at + (1 << level % _TILE_BITS))
            ]
            while len(hashes) > 1:
                hashes = [node(hashes[each], hashes[each + 1]) for each in range(0, len(hashes), 2)]
            return hashes[0]

        return found

    async def _tile(self, level: int, index: int) -> bytes:
        whole = self._whole.get((level, index))
        if whole is not None:
            self._whole.move_to_end((level, index))
            return whole
        key = _tile_key(level, index)
        entry = (await self._store.read([key])).entries.get(key)
        if entry is None:
            raise NotFound(f"a tile of the audit log is missing: level {level}, index {index}")
        if len(entry.value) == _TILE * HASH_BYTES:  # it never changes any more
            self._whole[level, index] = entry.value
            if len(self._whole) > _KEPT:
                self._whole.popitem(last=False)
        return entry.value
