"""What an adapter must offer to make vectors or scores: see `Encoder`."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from opta_lmx.backends.frames import Load, Ready
from opta_lmx.backends.protocol import Emit


class Pair(msgspec.Struct, frozen=True):
    """What a `rerank` model scores: how well the document answers the query."""

    query: str
    document: str


Input = str | Pair | tuple[int, ...]


class InputError(Exception):
    """An input cannot be encoded; the message is shown to the caller."""


class EncodeError(Exception):
    """The engine failed on this batch, but lives; the message is shown to the caller."""


class Encoded(msgspec.Struct, frozen=True):
    """An input ready for the engine, `tokens` long, or longer where that is not `exact`.

    `ids` are its tokens, special ones included; `second` is the place where the document of a
    pair begins, 0 without one. `pair` stands in for `ids` where the engine tokenizes itself.
    """

    tokens: int
    ids: tuple[int, ...] = ()
    second: int = 0
    pair: Pair | None = None
    exact: bool = True


class Encoder(Protocol):
    """One loaded model that makes a vector, or a score, of an input.

    Every method is called on the worker's main thread only.
    """

    def read(self, value: Input, cut_to: int | None) -> Encoded:
        """Tokenize one input, cutting it where `cut_to` is given (see `frames.Embed`).

        It is a `Pair` for a `rerank` model, and only for one.
        The result may be longer than the window; the caller checks. A text is not read to its
        end once it is beyond that.

        Raises:
            InputError: it cannot be an input of this model.
        """
        ...

    def encode(self, batch: Sequence[Encoded]) -> list[bytes]:
        """Return, for each input, little-endian 32-bit floats: the vector, or one score.

        Raises:
            EncodeError: the engine refused the batch.
        """
        ...


OpenEncoder = Callable[[Load, Emit], tuple[Encoder, Ready]]
"""Loads the model of a `Load`. Raises LoadError."""
