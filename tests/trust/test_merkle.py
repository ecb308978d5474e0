"""The trees of RFC 9162 §2.1, against its definitions written down once more, and vectors that everybody has."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.trust.merkle import EMPTY, Frontier, consistency, is_consistent, leaf, node, root

LEAVES = [
    bytes.fromhex(each)
    for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Those of the first implementation of Certificate Transparency, for its first one to eight leaves."""


def defined(leaves: Sequence[bytes]) -> bytes:
    """MTH of §2.1.1."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaf(leaves[0])
    middle = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node(defined(leaves[:middle]), defined(leaves[middle:]))


class Tree:
    """A tree with all hashes of its perfect subtrees."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.frontier = Frontier()
        self.hashes: dict[tuple[int, int], bytes] = {}
        for each in leaves:
            for level, index, found in self.frontier.add(leaf(each)):
                self.hashes[level, index] = found

    def nodes(self, level: int, index: int) -> bytes:
        return self.hashes[level, index]


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


class MerkleTests(SynchronousTestCase):
    def test_roots_that_everybody_has(self) -> None:
        for size, wanted in enumerate(ROOTS, 1):
            tree = Tree(LEAVES[:size])
            self.assertEqual(tree.frontier.root().hex(), wanted)
            self.assertEqual(root(size, tree.nodes).hex(), wanted)

    def test_a_tree_without_leaves(self) -> None:
        self.assertEqual((Frontier().root(), root(0, Tree([]).nodes)), (EMPTY, EMPTY))
        self.assertTrue(is_consistent(0, 0, EMPTY, EMPTY, []))
        self.assertTrue(is_consistent(0, 3, EMPTY, defined(numbered(3)), []))
        self.assertFalse(is_consistent(0, 3, leaf(b""), defined(numbered(3)), []))

    def test_every_root_is_that_of_the_definition(self) -> None:
        leaves = numbered(70)
        tree = Tree(leaves)
        for size in range(71):
            self.assertEqual(root(size, tree.nodes), defined(leaves[:size]))

    def test_every_tree_is_consistent_with_every_one_before(self) -> None:
        leaves = numbered(40)
        tree = Tree(leaves)
        roots = [defined(leaves[:size]) for size in range(41)]
        for size in range(1, 41):
            for old in range(1, size + 1):
                proof = consistency(old, size, tree.nodes)
                self.assertTrue(is_consistent(old, size, roots[old], roots[size], proof), (old, size))
                self.assertLessEqual(len(proof), size.bit_length() + 1)

    @given(st.integers(2, 300), st.data())
    def test_a_past_that_was_rewritten_has_no_proof(self, size: int, data: st.DataObject) -> None:
        old = data.draw(st.integers(1, size - 1))
        changed = data.draw(st.integers(0, old - 1))
        leaves = numbered(size)
        before = Tree(leaves[:old]).frontier.root()
        leaves[changed] = b"something else"
        tree = Tree(leaves)
        proof = consistency(old, size, tree.nodes)
        self.assertFalse(is_consistent(old, size, before, tree.frontier.root(), proof))

    @given(st.integers(1, 64), st.integers(0, 64), st.lists(st.binary(min_size=32, max_size=32), max_size=8))
    def test_made_up_proofs_prove_nothing(self, size: int, old: int, proof: list[bytes]) -> None:
        leaves = numbered(64)
        tree = Tree(leaves[:size])
        before = b"\x07" * 32
        self.assertFalse(is_consistent(old, size, before, tree.frontier.root(), proof))

    @given(st.integers(2, 64), st.data())
    def test_a_proof_that_was_changed_proves_nothing(self, size: int, data: st.DataObject) -> None:
        old = data.draw(st.integers(1, size - 1))
        leaves = numbered(size)
        tree, before = Tree(leaves), defined(leaves[:old])
        proof = consistency(old, size, tree.nodes)
        kind = data.draw(st.sampled_from(["cut", "longer", "changed", "turned"]))
        at = data.draw(st.integers(0, len(proof) - 1))
        if kind == "cut":
            proof = proof[:at] + proof[at + 1 :]
        elif kind == "longer":
            proof = [*proof, bytes(32)]
        elif kind == "changed":
            proof = [*proof[:at], bytes(32), *proof[at + 1 :]]
        else:
            turned = proof[::-1]
            if turned == proof:
                return
            proof = turned
        self.assertFalse(is_consistent(old, size, before, tree.frontier.root(), proof))

    def test_a_tree_does_not_begin_with_a_larger_one(self) -> None:
        tree = Tree(numbered(4))
        for old in (0, 5):
            self.assertRaises(ValueError, consistency, old, 4, tree.nodes)
        for old in (-1, 5):
            self.assertFalse(is_consistent(old, 4, bytes(32), tree.frontier.root(), [bytes(32)]))

    def test_a_frontier_goes_on_where_it_was_left(self) -> None:
        leaves = numbered(100)
        for stop in range(100):
            first = Tree(leaves[:stop]).frontier
            again = Frontier(first.size, first.hashes)
            for each in leaves[stop:]:
                again.add(leaf(each))
            self.assertEqual(again.root(), defined(leaves))
        self.assertRaises(ValueError, Frontier, 3, [bytes(32)])
