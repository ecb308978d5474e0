"""The Merkle trees of RFC 9162 §2.1: roots, and proofs that a log only grew, over hashes that lie somewhere else.

A tree of any size is put together from perfect subtrees: `Nodes` gives the hash of the one whose `2 ** level` leaves
begin at `index * 2 ** level`. All such subtrees below the size of a tree are asked for, and no others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

HASH_BYTES = 32
EMPTY = hashlib.sha256().digest()
"""The root of a tree without leaves."""

Nodes = Callable[[int, int], bytes]


def leaf(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\0" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash of what is above two subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


def perfect(first: int, end: int) -> Iterator[tuple[int, int]]:
    """Level and index of the perfect subtrees, from the left, of which the tree over leaves `first` to `end` consists.

    `first` is a multiple of each power of two below `end - first`, as it is for every subtree of a tree.
    """
    while first < end:
        level = (end - first).bit_length() - 1
        yield level, first >> level
        first += 1 << level


def root(size: int, nodes: Nodes, first: int = 0) -> bytes:
    """The root of the tree of `size` leaves; with `first`, of its subtree over the leaves from there on."""
    found = EMPTY
    for number, (level, index) in enumerate(reversed(list(perfect(first, size)))):
        found = node(nodes(level, index), found) if number else nodes(level, index)
    return found


def consistency(old: int, size: int, nodes: Nodes) -> list[bytes]:
    """The proof that the tree of `size` leaves begins with that of `old`, 0 < `old` <= `size` (RFC 9162 §2.1.4.1)."""

    def subproof(first: int, end: int, known: bool) -> list[bytes]:
        """Of the tree over the leaves from `first` to `end`; `known`: `old` began with the whole of it."""
        if old == end:
            return [] if known else [root(end, nodes, first)]
        middle = first + (1 << ((end - first - 1).bit_length() - 1))
        if old <= middle:
            return [*subproof(first, middle, known), root(end, nodes, middle)]
        return [*subproof(middle, end, False), root(middle, nodes, first)]

    if not 0 < old <= size:
        raise ValueError(f"a tree of {size} leaves does not begin with one of {old}")
    return subproof(0, size, True)


def is_consistent(old: int, size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `size` leaves begins with the one of `old` (RFC 9162 §2.1.4.2)."""
    if old == size or not old:
        return 0 <= old <= size and not proof and (old_root == new_root if old else old_root == EMPTY)
    if not 0 < old < size:
        return False
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    first, second = old - 1, size - 1
    while first & 1:
        first, second = first >> 1, second >> 1
    of_old = of_new = path[0]
    for each in path[1:]:
        if not second:
            return False
        if first & 1 or first == second:
            of_old, of_new = node(each, of_old), node(each, of_new)
            while first and not first & 1:
                first, second = first >> 1, second >> 1
        else:
            of_new = node(of_new, each)
        first, second = first >> 1, second >> 1
    return not second and of_old == old_root and of_new == new_root


class Frontier:
    """The right edge of a growing tree: all that is needed to add leaves, a hash for each perfect subtree."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size.bit_count() != len(hashes):
            raise ValueError(f"a tree of {size} leaves consists of {size.bit_count()} perfect ones, not {len(hashes)}")
        self.size = size
        self.hashes = list(hashes)

    def add(self, hashed: bytes) -> list[tuple[int, int, bytes]]:
        """Add the hash of a leaf; returns level, index and hash of each perfect subtree that is complete by it."""
        found, level, index = [(0, self.size, hashed)], 0, self.size
        while index & 1:
            hashed = node(self.hashes.pop(), hashed)
            level, index = level + 1, index >> 1
            found.append((level, index, hashed))
        self.hashes.append(hashed)
        self.size += 1
        return found

    def root(self) -> bytes:
        """The root."""
        found = EMPTY
        for number, each in enumerate(reversed(self.hashes)):
            found = node(each, found) if number else each
        return found
