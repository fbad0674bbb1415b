"""A radix tree over token ids: where prompts share their beginning, exact to the token.

Ids are packed four bytes each, so that runs are compared by the machine and nothing is done token
by token. Branches with nothing stored on them are cut off.
"""

import sys
from array import array
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from opta_lmx.engine.prefix.entries import Entry

WIDTH = 4
"""Bytes of a packed id."""
_TYPE = "I" if array("I").itemsize == WIDTH else "L"


def pack(ids: Sequence[int]) -> bytes:
    """Token ids as bytes, each an unsigned little-endian 32-bit integer.

    Raises:
        OverflowError: an id is negative or does not fit.
    """
    packed = array(_TYPE, ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def common(one: bytes, other: bytes) -> int:
    """How many tokens two packed runs share at their beginning."""
    low, high = 0, min(len(one), len(other)) // WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        span = slice(low * WIDTH, middle * WIDTH)
        if one[span] == other[span]:
            low = middle
        else:
            high = middle - 1
    return low


class Heat:
    """A count of uses in which each use halves after a while."""

    __slots__ = ("_stamp", "_value")

    def __init__(self, now: float, value: float = 1.0) -> None:
        self._value = value
        self._stamp = now

    def at(self, now: float, half_life_s: float) -> float:
        """The count at time `now`."""
        return self._value * 0.5 ** (max(0.0, now - self._stamp) / half_life_s)

    def add(self, now: float, half_life_s: float) -> None:
        """Count one more use."""
        self._value = self.at(now, half_life_s) + 1.0
        self._stamp = now

    def copy(self) -> "Heat":
        """An independent copy."""
        return Heat(self._stamp, self._value)


class Node:
    """The end of a run of tokens that nothing branches off from.

    `depth` is the length of the prefix that ends here; `entry` the state stored for exactly that
    prefix; `marks` are other reasons to remember it; `heat` counts requests that came through.
    """

    __slots__ = ("children", "depth", "entry", "heat", "label", "marks", "parent")

    def __init__(self, label: bytes, depth: int, parent: "Node | None", heat: Heat) -> None:
        self.label = label
        self.depth = depth
        self.parent = parent
        self.heat = heat
        self.children: dict[bytes, Node] = {}
        self.entry: Entry | None = None
        self.marks: set[Hashable] = set()


class Path(msgspec.Struct, frozen=True):
    """The way of a prompt down the tree: the last node may be shared only in part.

    `tokens` is the prompt's longest prefix that is in the tree.
    """

    nodes: tuple[Node, ...]
    tokens: int

    def shared_with(self, node: Node) -> int:
        """How many tokens the prompt shares with the prefix that ends at `node`."""
        mine = set(self.nodes)
        at: Node | None = node
        while at is not None and at not in mine:
            at = at.parent
        return 0 if at is None else min(at.depth, self.tokens)


def new_root(now: float) -> Node:
    """An empty tree."""
    return Node(b"", 0, None, Heat(now))


def walk(root: Node, data: bytes) -> Path:
    """Follow packed ids as far as the tree knows them."""
    nodes, at, node = [root], 0, root
    while at < len(data):
        child = node.children.get(data[at : at + WIDTH])
        if child is None:
            break
        nodes.append(child)
        rest = data[at : at + len(child.label)]
        if rest != child.label:
            at += common(child.label, rest) * WIDTH
            break
        at += len(rest)
        node = child
    return Path(tuple(nodes), at // WIDTH)


def insert(root: Node, data: bytes, now: float) -> Node:
    """The node at the end of `data`, made where it is missing."""
    path = walk(root, data)
    last = path.nodes[-1]
    if path.tokens < last.depth:
        last = _split(last, path.tokens)
    if path.tokens * WIDTH == len(data):
        return last
    label = data[path.tokens * WIDTH :]
    leaf = Node(label, len(data) // WIDTH, last, Heat(now))
    last.children[label[:WIDTH]] = leaf
    return leaf


def _split(node: Node, depth: int) -> Node:
    """Put a node at `depth` into the run that ends at `node`, which stays what it is."""
    parent = node.parent
    assert parent is not None, "the root has no run"
    cut = (depth - parent.depth) * WIDTH
    upper = Node(node.label[:cut], depth, parent, node.heat.copy())
    parent.children[node.label[:WIDTH]] = upper
    node.label = node.label[cut:]
    node.parent = upper
    upper.children[node.label[:WIDTH]] = node
    return upper


def release(node: Node) -> None:
    """Cut off what nothing needs any more, from `node` upwards; it may be cut off already."""
    while (parent := node.parent) is not None:
        if node.entry is not None or node.marks or len(node.children) > 1:
            return
        if node.children:
            _join(node, parent)
            return
        del parent.children[node.label[:WIDTH]]
        node.parent = None
        node = parent


def _join(node: Node, parent: Node) -> None:
    """Take out a node with one way on; the node below it stays what it is."""
    (child,) = node.children.values()
    child.label = node.label + child.label
    child.parent = parent
    parent.children[child.label[:WIDTH]] = child
    node.parent = None


def prefix_of(node: Node) -> bytes:
    """The packed ids that end at `node`."""
    parts: list[bytes] = []
    at: Node | None = node
    while at is not None:
        parts.append(at.label)
        at = at.parent
    return b"".join(reversed(parts))


def below(node: Node, but: Node | None = None) -> Iterator[Node]:
    """`node` and everything under it but for a branch; nearer ones of a branch first."""
    pending = [node]
    while pending:
        at = pending.pop()
        yield at
        pending.extend(child for child in at.children.values() if child is not but)


class Forest:
    """One tree for each salt: what has different salts shares nothing."""

    def __init__(self) -> None:
        self._roots: dict[str, Node] = {}

    def walk(self, data: bytes, salt: str) -> Path:
        """Follow packed ids as far as they are known under this salt."""
        root = self._roots.get(salt)
        return walk(new_root(0.0) if root is None else root, data)

    def insert(self, data: bytes, salt: str, now: float) -> Node:
        """The node at the end of `data`, made where it is missing."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = new_root(now)
        return insert(root, data, now)
