"""What conversations did last: where the next prompt leaves the one before, and what it drops."""

from bisect import bisect_right
from collections import OrderedDict

from opta_lmx.engine.prefix.plan import Divergence
from opta_lmx.engine.prefix.tree import Node, Path, below, release

_SAME_SHARE = 0.2
"""The part of an unnamed conversation's turns that its next prompt has, at least."""
_TAIL_SHARE = 0.25
"""The part of a prompt that a volatile last message is, at most."""
_ALIKE = 32
"""Volatile messages whose lengths differ by no more tokens are of one kind."""


class Session:
    """One conversation's last prompt. `tail` is the length of what it ends with but drops.

    `tail` is None until a second prompt has shown it; 0 when prompts are only added to.
    """

    __slots__ = ("cuts", "key", "node", "tail")

    def __init__(self, key: tuple[str, str], node: Node, cuts: tuple[int, ...]) -> None:
        self.key = key
        self.node = node
        self.cuts = cuts
        self.tail: int | None = None


class Sessions:
    """The conversations heard of last, at most `limit`. Named by callers, else recognised."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._tails: dict[str, int] = {}
        self._unnamed = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, salt: str, name: str | None, path: Path) -> Session | None:
        """The conversation that a prompt with this path continues."""
        if name is not None:
            return self._known.get((salt, f"={name}"))
        for node in below(path.nodes[-1]):
            for mark in node.marks:
                if isinstance(mark, Session) and _continues(mark, path.tokens):
                    return mark
        return None

    def tail(self, session: Session | None, salt: str) -> int | None:
        """What the conversation is known, or others of the tenant let expect, to drop."""
        if session is not None and session.tail is not None:
            return session.tail
        return self._tails.get(salt)

    def learn(
        self, salt: str, name: str | None, path: Path, node: Node, cuts: tuple[int, ...]
    ) -> None:
        """Note that the prompt that ends at `node` is the conversation's last one now.

        `path` is the way it went before `node` was made for it.
        """
        session = self.find(salt, name, path)
        if session is None:
            if name is None:
                self._unnamed += 1
            key = (salt, f"={name}" if name is not None else f"#{self._unnamed}")
            session = self._known[key] = Session(key, node, cuts)
            node.marks.add(session)
            self._forget_oldest()
            return
        self._compare(session, salt, path.shared_with(session.node), node.depth)
        self._known.move_to_end(session.key)
        former, session.node, session.cuts = session.node, node, cuts
        former.marks.discard(session)
        node.marks.add(session)
        if former is not node:
            release(former)

    def _compare(self, session: Session, salt: str, shared: int, length: int) -> None:
        last = session.node.depth
        if shared == last == length or last - shared > _TAIL_SHARE * last:
            return
        session.tail = self._tails[salt] = _expected(session.tail, last - shared)

    def _forget_oldest(self) -> None:
        while len(self._known) > self._limit:
            _, session = self._known.popitem(last=False)
            session.node.marks.discard(session)
            release(session.node)


def _expected(before: int | None, seen: int) -> int:
    """The next tail's length: of several alike nearly the longest, for what is short serves all.

    A checkpoint one token inside the tail is of no use, one that lies some tokens before it is.
    """
    if before is None or not seen or not 0 < before - seen <= _ALIKE:
        return seen
    return before - max(1, (before - seen) // 8)


def divergence(session: Session | None, path: Path) -> Divergence | None:
    """Where a prompt leaves the conversation's last one; None when it only adds to it."""
    if session is None:
        return None
    shared, last = path.shared_with(session.node), session.node.depth
    if shared >= last:
        return None
    return Divergence(shared, last, bisect_right(session.cuts, shared), len(session.cuts))


def _continues(session: Session, shared: int) -> bool:
    """True when a prompt that shares so much is taken for the conversation's next one.

    Shared instructions are not enough: the two must agree in what was said.
    """
    first = session.cuts[0] if session.cuts else 0
    return shared - first > _SAME_SHARE * (session.node.depth - first)
