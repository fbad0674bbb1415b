"""One slot of llama.cpp: what it holds, whose that is, and what runs there."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from opta_lmx.backends.frames import Submit

Tokens = tuple[int, ...]


class Held(NamedTuple):
    """What an idle slot holds: the tokens, in order, whose (`tenant_of`), and by which adapter."""

    tokens: Tokens
    tenant: str
    adapter: str = ""


class Slot:
    """A slot, or what was put aside of one: then `number` is that it is put aside under."""

    def __init__(self, number: int, holds: Held | None = None, used_at: int = 0) -> None:
        self.number = number
        self.hold(holds or Held((), ""))
        self.cells = 0
        self.used_at = used_at
        self.paused = False
        self.left = 0
        """Tokens of its request's prompt that are still to be processed."""
        self.prompt: Tokens = ()
        self.launched = False
        """llama.cpp was told of its request."""
        self.led = False
        """Its request was interrupted once: it is not again."""
        self.common = False
        """It was put aside for whoever shares it."""
        self.sure = True
        """What it holds is its tenant's, whatever becomes of its request."""

    @property
    def holds(self) -> Held:
        """What it holds."""
        return Held(self.held, self.tenant, self.adapter)

    def hold(self, holds: Held) -> None:
        """From now on it holds this."""
        self.held, self.tenant, self.adapter = holds

    def shared(self, tokens: Tokens, tenant: str) -> int:
        """How many of a tenant's tokens it holds, from their start on."""
        return common(self.held, tokens) if self.tenant == tenant else 0


@lru_cache(maxsize=1024)
def tenant_of(salt: str, adapter: str = "") -> str:
    """Whose tokens they are, and of which adapter, in a form that may be written down."""
    name = adapter.encode()
    return hashlib.blake2b(salt.encode(), digest_size=16, key=_key(name)).hexdigest()


def _key(name: bytes) -> bytes:
    """A key that no other name has; none for none."""
    return hashlib.blake2b(name).digest() if name else b""


def submitted(request: Submit) -> Tokens:
    """What is processed before the next token: the prompt, and the answer so far."""
    return (*request.ids, *request.generated)


def held_after(request: Submit, done: int, answer: Iterable[int], keep: int | None) -> Tokens:
    """What a slot holds when its request has ended.

    Args:
        request: the request.
        done: how many of the submitted tokens were processed.
        answer: tokens generated after those.
        keep: how many tokens of the whole answer are wanted in a cache; None for all.
    """
    tokens = submitted(request)
    # The last token of an answer was drawn, but not processed.
    tokens = tokens[:done] if done < len(tokens) else (*tokens, *tuple(answer)[:-1])
    return tokens if keep is None else tokens[: len(request.ids) + keep]


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two prompts share at their start, found by halving: slices compare fast."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
