"""Texts and pairs to tokens by llama.cpp's own tokenizer, cut where the request asks for it."""

from collections.abc import Callable
from typing import Any

from opta_lmx.backends.embedding.encoder import Encoded, Input, InputError, Pair
from opta_lmx.backends.embedding.slices import slices
from opta_lmx.backends.gguf.completion import EngineAnswerError

Call = Callable[[str, Any], Any]
"""Asks llama.cpp: endpoint and JSON in, JSON out. Raises EngineAnswerError."""


class LlamaTokens:
    """Reads inputs; what surrounds a text (special tokens) is learned from a short one.

    Args:
        call: asks the server.
        window: tokens one input may have.
        vocabulary: ids are below this; 0 when unknown.
        around_pair: tokens a pair has beside its two texts' own.
    """

    def __init__(self, call: Call, *, window: int, vocabulary: int, around_pair: int) -> None:
        self._call = call
        self._window = window
        self._vocabulary = vocabulary
        self._around_pair = around_pair
        self._before, self._after = self._surroundings()
        self._query = ("", 0)

    def read(self, value: Input, cut_to: int | None) -> Encoded:
        """Tokenize one input, cutting it as `frames.Embed` says. Raises InputError."""
        if isinstance(value, Pair):
            return self._pair(value, cut_to)
        exact = True
        if isinstance(value, tuple):
            ids = list(value)
            if any(not 0 <= token < (self._vocabulary or token + 1) for token in ids):
                raise InputError(f"token ids of this model are 0 to {self._vocabulary - 1}")
            if cut_to is not None:
                ids = ids[: min(cut_to, self._window)]
        else:
            ids, exact = self._read(value)
            if cut_to is not None:
                around = len(self._before) + len(self._after)
                ids = ids[: max(1, min(cut_to, self._window) - around)]
            ids = [*self._before, *ids, *self._after]
        if not ids:
            raise InputError("it is empty")
        return Encoded(len(ids), tuple(ids), exact=exact)

    def _pair(self, pair: Pair, cut_to: int | None) -> Encoded:
        query = self._query_tokens(pair.query)
        document, exact = self._read(pair.document)
        if cut_to is not None:
            room = max(0, min(cut_to, self._window - self._around_pair - query))
            if len(document) > room:
                text, document = self._shortened(document, room)
                pair = Pair(pair.query, text)
        tokens = self._around_pair + query + len(document)
        return Encoded(tokens, second=query, pair=pair, exact=exact)

    def _query_tokens(self, query: str) -> int:
        """Counted once for the many documents that follow each other with one query."""
        if self._query[0] != query or not self._query[1]:
            self._query = (query, len(self._read(query)[0]))
        return self._query[1]

    def _shortened(self, ids: list[int], room: int) -> tuple[str, list[int]]:
        """The text of at most `room` tokens; cut texts can come back as other tokens."""
        keep = room
        while keep > 0:
            text = str(self._call("/detokenize", {"tokens": ids[:keep]})["content"]).strip()
            again = self._tokenize(text)
            if len(again) <= room:
                return text, again
            keep -= max(1, len(again) - room)
        return "", []

    def _surroundings(self) -> tuple[list[int], list[int]]:
        bare = self._tokenize("a")
        whole = self._tokenize("a", special=True)
        for place in range(len(whole) - len(bare) + 1):
            if whole[place : place + len(bare)] == bare:
                return whole[:place], whole[place + len(bare) :]
        return [], []

    def _read(self, text: str) -> tuple[list[int], bool]:
        """The tokens of a text, and whether it was read to its end."""
        ids: list[int] = []
        for piece in slices(text):
            if len(ids) > self._window:
                return ids, False
            ids += self._tokenize(piece)
        return ids, True

    def _tokenize(self, text: str, *, special: bool = False) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": True}
        try:
            return list(self._call("/tokenize", body)["tokens"])
        except EngineAnswerError as error:
            raise InputError(str(error)) from error
